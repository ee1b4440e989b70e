"""GGUF files: the header, and the matrix it leads to.

Versions 2 and 3, little-endian. A file is

===============  ===========================================================
type             content
===============  ===========================================================
4 bytes          ``GGUF``
uint32           version
uint64           number of tensors
uint64           number of metadata pairs
pairs            key (string), type of the value (uint32), value
tensors          name (string), number of dimensions (uint32), dimensions
                 (uint64 each, innermost first), storage type (uint32),
                 offset from the start of the data (uint64)
padding          to a multiple of ``general.alignment`` (32 when not given)
data             the tensors in the header's order, each padded likewise
===============  ===========================================================

A string is its length (uint64) and UTF-8 bytes; an array is the type of its
elements (uint32), their number (uint64) and the elements. Tensors of types that are not known
here may lie beside the head: their sizes are not known either.

The gguf package decodes the blocks of quantised tensors, but its header reader
is not used: it accepts offsets that lead outside the data and can loop for ever.
Every length here is compared with the bytes that remain before it is used.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embedfilter.checkpoints.base_model import named_base_models
from embedfilter.checkpoints.config import ModelFacts
from embedfilter.checkpoints.formats.one_file import FileRows, OneFile
from embedfilter.errors import CheckpointError
from embedfilter.files.input_file import InputFile
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TYPES", "BlockType", "GgufFile"]


@dataclass(frozen=True)
class BlockType:
    """A storage type: `elements` numbers of a row share a block of `n_bytes` bytes."""

    name: str
    elements: int
    n_bytes: int


TYPES = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    9: BlockType("Q8_1", 32, 40),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    15: BlockType("Q8_K", 256, 292),
    16: BlockType("IQ2_XXS", 256, 66),
    17: BlockType("IQ2_XS", 256, 74),
    18: BlockType("IQ3_XXS", 256, 98),
    19: BlockType("IQ1_S", 256, 50),
    20: BlockType("IQ4_NL", 32, 18),
    21: BlockType("IQ3_S", 256, 110),
    22: BlockType("IQ2_S", 256, 82),
    23: BlockType("IQ4_XS", 256, 136),
    24: BlockType("I8", 1, 1),
    25: BlockType("I16", 1, 2),
    26: BlockType("I32", 1, 4),
    27: BlockType("I64", 1, 8),
    28: BlockType("F64", 1, 8),
    29: BlockType("IQ1_M", 256, 56),
    30: BlockType("BF16", 1, 2),
    34: BlockType("TQ1_0", 256, 54),
    35: BlockType("TQ2_0", 256, 66),
    39: BlockType("MXFP4", 32, 17),
    40: BlockType("NVFP4", 64, 36),
    41: BlockType("Q1_0", 128, 18),
}
"""Storage types by their number in the file; the numbers left out were withdrawn."""

# Types of metadata values.
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_UINT32, _STRING, _ARRAY = 4, 8, 9

# Strings that are kept, where they are short.
_KEPT = re.compile(r"general\.(?:name|base_model\.\d\.(?:name|organization|repo_url))")
_MAX_KEPT = 256

# Caps on what is read one by one; the largest models stay far below them.
_MAX_PAIRS = 1 << 16
_MAX_TENSORS = 1 << 20
_MAX_STRINGS = 1 << 22
_MAX_KEY = 65535
_MAX_NAME = 63
_MAX_DIMENSIONS = 4
# The least that a pair and a tensor take in the file.
_PAIR_BYTES = 8 + 1 + 4 + 1
_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8
_WINDOW = 1 << 20
# The most of one array that is read into memory; the largest vocabularies take a few MiB.
_MAX_ARRAY_BYTES = 1 << 28
_LENGTH = struct.Struct("<Q")


class _Cursor:
    """A position in the file that cannot leave it.

    The header's length is not stated anywhere, so the file is read window by
    window as the position moves; what is skipped is not read.
    """

    def __init__(self, file: InputFile) -> None:
        self.position = 0
        self._file = file
        self._window = b""
        self._window_start = 0
        self._strings_left = _MAX_STRINGS

    @property
    def remaining(self) -> int:
        """Bytes from the position to the end of the file."""
        return self._file.size - self.position

    def skip(self, n_bytes: int, what: str) -> None:
        """Move on by `n_bytes`."""
        self._need(n_bytes, what)
        self.position += n_bytes

    def take(self, n_bytes: int, what: str) -> bytes:
        """Return the next `n_bytes` bytes, at most a window of them."""
        self._need(n_bytes, what)
        begin = self.position - self._window_start
        if not 0 <= begin <= len(self._window) - n_bytes:
            length = min(_WINDOW, self.remaining)
            self._window = self._file.read(self.position, length).tobytes()
            self._window_start, begin = self.position, 0
        self.position += n_bytes
        return self._window[begin : begin + n_bytes]

    def scalar(self, code: str, what: str) -> Any:
        """Return the next number, of the type `code` as in `struct`."""
        layout = f"<{code}"
        return struct.unpack(layout, self.take(struct.calcsize(layout), what))[0]

    def string(self, limit: int, what: str) -> str:
        """Return the next string, of 1 to `limit` bytes."""
        length = self.scalar("Q", what)
        if not 1 <= length <= limit:
            raise self.error(f"{what}: expected a length of 1 to {limit} bytes, found {length}")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8: {error}") from error

    def skip_strings(self, count: int, what: str) -> None:
        """Move past `count` strings."""
        # Each has a length of its own: checked first, since the loop takes time for each.
        self._need(8 * count, what)
        self._strings_left -= count
        if self._strings_left < 0:
            raise self.error(f"{what}: expected at most {_MAX_STRINGS} strings in the header")
        while count:
            self.skip(self.scalar("Q", what), what)
            count -= 1
            # The strings whose lengths lie in the window, without a call for each.
            window, begin = self._window, self._window_start
            position, last = self.position - begin, len(self._window) - 8
            while count and position <= last:
                position += 8 + _LENGTH.unpack_from(window, position)[0]
                count -= 1
            self.position = begin
            self.skip(position, what)

    def error(self, text: str) -> CheckpointError:
        """Return an error that names the file."""
        return CheckpointError(f"{self._file.path}: {text}")

    def _need(self, n_bytes: int, what: str) -> None:
        if n_bytes > self.remaining:
            raise self.error(
                f"incomplete download: {what}: expected {n_bytes} bytes at byte {self.position}, "
                f"found {self.remaining}"
            )


@dataclass(frozen=True)
class TensorInfo:
    """How a tensor is stored: shape outermost first, `offset` from the start of the file.

    Of an unknown type the block has 0 bytes, and `n_bytes` is the least that there can be.
    """

    type: BlockType
    shape: tuple[int, ...]
    offset: int
    n_bytes: int

    @property
    def flaw(self) -> str:
        """What keeps it from being read, or ""."""
        if not self.shape:
            return f"expected 1 to {_MAX_DIMENSIONS} dimensions, found 0"
        if 0 in self.shape:
            return (
                "expected dimensions with a product of 1 to 2^63 - 1, found "
                f"{list(reversed(self.shape))}"
            )
        return "" if self.type.n_bytes else self.type.name


@dataclass(frozen=True)
class _Array:
    """Where the elements of a metadata array are."""

    kind: int
    length: int
    offset: int
    n_bytes: int


@dataclass
class _Metadata:
    """The few facts of the metadata that are needed."""

    architecture: str | None = None
    tokenizer: str | None = None
    # Integers, some strings and arrays, by key.
    integers: dict[str, int] = field(default_factory=dict)
    floats: dict[str, float] = field(default_factory=dict)
    strings: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, _Array] = field(default_factory=dict)


class GgufFile(OneFile):
    """One GGUF file, its header read and checked.

    Parameters
    ----------
    file
        The open file; closed with this object.

    Attributes
    ----------
    where : str
        The path, for messages.
    architecture : str or None
        The model's architecture, such as "llama".
    tokenizer : str or None
        The kind of its tokenizer, such as "gpt2" or "llama".
    facts : ModelFacts
        The hidden size and the vocabulary that the metadata state.
    part : tuple of int
        The number of this file, from 1, and how many a split checkpoint has.
    tensors : dict of str to TensorInfo
        The tensors, in the header's order.
    """

    def __init__(self, file: InputFile) -> None:
        self.where = str(file.path)
        self._file = file
        try:
            self._file.refuse_lfs_pointer()
            cursor = _Cursor(self._file)
            n_tensors, n_pairs = _read_counts(cursor)
            metadata = _read_metadata(cursor, n_pairs)
            self.tensors = _read_tensors(cursor, n_tensors, metadata)
        except BaseException:
            self.close()
            raise
        self.architecture = metadata.architecture
        self.tokenizer = metadata.tokenizer
        self.facts = _facts(metadata)
        integers = metadata.integers
        self.part = integers.get("split.no", 0) + 1, max(1, integers.get("split.count", 1))
        self._arrays = metadata.arrays

    @property
    def names(self) -> list[str]:
        """The tensors' names."""
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, outermost dimension first."""
        return self.tensors[name].shape

    def rows(self, name: str) -> FileRows:
        """Return the rows of a matrix, which share this object's open file."""
        info = self._readable(name)
        return FileRows(
            self._file,
            name=name,
            dtype=info.type.name,
            offset=info.offset,
            row_bytes=info.n_bytes // info.shape[0],
        )

    def dtype(self, name: str) -> str:
        """Return the storage type of a tensor; one that cannot be read is refused here."""
        return self._readable(name).type.name

    def strings(self, key: str) -> list[bytes] | None:
        """Return an array of strings of the metadata, None where there is no such array."""
        array = self._arrays.get(key)
        if array is None or array.kind != _STRING:
            return None
        if array.n_bytes > _MAX_ARRAY_BYTES:
            raise CheckpointError(
                f"{self.where}: the metadata value of {shown(key)}: expected at most"
                f" {_MAX_ARRAY_BYTES} bytes, found {array.n_bytes}"
            )
        raw = self._file.read(array.offset, array.n_bytes).tobytes()
        strings, position = [], 0
        for _ in range(array.length):
            begin = position + _LENGTH.size
            position = begin + _LENGTH.unpack_from(raw, position)[0]
            strings.append(raw[begin:position])
        return strings

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return all bytes of a tensor, shape (n_bytes,)."""
        info = self._readable(name)
        return self._file.read(info.offset, info.n_bytes)

    def _readable(self, name: str) -> TensorInfo:
        info = self.tensors[name]
        if info.flaw:
            raise CheckpointError(f"{self.where}: tensor {shown(name)}: {info.flaw}")
        return info


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    """Read up to the metadata; return the numbers of tensors and of metadata pairs."""
    magic = cursor.take(min(4, cursor.remaining), "the magic number")
    if magic != b"GGUF":
        found = repr(magic) if magic else "an empty file"
        raise cursor.error(f"not a GGUF file: expected it to start with b'GGUF', found {found}")
    version = cursor.scalar("I", "the version")
    if version not in (2, 3):
        if version & 0xFFFF == 0 and version:
            raise cursor.error("a big-endian GGUF file, which is not supported")
        raise cursor.error(f"GGUF version: expected 2 or 3, found {version}")
    n_tensors = cursor.scalar("Q", "the number of tensors")
    n_pairs = cursor.scalar("Q", "the number of metadata pairs")
    for what, count, limit, least in (
        ("tensors", n_tensors, _MAX_TENSORS, _TENSOR_BYTES),
        ("metadata pairs", n_pairs, _MAX_PAIRS, _PAIR_BYTES),
    ):
        most = min(limit, cursor.remaining // least)
        if count > most:
            raise cursor.error(
                f"expected at most {most} {what} in {cursor.remaining} bytes, found {count}; "
                "the file is damaged or an incomplete download"
            )
    return n_tensors, n_pairs


def _read_metadata(cursor: _Cursor, n_pairs: int) -> _Metadata:
    metadata = _Metadata()
    keys: set[str] = set()
    for number in range(n_pairs):
        key = cursor.string(_MAX_KEY, f"the key of metadata pair {number}")
        if key in keys:
            raise cursor.error(f"the metadata key {shown(key)} occurs twice")
        keys.add(key)
        _read_value(cursor, key, metadata)
    return metadata


def _read_value(cursor: _Cursor, key: str, metadata: _Metadata) -> None:
    what = f"the metadata value of {shown(key)}"
    kind = cursor.scalar("I", what)
    if key == "general.alignment" and kind != _UINT32:
        raise cursor.error(f"{what}: expected type {_UINT32} (uint32), found type {kind}")
    if key == "general.architecture":
        if kind != _STRING:
            raise cursor.error(f"{what}: expected type {_STRING} (string), found type {kind}")
        metadata.architecture = cursor.string(_MAX_KEY, what)
    elif kind == _STRING:
        length = cursor.scalar("Q", what)
        if key == "tokenizer.ggml.model" and length <= _MAX_NAME:
            metadata.tokenizer = cursor.take(length, what).decode("utf-8", "replace")
        elif length <= _MAX_KEPT and _KEPT.fullmatch(key):
            metadata.strings[key] = cursor.take(length, what).decode("utf-8", "replace")
        else:
            cursor.skip(length, what)
    elif kind == _ARRAY:
        metadata.arrays[key] = _skip_array(cursor, what)
    elif kind in _SCALARS:
        value = cursor.scalar(_SCALARS[kind], what)
        if type(value) is int:
            metadata.integers[key] = value
        elif type(value) is float:
            metadata.floats[key] = value
    else:
        raise cursor.error(f"{what}: unknown type {kind}")


def _skip_array(cursor: _Cursor, what: str) -> _Array:
    kind = cursor.scalar("I", what)
    length = cursor.scalar("Q", what)
    offset = cursor.position
    if kind == _STRING:
        cursor.skip_strings(length, what)
    elif kind in _SCALARS:
        cursor.skip(length * struct.calcsize(f"<{_SCALARS[kind]}"), what)
    elif kind == _ARRAY:
        raise cursor.error(f"{what}: an array of arrays is not supported")
    else:
        raise cursor.error(f"{what}: an array of unknown type {kind}")
    return _Array(kind, length, offset, cursor.position - offset)


def _read_tensors(cursor: _Cursor, count: int, metadata: _Metadata) -> dict[str, TensorInfo]:
    alignment = metadata.integers.get("general.alignment", 32)
    if alignment < 1 or alignment & (alignment - 1):
        raise cursor.error(f"general.alignment: expected a power of two, found {alignment}")
    entries: dict[str, tuple[BlockType, tuple[int, ...], int]] = {}
    for number in range(count):
        name = cursor.string(_MAX_NAME, f"the name of tensor {number}")
        if name in entries:
            raise cursor.error(f"the tensor name {shown(name)} occurs twice")
        entries[name] = _read_tensor(cursor, f"tensor {shown(name)}")
    begin = _padded(cursor.position, alignment)
    room = cursor.remaining - (begin - cursor.position)
    tensors: dict[str, TensorInfo] = {}
    expected, exact = 0, True
    for name, (kind, shape, offset) in entries.items():
        # The format lays the tensors out in order, so a right offset leaves no choice:
        # overlaps, holes, misaligned and wrapping offsets all differ from it. After a tensor
        # whose size is not known it is only some place further on.
        if offset != expected if exact else offset < expected or offset % alignment:
            place = f"at byte {expected}" if exact else f"aligned, from byte {expected} on,"
            raise cursor.error(
                f"tensor {shown(name)}: expected its data {place} of the data section, "
                f"found {offset}"
            )
        exact = kind.n_bytes > 0
        # Of an unknown type at least a byte.
        n_bytes = math.prod(shape) * kind.n_bytes // kind.elements if exact else 1
        if n_bytes > room - offset:
            raise cursor.error(
                f"incomplete download: tensor {shown(name)}: expected {n_bytes} bytes of data, "
                f"found {max(0, room - offset)}"
            )
        tensors[name] = TensorInfo(kind, shape, begin + offset, n_bytes)
        expected = _padded(offset + n_bytes, alignment)
    return tensors


def _read_tensor(cursor: _Cursor, what: str) -> tuple[BlockType, tuple[int, ...], int]:
    """Read what follows a tensor's name; return its type, shape (outermost first) and offset.

    Only the head must be one that can be read; the others are looked at no further.
    """
    n_dimensions = cursor.scalar("I", what)
    if n_dimensions > _MAX_DIMENSIONS:
        raise cursor.error(
            f"{what}: expected 1 to {_MAX_DIMENSIONS} dimensions, found {n_dimensions}"
        )
    dimensions = [cursor.scalar("Q", what) for _ in range(n_dimensions)]
    n_elements = math.prod(dimensions)
    if n_elements >= 1 << 63:
        raise cursor.error(
            f"{what}: expected dimensions with a product of 1 to 2^63 - 1, found {dimensions}"
        )
    number = cursor.scalar("I", what)
    kind = TYPES.get(number) or BlockType(f"unknown or withdrawn storage type {number}", 1, 0)
    # A scalar, as the gguf package writes one, is a row of one number.
    if (dimensions[0] if dimensions else 1) % kind.elements:
        raise cursor.error(
            f"{what}: expected rows of a multiple of {kind.elements} numbers for {kind.name}, "
            f"found {dimensions[0] if dimensions else 1}"
        )
    offset: int = cursor.scalar("Q", what)
    return kind, tuple(reversed(dimensions)), offset


def _padded(position: int, alignment: int) -> int:
    return (position + alignment - 1) // alignment * alignment


def _facts(metadata: _Metadata) -> ModelFacts:
    def known(value: int | None) -> tuple[int, ...]:
        return (value,) if value is not None and value > 0 else ()

    prefix = metadata.architecture
    vocabulary = known(metadata.integers.get(f"{prefix}.vocab_size"))
    tokens = metadata.arrays.get("tokenizer.ggml.tokens")
    return ModelFacts(
        where="the metadata",
        hidden_sizes=known(metadata.integers.get(f"{prefix}.embedding_length")),
        vocab_sizes=vocabulary or known(tokens.length if tokens else None),
        model_type=prefix,
        settings={**metadata.integers, **metadata.floats, **metadata.strings},
        bases=named_base_models(metadata.strings),
    )
