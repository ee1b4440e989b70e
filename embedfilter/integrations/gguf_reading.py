"""transformers opens a GGUF file in seconds: what it asks the gguf package for is answered once.

For one model transformers parses the file three or four times, each time every token of the
vocabulary into objects of its own, makes the map of tensors' names anew for each module, and
decodes the weights with NumPy. All of these are functions of the file alone. While a file is opened
their results are kept, and the weights are decoded by the C core, to the bit as gguf does. What
transformers does with the answers is left to it; of a name that is not there any more, or a file
that is not read as expected, gguf's own way is taken, right and slow.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from embedfilter.checkpoints.encodings import BLOCKS, decode

__all__ = ["parsed_once"]

_ARRAY, _STRING = 9, 8  # types of metadata
_LENGTH = struct.Struct("=Q")

_opening = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_opening._at_fork_reinit)  # type: ignore[attr-defined]


@contextlib.contextmanager
def parsed_once() -> Iterator[None]:
    """Let transformers open one GGUF file faster, while this lasts; one thread at a time.

    What is replaced is so for all threads: meanwhile `gguf.GGUFReader` is a function.
    """
    by_transformers = None
    with contextlib.suppress(ImportError):  # a later version reads files without it
        by_transformers = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    makers: tuple[tuple[Any, str, Callable[[Any], Any]], ...] = (
        (gguf, "GGUFReader", _kept_reader),
        (gguf, "get_tensor_name_map", functools.cache),
        (gguf, "dequantize", _dequantize_by_core),
        (by_transformers, "_gguf_parse_value", _kept_values),
    )
    with _opening, contextlib.ExitStack() as stack:
        for module, name, maker in makers:
            plain = getattr(module, name, None)
            if plain is not None:
                stack.callback(setattr, module, name, plain)
                setattr(module, name, maker(plain))
        yield


class _Reader(gguf.GGUFReader):  # type: ignore[misc]  # untyped
    """The same fields and tensors, whose arrays are read in one go each."""

    @property
    def data(self) -> NDArray[np.uint8]:
        """The bytes of the file."""
        return self._data

    @data.setter
    def data(self, mapped: NDArray[np.uint8]) -> None:
        # Slices of a memmap cost many times what those of an array do.
        self._data = mapped.view(np.ndarray)

    def _get_field_parts(self, offset: int, kind: int) -> tuple[int, list[Any], list[int], Any]:
        """Return the size of a value, its parts, which of them are data, and the types."""
        plain = super()._get_field_parts
        if kind != _ARRAY or self.byte_order != "I":
            found: tuple[int, list[Any], list[int], Any] = plain(offset, kind)
            return found
        head = [self._get(offset, np.uint32), self._get(offset + 4, np.uint64)]
        kind_of_all, n, begin = head[0][0], int(head[1][0]), offset + 12
        if not n:
            return 12, head, [], [gguf.GGUFValueType.ARRAY]
        size, first, data, types = plain(begin, kind_of_all)
        if kind_of_all == _STRING:
            parts, size = self._strings(begin, n)
        else:
            parts, size = list(self._get(begin, first[0].dtype, n).reshape(n, 1)), size * n
        # The first is as gguf reads it, so are the others.
        each = len(first)
        if len(data) != 1 or not all(map(np.array_equal, first, parts[:each])):
            raise ValueError(f"expected elements of {first}, found {parts[:each]}")
        where = range(len(head) + data[0], len(head) + len(parts), each)
        return 12 + size, head + parts, list(where), [gguf.GGUFValueType.ARRAY, *types]

    def _strings(self, begin: int, n: int) -> tuple[list[NDArray[Any]], int]:
        """Return the lengths and texts of `n` strings, and how many bytes they take."""
        data, end = self._data, begin
        parts: list[NDArray[Any]] = []
        raw = memoryview(data)  # type: ignore[arg-type]
        for _ in range(n):
            text = end + _LENGTH.size
            length = data[end:text].view(np.uint64)
            end = text + _LENGTH.unpack_from(raw, text - _LENGTH.size)[0]
            parts += length, data[text:end]
        return parts, end - begin


def _kept_reader(plain: Any) -> Callable[..., Any]:
    """Return what opens a file, and keeps the last."""

    @functools.lru_cache(maxsize=1)
    def read(*args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(Exception):  # whatever a later gguf does otherwise
            return _Reader(*args, **kwargs)
        return plain(*args, **kwargs)

    return read


def _kept_values(plain: Any) -> Callable[..., Any]:
    """Return what makes a number or a text of one part of a field, once for each part."""
    known: dict[int, tuple[Any, Any]] = {}  # with the part, whose id is then no other's

    def parse(part: Any, types: Any) -> Any:
        found = known.get(id(part))
        if found is None:
            found = known[id(part)] = part, plain(part, types)
        return found[1]

    return parse


def _dequantize_by_core(plain: Any) -> Callable[..., Any]:
    """Return what decodes a tensor."""

    def dequantize(data: NDArray[Any], kind: Any) -> NDArray[Any]:
        name = gguf.GGMLQuantizationType(kind).name
        if name not in BLOCKS or data.dtype != np.uint8:
            values: NDArray[Any] = plain(data, kind)
            return values
        rows = decode(name, data.reshape(-1, data.shape[-1]))
        return rows.reshape(*data.shape[:-1], rows.shape[-1])

    return dequantize
