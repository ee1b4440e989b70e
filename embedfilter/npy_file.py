"""Embeddings in .npy files of any length, read and written a block of rows at a time."""

from __future__ import annotations

import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from embedfilter.errors import EmbedFilterError

__all__ = ["NpyReader", "write_npy_header"]

_MAX_HEADER = 10_000
# np.save writes ml_dtypes' bfloat16, which the format has no name for, as two plain bytes.
_BFLOAT16 = np.dtype("V2")


class NpyReader:
    """The rows of a .npy file. Its memory does not grow with the file's length.

    The file is read, not mapped: a file that is cut short meanwhile is then an error, not the
    end of the process.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    shape : (n, d)
    dtype : numpy.dtype

    Raises
    ------
    OSError
        If there is no such file.
    EmbedFilterError
        If it is not a .npy file of a float matrix in C order, or is truncated.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("rb")
        try:
            self.shape, self.dtype = self._read_header()
        except BaseException:
            self.close()
            raise
        self._begin = self._file.tell()
        self._row_bytes = self.shape[1] * self.dtype.itemsize

    def _read_header(self) -> tuple[tuple[int, int], np.dtype[Any]]:
        try:
            version = np.lib.format.read_magic(self._file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran_order, dtype = read(self._file, max_header_size=_MAX_HEADER)
        except (ValueError, EOFError, tokenize.TokenError, SyntaxError, MemoryError) as error:
            raise EmbedFilterError(f"{self.path}: expected a .npy file: {error}") from None
        if dtype == _BFLOAT16:
            import ml_dtypes  # noqa: PLC0415 - only where bfloat16 comes up

            dtype = np.dtype(ml_dtypes.bfloat16)
        if dtype.hasobject or dtype.name not in ("float16", "bfloat16", "float32", "float64"):
            raise EmbedFilterError(
                f"{self.path}: expected float16, bfloat16, float32 or float64, found {dtype}"
            )
        if len(shape) != 2 or (fortran_order and 1 not in shape):
            order = " in Fortran order" if fortran_order else ""
            raise EmbedFilterError(
                f"{self.path}: expected a matrix (n, d) in C order, found shape {shape}{order}"
            )
        expected = shape[0] * shape[1] * dtype.itemsize
        found = self.path.stat().st_size - self._file.tell()
        if found != expected:
            raise EmbedFilterError(
                f"{self.path}: expected {expected} bytes of numbers for shape {shape} and"
                f" {dtype}, found {found}: the file is truncated or damaged"
            )
        return shape, dtype

    def blocks(self, n_rows: int) -> Iterator[NDArray[Any]]:
        """Iterate over the rows, `n_rows` at a time, in one buffer that is used again."""
        buffer = np.empty((min(n_rows, max(self.shape[0], 1)), self.shape[1]), self.dtype)
        self._file.seek(self._begin)
        for start in range(0, self.shape[0], n_rows):
            block = buffer[: min(n_rows, self.shape[0] - start)]
            memory = memoryview(block.view(np.uint8).reshape(-1).data)
            found = self._file.readinto(memory)  # type: ignore[attr-defined]
            if found != len(memory):
                raise EmbedFilterError(
                    f"{self.path}: expected {self.shape[0]} rows, found an end in row"
                    f" {start + found // self._row_bytes}: the file has changed"
                )
            yield block

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> NpyReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def write_npy_header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Write the header that np.save writes for an array of this shape and dtype."""
    np.lib.format.write_array_header_1_0(
        file,
        {
            "shape": shape,
            "fortran_order": False,
            "descr": np.lib.format.dtype_to_descr(dtype),
        },
    )
