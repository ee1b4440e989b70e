"""NumPy's files: a matrix in a .npy file, or the arrays of an .npz archive.

A .npy file is a header (shape, type, order) and the numbers; an .npz archive is a zip
archive of such files. Both are read a block of rows at a time, whatever their order and
byte order, and never unpickled.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedfilter.checkpoints.encodings import FLOATS, decode, storage_type
from embedfilter.checkpoints.files import shown
from embedfilter.checkpoints.head import open_head
from embedfilter.checkpoints.names import MODEL_NAMES, Choice
from embedfilter.checkpoints.zip_file import Inflated, open_zip, stored_begin
from embedfilter.errors import CheckpointError, EmbedFilterError
from embedfilter.npy_file import MAX_HEADER, read_npy_header

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedfilter.checkpoints.files import InputFile
    from embedfilter.checkpoints.unembedding import Unembedding

__all__ = ["NpyFile", "NpzFile", "open_npy", "open_npz"]

# Weights hardly compress; what shrinks more is made to fill the memory.
_MAX_RATIO = 100
_ONLY = "the only array in the file"


@dataclass(frozen=True)
class _Array:
    """Where an array lies in what `data` reads."""

    data: InputFile | Inflated
    begin: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool

    @property
    def storage(self) -> str:
        return storage_type(self.dtype.name)

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class NpyRows:
    """Rows of an array in a .npy file.

    Parameters
    ----------
    array
        Where it lies; what it is read from is closed with this object.
    """

    def __init__(self, array: _Array) -> None:
        self._array = array

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return rows `start` to `stop` as little-endian bytes, shape (stop - start, row_bytes)."""
        data, begin = self._array.data, self._array.begin
        n_rows, n_columns = self._array.shape
        size = self._array.dtype.itemsize
        if self._array.fortran_order:
            columns = np.empty((n_columns, (stop - start) * size), np.uint8)
            for column in range(n_columns):
                offset = begin + (column * n_rows + start) * size
                columns[column] = data.read(offset, columns.shape[1])
            raw = np.ascontiguousarray(columns.view(f"u{size}").T).view(np.uint8)
        else:
            row_bytes = n_columns * size
            raw = data.read(begin + start * row_bytes, (stop - start) * row_bytes)
        return _little_endian(raw, self._array.dtype).reshape(stop - start, n_columns * size)

    def decode(self, raw: NDArray[np.uint8], start: int) -> NDArray[Any]:
        """Decode bytes that `read` returned; `start` plays no part here."""
        return decode(self._array.storage, raw)

    def close(self) -> None:
        """Close the file."""
        self._array.data.close()


