"""Embeddings in .npy and .npz files of any length, read a block of rows at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embedfilter.errors import CheckpointError, EmbedFilterError
from embedfilter.files.containers.npy import MAX_HEADER, NpyArray, find_array
from embedfilter.files.containers.npz import NpzArchive
from embedfilter.files.input_file import InputFile
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["EmbeddingsFile"]

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_ZIP = b"PK"


class EmbeddingsFile:
    """The rows of a file of embeddings. Its memory does not grow with the file's length.

    The file is read, not mapped: a file that is cut short meanwhile is then an error, not the
    end of the process.

    Parameters
    ----------
    path : Path
        A .npy or .npz file, told apart by its content.
    key : str, optional
        The array of an .npz file; by default the only one.

    Attributes
    ----------
    path : Path
    shape : (n, d)
    dtype : numpy.dtype
        In native byte order.

    Raises
    ------
    EmbedFilterError
        If there is no such file, it cannot be read, is truncated, or holds no matrix of floats.
    """

    def __init__(self, path: Path, key: str | None = None) -> None:
        self.path = path
        self._file = _open(path)
        try:
            self._array = self._find(key)
            self.dtype = self._array.dtype.newbyteorder("=")
            self.shape = _checked_shape(path, self._array, self.dtype)
        except CheckpointError as error:
            self._file.close()
            raise EmbedFilterError(str(error)) from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> EmbeddingsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _find(self, key: str | None) -> NpyArray:
        start = self._file.read(0, min(self._file.size, MAX_HEADER)).tobytes()
        if not start.startswith(_ZIP):
            if key is not None:
                raise EmbedFilterError(
                    f"{self.path}: expected no --key, as there is one array in it, found {key!r}"
                )
            return find_array(str(self.path), self._file, start, 0, self._file.size)
        archive = NpzArchive(self._file)
        names = archive.names
        if key is None and len(names) == 1:
            key = names[0]
        if key not in names:
            listed = ", ".join(map(shown, names[:10])) or "none"
            wanted = "one array, or --key with its name" if key is None else f"an array {key!r}"
            raise EmbedFilterError(f"{self.path}: expected {wanted}, found {listed}")
        return archive.array(key)

    def blocks(self, n_bytes: int) -> Iterator[NDArray[Any]]:
        """Iterate over the rows, about `n_bytes` at a time, in memory that is used again."""
        n, d = self.shape
        row_bytes = d * self.dtype.itemsize
        step = max(1, min(n_bytes // row_bytes, n))
        room = np.empty(step * row_bytes, np.uint8)
        for start in range(0, n, step):
            yield self._rows(start, min(start + step, n), room)

    def rows(self, n_rows: int | None = None) -> NDArray[Any]:
        """Return the first rows, by default all."""
        n = self.shape[0] if n_rows is None else min(n_rows, self.shape[0])
        return self._rows(0, n, None)

    def _rows(self, start: int, stop: int, room: NDArray[np.uint8] | None) -> NDArray[Any]:
        try:
            rows = self._array.rows(start, stop, room)
        except CheckpointError as error:
            raise EmbedFilterError(f"{error} (rows {start} to {stop - 1})") from None
        return rows.astype(self.dtype, copy=False)


def _open(path: Path) -> InputFile:
    try:
        return InputFile(path)
    except CheckpointError as error:
        if isinstance(error.__cause__, OSError):  # no such file, no permission: as Python says it
            raise error.__cause__ from None
        raise EmbedFilterError(str(error)) from None


def _checked_shape(path: Path, array: NpyArray, dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype.name not in _FLOATS:
        hint = ""
        if dtype.kind in "iub":
            hint = ": quantised embeddings cannot be filtered; filter first, then quantise"
        raise EmbedFilterError(
            f"{path}: expected float16, bfloat16, float32 or float64, found {dtype}{hint}"
        )
    if len(array.shape) != 2 or array.shape[1] < 1:
        raise EmbedFilterError(f"{path}: expected a matrix (n, d), found shape {array.shape}")
    return array.shape[0], array.shape[1]
