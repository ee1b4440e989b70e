"""Files that embeddings are written to: what a name asks for, and the rows, a part at a time."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from embedfilter.errors import EmbedFilterError
from embedfilter.files.atomic import atomic_output, check_target, temporary_file
from embedfilter.files.containers.npy import write_npy_header
from embedfilter.files.endings import (
    ARROW,
    ARROW_STREAM,
    COMPRESSED,
    CSV,
    JSON_LINES,
    NPY,
    NPZ,
    PARQUET,
    SAFETENSORS,
    TSV,
    ending,
    inner_ending,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from embedfilter.files.tables.base import Layout, Part

__all__ = ["ARRAYS", "FORMATS", "Output", "check_output", "open_output"]

ARRAYS = ("npy", "npz", "pt", "safetensors")
FORMATS = ("npy", "npz", "parquet", "arrow", "jsonl", "csv", "tsv", "pt", "safetensors")
_ENDINGS = {
    "npy": NPY, "npz": NPZ, "parquet": PARQUET, "arrow": ARROW, "jsonl": JSON_LINES, "csv": CSV,
    "tsv": TSV, "pt": (".pt", ".pth"), "safetensors": SAFETENSORS,
}  # fmt: skip
_TEXT = ("jsonl", "csv", "tsv")


class Output(Protocol):
    """An output that is open."""

    def write(self, part: Part, rows: NDArray[Any]) -> None:
        """Write embeddings, and the other columns of the part that they are of."""

    def finish(self) -> None:
        """Write what comes last."""


def check_output(output: str, like: str, kind: str | None = None) -> str:
    """Return the format of an output, or raise before there is anything to write.

    Parameters
    ----------
    output : str
        A path, or "-" for standard output.
    like : str
        The format where neither the ending nor `kind` says it.
    kind : str, optional
        Of `FORMATS`.

    Raises
    ------
    EmbedFilterError
        If the name's ending says none that is written, or another than `kind`.
    OSError
        If it cannot be written to.
    """
    if output != "-":
        if output.endswith(("/", os.sep)):
            raise EmbedFilterError(f"{output}: expected a file to write, found a folder's name")
        check_target(Path(output))
    found = inner_ending(output) if output != "-" else ""
    by_ending = next((name for name, endings in _ENDINGS.items() if found in endings), None)
    if found and by_ending is None and kind is None:
        endings = ", ".join(endings[0] for endings in _ENDINGS.values())
        raise EmbedFilterError(f"{output}: expected a name that ends in {endings}, found {found!r}")
    if kind is not None and by_ending not in (None, kind):
        raise EmbedFilterError(
            f"{output}: expected a name for --format {kind}, found one of {by_ending}"
        )
    chosen = kind or by_ending or like
    if ending(output) in COMPRESSED and chosen not in _TEXT:
        raise EmbedFilterError(
            f"{output}: expected a compressed file of text (jsonl, csv, tsv), found {chosen}, which"
            " has a compression of its own, or none"
        )
    if chosen in ("parquet", "arrow"):
        _arrow()
    if chosen == "pt":
        _torch()
    return chosen


@contextlib.contextmanager
def open_output(output: str, kind: str, layout: Layout) -> Iterator[Output]:
    """Open an output, which appears whole or not at all; parts of a stream appear at once."""
    is_stream = output == "-" or ending(output) in ARROW_STREAM
    with contextlib.ExitStack() as stack:
        if output == "-":
            target = _standard_output(kind, layout.table.n_rows, stack)
        else:
            target = stack.enter_context(atomic_output(Path(output)))
        if ending(output) in COMPRESSED:
            target = stack.enter_context(_compressed(target, output))
        made = _make(target, kind, layout, is_stream, stack)
        yield made
        made.finish()


def _make(
    target: BinaryIO,
    kind: str,
    layout: Layout,
    to_stream: bool,
    stack: contextlib.ExitStack,
) -> Output:
    if kind in ("parquet", "arrow"):
        tables: Output = _arrow().ArrowOutput(target, kind, layout, to_stream)
        stack.callback(tables.close)  # type: ignore[attr-defined]
        return tables
    if kind in _TEXT:
        from embedfilter.files.tables.text_outputs import CsvOutput, JsonLinesOutput  # noqa: PLC0415

        if kind == "jsonl":
            return JsonLinesOutput(target, layout)
        return CsvOutput(target, layout, tabs=kind == "tsv")
    if kind == "npy":
        return _Npy(target, layout)
    if kind == "safetensors":
        return _Safetensors(target, layout)
    # Their libraries write whole arrays: one in a file of its own, mapped.
    return _Spooled(target, stack.enter_context(temporary_file()), kind, layout)


def _standard_output(kind: str, n_rows: int | None, stack: contextlib.ExitStack) -> BinaryIO:
    if kind in ("arrow", *_TEXT) or (kind == "npy" and n_rows is not None):
        return sys.stdout.buffer
    # A format in which the beginning is written last goes through a file.
    file = stack.enter_context(temporary_file())

    def copy(error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
            sys.stdout.buffer.flush()

    stack.push(copy)
    return file


@contextlib.contextmanager
def _compressed(target: BinaryIO, output: str) -> Iterator[BinaryIO]:
    if ending(output) == ".gz":
        with gzip.GzipFile(filename="", mode="wb", fileobj=target) as file:
            yield file  # type: ignore[misc]
        return
    pa = _arrow().pa
    with pa.CompressedOutputStream(pa.PythonFile(_Kept(target), "w"), "zstd") as file:
        yield file


class _Kept:
    """A file that stays open when whoever writes to it has done."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.write, self.flush = file.write, file.flush

    def close(self) -> None:
        """Do nothing."""


