"""Matrices in .npy, .npz, .safetensors and torch's files, read a block of rows at a time."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from embedfilter.arrays.columns import as_array
from embedfilter.errors import CheckpointError, EmbedFilterError
from embedfilter.files.containers.npy import MAX_HEADER, NpyArray, find_array
from embedfilter.files.containers.npz import NpzArchive
from embedfilter.files.containers.safetensors import FLOATS as STORED_FLOATS
from embedfilter.files.containers.safetensors import SafetensorsFile
from embedfilter.files.filter_file import is_filter
from embedfilter.files.input_file import InputFile
from embedfilter.files.messages import listed
from embedfilter.files.tables.base import FLOATS, Part, Table, refuse_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["MatrixTable", "open_input", "open_numpy", "open_safetensors", "open_torch"]


class MatrixPart(Part):
    """Rows of a matrix."""

    def __init__(self, rows: NDArray[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def array(self, column: str | None, name: str, first: int, d: int | None) -> NDArray[Any]:
        """Return the rows."""
        return self._rows

    def values(self, column: str) -> list[Any]:
        """Return the rows as lists."""
        return list(self._rows.tolist())

    def records(self, without: str | None) -> list[dict[str, Any]]:
        """Return rows without other columns."""
        return [{} for _ in range(len(self._rows))]


class MatrixTable(Table):
    """A file of one array of embeddings (..., d), or of several, of which a key says which.

    The file is read, not mapped, unless torch does: one that is cut short meanwhile is then an
    error, not the end of the process.

    Parameters
    ----------
    where : str
    format : str
    shape : tuple of int
        Of any number of axes.
    dtype : numpy.dtype
    rows : callable
        Of the first row and the one after the last: returns them.
    close : callable

    Attributes
    ----------
    shape : (n, d)
        Of all its rows.
    dtype : numpy.dtype
        In native byte order.
    """

    def __init__(
        self,
        where: str,
        format: str,  # noqa: A002 - as in the base class
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        rows: Callable[[int, int], NDArray[Any]],
        close: Callable[[], object],
    ) -> None:
        self.where, self.format = where, format
        self.dtype = dtype.newbyteorder("=")
        self._rows, self._close = rows, close
        try:
            _check(where, shape, self.dtype)
        except BaseException:
            close()
            raise
        self.lead = shape[:-1]
        self.shape = _as_rows(shape)
        self.n_rows, self.width = self.shape

    @property
    def names(self) -> list[str]:
        """None: a matrix's columns have no names."""
        return []

    def embedding_column(self, wanted: str | None) -> str | None:
        """Return None: all of it are embeddings."""
        if wanted is not None:
            raise EmbedFilterError(
                f"--column: expected none for {self.where}, a matrix, found {wanted!r}"
            )
        return None

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Iterate over the rows."""
        for start in range(0, self.shape[0], n_rows):
            stop = min(start + n_rows, self.shape[0])
            try:
                rows = self._rows(start, stop)
            except CheckpointError as error:
                raise EmbedFilterError(f"{error} (rows {start} to {stop - 1})") from None
            yield MatrixPart(rows.astype(self.dtype, copy=False))

    def close(self) -> None:
        """Close the file."""
        self._close()


def open_numpy(path: Path, where: str, key: str | None) -> MatrixTable:
    """Open a .npy or .npz file, told apart by its content."""
    file = open_input(path, where)
    try:
        start = file.read(0, min(file.size, MAX_HEADER)).tobytes()
        if start.startswith(b"PK"):
            archive = NpzArchive(file)
            array: NpyArray = archive.array(_chosen(where, archive.names, key, "array"))
            format_ = "npz"
        else:
            refuse_key(where, key, has_columns=False)
            array = find_array(where, file, start, 0, file.size)
            format_ = "npy"
        if array.fortran_order and len(array.shape) > 2:
            raise EmbedFilterError(
                f"{where}: expected an array of more than two axes in C order, found shape"
                f" {array.shape} in Fortran order; save np.ascontiguousarray of it"
            )
        rows = dataclasses.replace(array, shape=_as_rows(array.shape)).rows
        return MatrixTable(where, format_, array.shape, array.dtype, rows, file.close)
    except CheckpointError as error:
        file.close()
        raise EmbedFilterError(str(error)) from None
    except BaseException:
        file.close()
        raise


def open_safetensors(path: Path, where: str, key: str | None) -> MatrixTable:
    """Open a .safetensors file."""
    try:
        file = open_input(path, where)
        tensors = SafetensorsFile(file)
    except CheckpointError as error:
        raise EmbedFilterError(str(error)) from None
    try:
        if key is None and is_filter(tensors):
            raise EmbedFilterError(f"{where}: expected embeddings, found a filter")
        name = _chosen(where, tensors.names, key, "tensor")
        info = tensors.tensors[name]
        if info.dtype not in STORED_FLOATS:
            hint = ""
            if info.dtype.startswith(("I", "U", "BOOL")):
                hint = ": quantised embeddings cannot be filtered; filter first, then quantise"
            raise EmbedFilterError(
                f"{where}: tensor {name!r}: expected F16, BF16, F32 or F64, found"
                f" {info.dtype}{hint}"
            )
        dtype = _dtype(STORED_FLOATS[info.dtype])
    except BaseException:
        tensors.close()
        raise
    array = NpyArray(file, info.offset, _as_rows(info.shape), dtype, fortran_order=False)
    return MatrixTable(where, "safetensors", info.shape, dtype, array.rows, tensors.close)


def open_torch(path: Path, where: str, key: str | None) -> MatrixTable:
    """Open what torch.save has written: a tensor, its rows, or a dictionary of tensors."""
    try:
        import torch  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError(
            f'{where}: torch files need torch: pip install "embedfilter[torch]"'
        ) from error

    file = open_input(path, where)  # it is there, and a regular file
    start = file.read(0, min(file.size, 2)).tobytes()
    file.close()
    try:
        # Files of before torch 1.6 are no zip archives, and cannot be mapped.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=start == b"PK")
    except Exception as error:
        # torch raises what it likes: pickle's errors, RuntimeError, OSError ...
        if isinstance(error, MemoryError):
            raise
        other = re.search(r"GLOBAL (\S+)", str(error))
        what = other[1] if other else str(error).partition(". ")[0] or type(error).__name__
        what = " ".join(what.split())
        raise EmbedFilterError(f"{where}: expected tensors alone, found other: {what}") from None
    if isinstance(loaded, dict):
        found = {
            str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)
        }
        tensor = found[_chosen(where, list(found), key, "tensor")]
    elif isinstance(loaded, (torch.Tensor, list)):
        refuse_key(where, key, has_columns=False)
        tensor = loaded
    else:
        raise EmbedFilterError(
            f"{where}: expected a tensor, a dictionary or a list of tensors, found"
            f" {type(loaded).__name__}"
        )
    try:
        array = as_array(tensor, where)
    except (TypeError, ValueError) as error:
        raise EmbedFilterError(str(error)) from None
    rows = array.reshape(_as_rows(array.shape))
    return MatrixTable(
        where, "pt", array.shape, array.dtype, lambda a, b: np.array(rows[a:b]), lambda: None
    )


def open_input(path: Path, where: str) -> InputFile:
    """Open a regular file, which is called `where` in messages."""
    try:
        file = InputFile(path)
    except CheckpointError as error:
        if isinstance(error.__cause__, OSError):  # no such file, no permission: as Python says it
            raise error.__cause__ from None
        raise EmbedFilterError(str(error)) from None
    file.path = PurePath(where)
    return file


def _chosen(where: str, names: list[str], key: str | None, what: str) -> str:
    if key is None and len(names) == 1:
        return names[0]
    if key is None or key not in names:
        wanted = f"one {what}, or --key with its name" if key is None else f"an {what} {key!r}"
        if key is not None and what == "tensor":
            wanted = f"a tensor {key!r}"
        raise EmbedFilterError(f"{where}: expected {wanted}, found {listed(names)}")
    return key


def _dtype(name: str) -> np.dtype[Any]:
    """Return a little-endian type of NumPy, or ml_dtypes' bfloat16."""
    if name != "bfloat16":
        little: np.dtype[Any] = np.dtype(name).newbyteorder("<")
        return little
    import ml_dtypes  # noqa: PLC0415 - only where bfloat16 comes up

    brain: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return brain


def _as_rows(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape (n, d) of the rows of an array (..., d); one number is a row of its own."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def _check(where: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype.name not in FLOATS:
        hint = ""
        if dtype.kind in "iub":
            hint = ": quantised embeddings cannot be filtered; filter first, then quantise"
        raise EmbedFilterError(
            f"{where}: expected float16, bfloat16, float32 or float64, found {dtype}{hint}"
        )
    if not shape or shape[-1] < 1:
        raise EmbedFilterError(f"{where}: expected an array (..., d), found shape {shape}")
