"""Embeddings in .npy files of any length, read and written a block of rows at a time."""

from __future__ import annotations

import io
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

__all__ = ["MAX_HEADER", "NpyReader", "read_npy_header", "write_npy_header"]

_MAX_HEADER_TEXT = 10_000
MAX_HEADER = 12 + _MAX_HEADER_TEXT
"""Bytes at the start of a file that are enough to read its header."""
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
        # A part of the file, as the header may claim to be as long as the memory.
        start = io.BytesIO(self._file.read(MAX_HEADER))
        shape, fortran_order, dtype = read_npy_header(start, str(self.path))
        self._file.seek(start.tell())
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
        return (shape[0], shape[1]), dtype

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


def read_npy_header(file: BinaryIO, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a .npy file and leave `file` after it.

    Parameters
    ----------
    file
        The file, or its first `MAX_HEADER` bytes.
    where
        What to call it in messages.

    Returns
    -------
    (shape, Fortran order, dtype)
        As they are stored, except that two plain bytes are bfloat16.

    Raises
    ------
    EmbedFilterError
        If it is not a .npy file, or the header is damaged.
    """
    prefix = np.lib.format.MAGIC_PREFIX
    start = file.read(len(prefix))
    if start != prefix:
        found = repr(start) if start else "an empty file"
        raise EmbedFilterError(
            f"{where}: not a .npy file: expected it to start with {prefix!r}, found {found}"
        )
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise EmbedFilterError(
                f"{where}: expected a .npy file of version 1, 2 or 3,"
                f" found {version[0]}.{version[1]}"
            )
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran_order, dtype = read(file, max_header_size=_MAX_HEADER_TEXT)
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
            f"{where}: expected the header of a .npy file, found a damaged one: {first_line}"
        ) from None
    if dtype == _BFLOAT16:
        import ml_dtypes  # noqa: PLC0415 - only where bfloat16 comes up

        dtype = np.dtype(ml_dtypes.bfloat16)
    return tuple(map(int, shape)), fortran_order, dtype


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
