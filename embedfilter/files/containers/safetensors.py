"""Safetensors files.

A file is

=====================  =====================================================
bytes                  content
=====================  =====================================================
8                      length N of the header, unsigned, little-endian
N                      the header: a JSON object, which starts with ``{`` and
                       may end with spaces
to the end             the tensors' bytes, little-endian, in C order
=====================  =====================================================

The header maps each tensor's name to ``dtype``, ``shape`` and ``data_offsets``
(begin and end, counted from the end of the header); ``__metadata__`` maps
strings to strings. The tensors cover the data without holes and overlaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedfilter.errors import CheckpointError
from embedfilter.files.input_file import InputFile
from embedfilter.files.json_file import parse_json
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from pathlib import PurePath

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FLOATS", "SafetensorsFile", "TensorInfo"]

FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Types of floats, with the names of their NumPy types; bfloat16 is that of ml_dtypes."""

# The format's own limit.
_MAX_HEADER = 100_000_000
_DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "C64": 64,
    "U64": 64,
    "I64": 64,
    "F64": 64,
}


@dataclass(frozen=True)
class TensorInfo:
    """Where and how a tensor is stored; `offset` counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


class SafetensorsFile:
    """One safetensors file, its header read and checked.

    Parameters
    ----------
    file
        The open file; closed with this object.

    Attributes
    ----------
    where : str
        The path, for messages.
    metadata : dict of str to str
        The header's ``__metadata__``.
    tensors : dict of str to TensorInfo
        The tensors, in the header's order.
    """

    def __init__(self, file: InputFile) -> None:
        self.where = str(file.path)
        self._file = file
        try:
            self._file.refuse_lfs_pointer()
            self.metadata, self.tensors = _read_header(self._file)
        except BaseException:
            file.close()
            raise

    @property
    def names(self) -> list[str]:
        """The tensors' names."""
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.tensors[name].shape

    def dtype(self, name: str) -> str:
        """Return the storage type of a tensor."""
        return self.tensors[name].dtype

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return all bytes of a tensor, shape (n_bytes,)."""
        info = self.tensors[name]
        return self._file.read(info.offset, info.n_bytes)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _read_header(file: InputFile) -> tuple[dict[str, str], dict[str, TensorInfo]]:
    path = file.path
    if file.size < 8:
        raise CheckpointError(
            f"{path}: not a safetensors file: expected at least 8 bytes, found {file.size}"
        )
    length = int.from_bytes(file.read(0, 8).tobytes(), "little")
    if length > _MAX_HEADER:
        raise CheckpointError(
            f"{path}: not a safetensors file: expected a header of at most {_MAX_HEADER} bytes, "
            f"found a length of {length}"
        )
    if length > file.size - 8:
        raise CheckpointError(
            f"{path}: incomplete download: expected a header of {length} bytes, "
            f"found {file.size - 8}"
        )
    # One byte first: a sparse file of zeros would make the whole header be read.
    start = file.read(8, min(length, 1)).tobytes()
    if start != b"{":
        raise CheckpointError(
            f"{path}: not a safetensors file: expected a header that starts with '{{', "
            f"found {shown(start)}"
        )
    header = parse_json(file.read(8, length).tobytes(), path, "the header")
    metadata = header.pop("__metadata__", {})
    _check_metadata(path, metadata)
    begin = 8 + length
    tensors = {name: _tensor_info(path, name, entry, begin) for name, entry in header.items()}
    _check_coverage(path, tensors, begin, file.size)
    return metadata, tensors


def _check_metadata(path: PurePath, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(
            f"{path}: __metadata__: expected an object of strings, found {shown(metadata)}"
        )


def _tensor_info(path: PurePath, name: str, entry: Any, data_begin: int) -> TensorInfo:
    where = f"{path}: tensor {shown(name)}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise CheckpointError(
            f"{where}: expected an object with dtype, shape and data_offsets, found {shown(entry)}"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
        raise CheckpointError(
            f"{where}: expected a dtype such as F32, F16 or BF16, found {shown(dtype)}"
        )
    if not _is_sizes(shape):
        raise CheckpointError(f"{where}: expected a shape of integers >= 0, found {shown(shape)}")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            f"{where}: expected data_offsets [begin, end] with 0 <= begin <= end, "
            f"found {shown(offsets)}"
        )
    begin, end = offsets
    n_bits = _DTYPE_BITS[dtype]
    for size in shape:
        n_bits *= size
        # Python's integers do not wrap, but a long shape would make them huge.
        if n_bits >= 1 << 67:
            raise CheckpointError(f"{where}: expected fewer than 2^64 bytes, found {shown(shape)}")
    if n_bits != 8 * (end - begin):
        raise CheckpointError(
            f"{where}: expected {n_bits / 8:.15g} bytes for {dtype} of shape {shown(shape)}, "
            f"found data_offsets of {end - begin} bytes"
        )
    return TensorInfo(dtype, tuple(shape), data_begin + begin, end - begin)


def _is_sizes(value: Any) -> bool:
    # type() and not isinstance(): a JSON true is an int in Python.
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 64 for v in value)


def _check_coverage(path: PurePath, tensors: dict[str, TensorInfo], begin: int, size: int) -> None:
    position = begin
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].n_bytes)):
        if info.offset != position:
            what = "overlaps another tensor" if info.offset < position else "follows a hole"
            raise CheckpointError(
                f"{path}: tensor {shown(name)} {what}: expected it at byte {position - begin} "
                f"of the data, found {info.offset - begin}"
            )
        position += info.n_bytes
    if position > size:
        raise CheckpointError(
            f"{path}: incomplete download: expected {position} bytes, found {size}"
        )
    if position < size:
        raise CheckpointError(
            f"{path}: bytes after the last tensor: expected {position} bytes, found {size}"
        )