def _arrow() -> Any:
    from embedfilter.files.tables import arrow_output  # noqa: PLC0415 - needs pyarrow

    return arrow_output


def _torch() -> Any:
    try:
        import torch  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError('torch files need torch: pip install "embedfilter[torch]"') from error
    return torch


def _bytes(rows: NDArray[Any]) -> Any:
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data


class _Npy:
    """A .npy file. Its header has room for any number of rows."""

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        self._file, self._layout = file, layout
        self._n_rows, self._told = 0, layout.table.n_rows
        self._header(self._told or 0)

    def _header(self, n_rows: int) -> None:
        write_npy_header(self._file, self._layout.shape(n_rows), self._layout.dtype)

    def write(self, part: Part, rows: NDArray[Any]) -> None:
        """Write rows."""
        self._file.write(_bytes(rows))
        self._n_rows += len(rows)

    def finish(self) -> None:
        """Write the number of rows, where it was not known."""
        if self._n_rows != (self._told or 0):
            self._file.seek(0)
            self._header(self._n_rows)


class _Safetensors:
    """A .safetensors file of one tensor; spaces after its header leave room for any number."""

    _ROOM = 256
    _TYPES = {  # noqa: RUF012
        "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8", "uint8": "U8",
    }  # fmt: skip

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        self._file, self._layout, self._n_rows = file, layout, 0
        self._header()

    def _header(self) -> None:
        import json  # noqa: PLC0415

        dtype, k = self._layout.dtype, self._layout.width
        entry = {
            "dtype": self._TYPES[dtype.name],
            "shape": list(self._layout.shape(self._n_rows)),
            "data_offsets": [0, self._n_rows * k * dtype.itemsize],
        }
        header = json.dumps({self._layout.column[:64]: entry}, ensure_ascii=True).encode()
        if not self._n_rows:  # with room for the longest numbers
            self._room = max(self._ROOM, 64 * (len(header) // 64 + 2))
        self._file.write(self._room.to_bytes(8, "little") + header.ljust(self._room))

    def write(self, part: Part, rows: NDArray[Any]) -> None:
        """Write rows."""
        self._file.write(_bytes(rows))
        self._n_rows += len(rows)

    def finish(self) -> None:
        """Write the number of rows."""
        if self._n_rows:
            self._file.seek(0)
            self._header()


class _Spooled:
    """An .npz or .pt file, made by its library from rows in a file of their own."""

    def __init__(self, file: BinaryIO, raw: BinaryIO, kind: str, layout: Layout) -> None:
        self._file, self._raw, self._kind, self._layout = file, raw, kind, layout
        self._n_rows = 0

    def write(self, part: Part, rows: NDArray[Any]) -> None:
        """Put rows aside."""
        self._raw.write(_bytes(rows))
        self._n_rows += len(rows)

    def finish(self) -> None:
        """Have the library write them."""
        self._raw.flush()
        shape, dtype = self._layout.shape(self._n_rows), self._layout.dtype
        rows: NDArray[Any] = (
            np.memmap(self._raw, dtype, "c", shape=shape)
            if self._n_rows
            else np.empty(shape, dtype)
        )
        if self._kind == "npz":
            arrays: dict[str, Any] = {self._layout.column: rows}
            np.savez(self._file, **arrays)
            return
        torch = _torch()
        is_brain = dtype.name == "bfloat16"
        tensor = torch.from_numpy(np.asarray(rows.view(np.int16) if is_brain else rows))
        torch.save(tensor.view(torch.bfloat16) if is_brain else tensor, self._file)
