"""Embeddings in .npy files of any length, read and written a block of rows at a time."""

from __future__ import annotations

import os
import stat
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from embedfilter.atomic import file_kind
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
        If there is no such file, or it cannot be read.
    EmbedFilterError
        If it is not a .npy file of a float matrix in C order, or is truncated.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a FIFO would wait for a writer
            raise EmbedFilterError(f"{path}: expected a .npy file, found a {file_kind(mode)}")
        self._file: BinaryIO = path.open("rb")
        try:
            self.shape, self.dtype = self._read_header()
        except OSError as error:
            self.close()
            raise self._named(error) from None
        except BaseException:
            self.close()
            raise
        self._begin = self._file.tell()
        self._row_bytes = self.shape[1] * self.dtype.itemsize

    def _read_header(self) -> tuple[tuple[int, int], np.dtype[Any]]:
        shape, fortran_order, dtype = self._parse_header()
        if dtype == _BFLOAT16:
            import ml_dtypes  # noqa: PLC0415 - only where bfloat16 comes up

            dtype = np.dtype(ml_dtypes.bfloat16)
        if dtype.hasobject or dtype.name not in ("float16", "bfloat16", "float32", "float64"):
            hint = ""
            if dtype.kind in "iub":
                hint = ": quantised embeddings cannot be filtered; filter first, then quantise"
            raise EmbedFilterError(
                f"{self.path}: expected float16, bfloat16, float32 or float64, found {dtype}{hint}"
            )
        if len(shape) != 2 or shape[0] < 0 or shape[1] < 1:
            raise EmbedFilterError(f"{self.path}: expected a matrix (n, d), found shape {shape}")
        if fortran_order and 1 not in shape:
            raise EmbedFilterError(
                f"{self.path}: expected a matrix in C order, found Fortran order:"
                " save np.ascontiguousarray of it"
            )
        expected = shape[0] * shape[1] * dtype.itemsize
        found = os.fstat(self._file.fileno()).st_size - self._file.tell()
        if found != expected:
            raise EmbedFilterError(
                f"{self.path}: expected {expected} bytes of numbers for shape {shape} and"
                f" {dtype}, found {found}: the file is truncated or damaged"
            )
        return (int(shape[0]), int(shape[1])), dtype

    def _parse_header(self) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        prefix = np.lib.format.MAGIC_PREFIX
        start = self._file.read(len(prefix))
        if start != prefix:
            found = repr(start) if start else "an empty file"
            raise EmbedFilterError(
                f"{self.path}: not a .npy file: expected it to start with {prefix!r}, found {found}"
            )
        self._file.seek(0)
        try:
            version = np.lib.format.read_magic(self._file)
            if version not in ((1, 0), (2, 0), (3, 0)):
                raise EmbedFilterError(
                    f"{self.path}: expected a .npy file of version 1, 2 or 3,"
                    f" found {version[0]}.{version[1]}"
                )
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            return read(self._file, max_header_size=_MAX_HEADER)
        except (
            ValueError,
            EOFError,
            tokenize.TokenError,
            SyntaxError,
            MemoryError,
            RecursionError,
        ) as error:
            first_line = next(iter(str(error).splitlines()), type(error).__name__)
            raise EmbedFilterError(
                f"{self.path}: expected the header of a .npy file, found a damaged one:"
                f" {first_line}"
            ) from None

    def blocks(self, n_rows: int) -> Iterator[NDArray[Any]]:
        """Iterate over the rows, `n_rows` at a time, in one buffer that is used again."""
        buffer = np.empty((min(n_rows, max(self.shape[0], 1)), self.shape[1]), self.dtype)
        self._file.seek(self._begin)
        for start in range(0, self.shape[0], n_rows):
            block = buffer[: min(n_rows, self.shape[0] - start)]
            self._fill(block, start)
            yield block

    def _fill(self, block: NDArray[Any], start: int) -> None:
        memory = memoryview(block.view(np.uint8).reshape(-1).data)
        try:
            found = self._file.readinto(memory)  # type: ignore[attr-defined]
        except OSError as error:
            raise self._named(error) from None
        if found != len(memory):
            raise EmbedFilterError(
                f"{self.path}: expected {self.shape[0]} rows, found an end in row"
                f" {start + found // self._row_bytes}: the file has changed"
            )

    def _named(self, error: OSError) -> OSError:
        """Return an error of reading the open file, which does not name it, with its name."""
        return OSError(error.errno, error.strerror, str(self.path))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