def _little_endian(raw: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[np.uint8]:
    size = dtype.itemsize
    order = ">" if dtype.str.startswith(">") else "<"
    return raw.view(f"{order}u{size}").astype(f"<u{size}", copy=False).view(np.uint8)


class _Arrays:
    """Arrays by their names, as `open_head` wants them."""

    where: str
    _file: InputFile

    def array(self, name: str) -> _Array:
        """Return where an array lies."""
        raise NotImplementedError

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""
        return self.array(name).shape

    def dtype(self, name: str) -> str:
        """Return the storage type of an array."""
        return self.array(name).storage

    def rows(self, name: str) -> NpyRows:
        """Return the rows of a matrix, which share the open file."""
        array = self.array(name)
        if array.fortran_order and isinstance(array.data, Inflated):
            raise CheckpointError(
                f"{array.data.where}: in Fortran order and compressed: "
                "expected one of the two at most; save it with np.savez"
            )
        return NpyRows(array)

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return all bytes of an array, little-endian, shape (n_bytes,)."""
        array = self.array(name)
        return _little_endian(array.data.read(array.begin, array.n_bytes), array.dtype)

    def file_of(self, name: str) -> str:
        """Return the path of the file."""
        return self.where

    def close(self, keep: str | None = None) -> None:
        """Close the file, unless the array `keep` is still needed."""
        if keep is None:
            self._file.close()


class NpyFile(_Arrays):
    """One .npy file, its header read and checked.

    Parameters
    ----------
    file
        The open file; closed with this object.
    """

    def __init__(self, file: InputFile) -> None:
        self.where = str(file.path)
        self.names = ["array"]
        self._file = file
        try:
            file.refuse_lfs_pointer()
            start = file.read(0, min(file.size, MAX_HEADER)).tobytes()
            self._array = _array(self.where, file, start, 0, file.size)
        except BaseException:
            file.close()
            raise

    def array(self, name: str) -> _Array:
        """Return where the array lies."""
        return self._array


class NpzFile(_Arrays):
    """One .npz archive; the headers of its arrays are read as they are needed.

    Parameters
    ----------
    file
        The open file; closed with this object.
    """

    def __init__(self, file: InputFile) -> None:
        self.where = str(file.path)
        self._file = file
        self._arrays: dict[str, _Array] = {}
        try:
            file.refuse_lfs_pointer()
            self._archive = open_zip(file)
            self._entries = {_array_name(file, i): i for i in self._archive.infolist()}
        except BaseException:
            file.close()
            raise

    @property
    def names(self) -> list[str]:
        """The arrays' names."""
        return list(self._entries)

    def array(self, name: str) -> _Array:
        """Return where an array lies."""
        if name not in self._arrays:
            self._arrays[name] = self._find(self._entries[name])
        return self._arrays[name]

    def _find(self, info: zipfile.ZipInfo) -> _Array:
        where = f"{self.where}: entry {shown(info.filename)}"
        data: InputFile | Inflated = self._file
        begin = 0
        if info.compress_type == zipfile.ZIP_STORED:
            begin = stored_begin(self._file, info)
        elif info.compress_type != zipfile.ZIP_DEFLATED:
            raise CheckpointError(
                f"{where}: expected it stored or deflated, as np.savez and np.savez_compressed "
                f"do, found compression {info.compress_type}"
            )
        elif info.file_size > _MAX_RATIO * info.compress_size:
            raise CheckpointError(
                f"{where}: a zip bomb: expected at most {_MAX_RATIO} times its "
                f"{info.compress_size} bytes, found {info.file_size}"
            )
        else:
            data = Inflated(self._file, self._archive, info)
        start = data.read(begin, min(info.file_size, MAX_HEADER)).tobytes()
        return _array(where, data, start, begin, info.file_size)


def open_npy(file: InputFile, *, source: str, tensor: str | None = None) -> Unembedding:
    """Open the matrix of a .npy file.

    Parameters
    ----------
    file
        The open file; closed with the result.
    source
        The source as it was given.
    tensor
        Only "array", or None.

    Returns
    -------
    Unembedding
        The open matrix, with the name "array".
    """
    known = Choice("array", tied=False, reason=_ONLY)
    return open_head(NpyFile(file), MODEL_NAMES, source=source, tensor=tensor, known=known)


def open_npz(file: InputFile, *, source: str, tensor: str | None = None) -> Unembedding:
    """Open the unembedding matrix of an .npz archive: its only array, or one found by name.

    Parameters
    ----------
    file
        The open file; closed with the result.
    source
        The source as it was given.
    tensor
        The name of the array to take.

    Returns
    -------
    Unembedding
        The open matrix.
    """
    checkpoint = NpzFile(file)
    names = checkpoint.names
    known = Choice(names[0], tied=False, reason=_ONLY) if len(names) == 1 else None
    return open_head(checkpoint, MODEL_NAMES, source=source, tensor=tensor, known=known)


def _array(where: str, data: InputFile | Inflated, start: bytes, begin: int, size: int) -> _Array:
    """Return the array whose .npy file takes `size` bytes from byte `begin` of `data` on."""
    header = io.BytesIO(start)
    try:
        shape, fortran_order, dtype = read_npy_header(header, where)
    except EmbedFilterError as error:
        raise CheckpointError(str(error)) from None
    if dtype.hasobject or dtype.itemsize == 0:
        raise CheckpointError(
            f"{where}: expected an array of {', '.join(FLOATS.values())}, "
            f"found {shown(str(dtype))}, which is not read"
        )
    expected = math.prod(shape) * dtype.itemsize
    found = size - header.tell()
    if min(shape, default=1) < 0 or found != expected:
        fault = "incomplete download" if found < expected else "bytes after the array"
        raise CheckpointError(
            f"{where}: {fault}: expected {expected} bytes for {dtype} of shape {shown(shape)}, "
            f"found {found}"
        )
    return _Array(data, begin + header.tell(), shape, dtype, fortran_order and len(shape) > 1)


def _array_name(file: InputFile, info: zipfile.ZipInfo) -> str:
    name = info.filename
    parts = name.replace("\\", "/").split("/")
    if not name.endswith(".npy") or not name.isprintable() or {"", ".", ".."} & set(parts):
        raise CheckpointError(
            f"{file.path}: expected an archive of .npy files, found the entry {shown(name)}"
        )
    return name.removesuffix(".npy")
