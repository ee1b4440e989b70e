"""NumPy's files as checkpoints: a matrix in a .npy file, or the arrays of an .npz archive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embedfilter.checkpoints.encodings import decode, storage_type
from embedfilter.checkpoints.formats.one_file import OneFile
from embedfilter.files.containers.npy import MAX_HEADER, NpyArray, find_array
from embedfilter.files.containers.npz import NpzArchive

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedfilter.files.input_file import InputFile

__all__ = ["NpyFile", "NpzFile"]


class NpyRows:
    """Rows of an array in a .npy file.

    Parameters
    ----------
    array
        Where it lies; what it is read from is closed with this object.
    """

    def __init__(self, array: NpyArray) -> None:
        self._array = array

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return rows `start` to `stop` as little-endian bytes, shape (stop - start, row_bytes)."""
        return _little_endian(self._array.rows(start, stop))

    def decode(self, raw: NDArray[np.uint8], start: int) -> NDArray[Any]:
        """Decode bytes that `read` returned; `start` plays no part here."""
        return decode(storage_type(self._array.dtype.name), raw)

    def close(self) -> None:
        """Close the file."""
        self._array.data.close()


def _little_endian(numbers: NDArray[Any]) -> NDArray[np.uint8]:
    size = numbers.dtype.itemsize
    order = ">" if numbers.dtype.str.startswith(">") else "<"
    return numbers.view(f"{order}u{size}").astype(f"<u{size}", copy=False).view(np.uint8)


class _Arrays(OneFile):
    """Arrays by their names, as `open_head` wants them."""

    def array(self, name: str) -> NpyArray:
        """Return where an array lies."""
        raise NotImplementedError

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""
        return self.array(name).shape

    def dtype(self, name: str) -> str:
        """Return the storage type of an array."""
        return storage_type(self.array(name).dtype.name)

    def rows(self, name: str) -> NpyRows:
        """Return the rows of a matrix, which share the open file."""
        return NpyRows(self.array(name))

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return all bytes of an array, little-endian, shape (n_bytes,)."""
        return _little_endian(self.array(name).read())


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
            self._array = find_array(self.where, file, start, 0, file.size)
        except BaseException:
            file.close()
            raise

    def array(self, name: str) -> NpyArray:
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
        self._archive = NpzArchive(file)

    @property
    def names(self) -> list[str]:
        """The arrays' names."""
        return self._archive.names

    def array(self, name: str) -> NpyArray:
        """Return where an array lies."""
        return self._archive.array(name)
