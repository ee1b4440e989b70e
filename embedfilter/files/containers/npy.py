"""Arrays in .npy files, of any length, order and byte order, read a block of rows at a time.

A .npy file is a header (shape, type, order) and the numbers; nothing is ever unpickled.
"""

from __future__ import annotations

import io
import math
import tokenize
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from embedfilter.errors import CheckpointError, EmbedFilterError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MAX_HEADER", "Data", "NpyArray", "find_array", "read_npy_header", "write_npy_header"]

_MAX_HEADER_TEXT = 10_000
MAX_HEADER = 12 + _MAX_HEADER_TEXT
"""Bytes at the start of a file that are enough to read its header."""
# np.save writes ml_dtypes' bfloat16, which the format has no name for, as two plain bytes.
_BFLOAT16 = np.dtype("V2")


class Data(Protocol):
    """What an array lies in: an `InputFile`, or an entry of an archive."""

    def read_into(self, offset: int, memory: NDArray[np.uint8]) -> None:
        """Fill `memory` with the bytes from byte `offset` on."""

    def close(self) -> None:
        """Close the file."""


@dataclass(frozen=True)
class NpyArray:
    """Where an array lies: from byte `begin` of `data` on.

    Attributes
    ----------
    data : Data
    begin : int
    shape : tuple of int
    dtype : numpy.dtype
        In the byte order of the file.
    fortran_order : bool
    """

    data: Data
    begin: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool

    @property
    def n_bytes(self) -> int:
        """The size of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> NDArray[Any]:
        """Return all numbers as they are stored, flat."""
        return self._read(0, math.prod(self.shape))

    def rows(self, start: int, stop: int, room: NDArray[np.uint8] | None = None) -> NDArray[Any]:
        """Return rows of a matrix, in C order and the file's byte order.

        Parameters
        ----------
        start, stop : int
        room : (n,) uint8, optional
            Memory for the rows, of which the result is a part where they lie in C order.

        Returns
        -------
        (stop - start, d)
        """
        n_rows, n_columns = self.shape
        if not self.fortran_order:
            numbers = self._read(start * n_columns, (stop - start) * n_columns, room)
            return numbers.reshape(stop - start, n_columns)
        columns = np.empty((n_columns, stop - start), self.dtype)
        for column in range(n_columns):
            columns[column] = self._read(column * n_rows + start, stop - start)
        return np.ascontiguousarray(columns.T)

    def _read(self, first: int, count: int, room: NDArray[np.uint8] | None = None) -> NDArray[Any]:
        size = self.dtype.itemsize
        raw = np.empty(count * size, np.uint8) if room is None else room[: count * size]
        self.data.read_into(self.begin + first * size, raw)
        return raw.view(self.dtype)


def find_array(where: str, data: Data, start: bytes, begin: int, size: int) -> NpyArray:
    """Return the array whose .npy file takes `size` bytes from byte `begin` of `data` on.

    Parameters
    ----------
    where
        What to call it in messages.
    data
        What it lies in.
    start
        The first bytes of the .npy file, `MAX_HEADER` of them if there are so many.
    begin, size
        Where the .npy file lies in `data`.

    Raises
    ------
    CheckpointError
        If it is not a sound .npy file of numbers.
    """
    header = io.BytesIO(start)
    try:
        shape, fortran_order, dtype = read_npy_header(header, where)
    except EmbedFilterError as error:
        raise CheckpointError(str(error)) from None
    if dtype.hasobject or dtype.itemsize == 0:
        raise CheckpointError(
            f"{where}: expected an array of float16, bfloat16, float32 or float64, "
            f"found {shown(str(dtype))}, which is not read"
        )
    if min(shape, default=1) < 0:
        raise CheckpointError(f"{where}: expected sizes of 0 or more, found shape {shown(shape)}")
    expected = math.prod(shape) * dtype.itemsize
    found = size - header.tell()
    if found != expected:
        fault = "incomplete download" if found < expected else "bytes after the array"
        raise CheckpointError(
            f"{where}: {fault}: expected {expected} bytes for {dtype} of shape {shown(shape)}, "
            f"found {found}"
        )
    return NpyArray(data, begin + header.tell(), shape, dtype, fortran_order and len(shape) > 1)


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
        TypeError,  # of {[]: 3}
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
