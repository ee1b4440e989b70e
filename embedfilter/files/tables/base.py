"""What all formats of tables have in common: columns, and rows that are read in parts."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedfilter.errors import EmbedFilterError
from embedfilter.files.messages import listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["EMBEDDING", "FLOATS", "Layout", "Part", "Table", "checked_rows", "joined", "refuse_key"]

EMBEDDING = "embedding"
"""The column that embeddings go into where they had no name."""
FLOATS = ("float16", "bfloat16", "float32", "float64")


class Part(abc.ABC):
    """Some consecutive rows of a table."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return how many rows."""

    @abc.abstractmethod
    def array(self, column: str | None, name: str, first: int, d: int | None) -> NDArray[Any]:
        """Return a column of lists as (n, ..., d); `first` is its first row's number."""

    @abc.abstractmethod
    def values(self, column: str) -> list[Any]:
        """Return a column as Python's own values, None where there is none."""

    @abc.abstractmethod
    def records(self, without: str | None) -> list[dict[str, Any]]:
        """Return the rows as dictionaries; of the column `without` the place alone counts."""


class Table(abc.ABC):
    """A file of rows.

    Attributes
    ----------
    where : str
        What it is called in messages.
    format : str
        A name of `embedfilter.files.tables.outputs.FORMATS`: what a like file is.
    n_rows : int or None
        None where only reading tells.
    width : int or None
        The length of embeddings, where the file says it.
    wide : bool
        Whether embeddings are written as a column a number, in text.
    lead : tuple of int or None
        Of an array (..., d) the shape without d, which the rows go through one after another;
        None of a table.
    """

    where: str
    format: str
    n_rows: int | None = None
    width: int | None = None
    wide: bool = False
    lead: tuple[int, ...] | None = None

    @property
    @abc.abstractmethod
    def names(self) -> list[str]:
        """The columns' names; none of a matrix."""

    @abc.abstractmethod
    def embedding_column(self, wanted: str | None) -> str | None:
        """Return the column of embeddings, None of a matrix; raise if it is not told."""

    @abc.abstractmethod
    def parts(self, n_rows: int) -> Iterator[Part]:
        """Iterate over the rows, about `n_rows` at a time."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def value_column(self, wanted: str | None, usual: tuple[str, ...], hint: str) -> str:
        """Return the name of a column of plain values: the wanted, a usual one, or the only.

        `hint` follows the usual names where there is none of them.
        """
        names = self.names
        if not names and self.lead is not None:
            raise EmbedFilterError(
                f"{self.where}: expected a line for each item, or a table with a column"
                f" {wanted or usual[0]!r}, found an array"
            )
        if wanted is not None:
            if wanted not in names:
                raise EmbedFilterError(
                    f"{self.where}: expected a column {wanted!r}, found {listed(names)}"
                )
            return wanted
        for name in usual:
            if name in names:
                return name
        # The first line of a .csv file may be a text, and no header.
        if len(names) != 1 or self.format in ("csv", "tsv"):
            raise EmbedFilterError(
                f"{self.where}: expected a column {' or '.join(map(repr, usual))}{hint}, found"
                f" {listed(names)}"
            )
        return names[0]


@dataclass(frozen=True)
class Layout:
    """What is to be written.

    Attributes
    ----------
    table : Table
        Whose other columns are kept, where the format has columns.
    column : str
        Where embeddings go.
    width : int
    dtype : numpy.dtype
    keeps : str or None
        The table's own column of embeddings, if it stays beside the other.
    """

    table: Table
    column: str
    width: int
    dtype: np.dtype[Any]
    keeps: str | None = None

    def shape(self, n_rows: int) -> tuple[int, ...]:
        """Return the shape of an array of so many rows, which are all."""
        lead = self.table.lead
        return (*((n_rows,) if lead is None else lead), self.width)


def refuse_key(where: str, key: str | None, *, has_columns: bool = True) -> None:
    """Raise if an array is asked for by its name, of a file that has none by names."""
    if key is not None:
        hint = "; --column names a column" if has_columns else ""
        raise EmbedFilterError(f"--key: expected none for {where}, found {key!r}{hint}")


def joined(where: str, what: str) -> EmbedFilterError:
    """Return the error of several files joined by cat: one alone would be read."""
    return EmbedFilterError(
        f"{where}: expected one {what}, found several one after another: give their files, or"
        " their folder, in place of what joins them"
    )


def checked_rows(
    table: Table, part: Part, column: str | None, first: int, d: int | None
) -> NDArray[Any]:
    """Return the embeddings (n, d) of a part of a table, of float16 to float64.

    Raises
    ------
    EmbedFilterError
        For nulls, lists of other lengths and other types, with the row.
    """
    where = table.where if column is None else f"{table.where}: column {column!r}"
    try:
        array = part.array(column, where, first, d)
    except (TypeError, ValueError) as error:
        raise EmbedFilterError(str(error)) from None
    if array.dtype.name not in FLOATS:
        hint = ""
        if array.dtype.kind in "iub":
            hint = ": quantised embeddings cannot be filtered; filter first, then quantise"
        raise EmbedFilterError(
            f"{where}: expected float16, bfloat16, float32 or float64, found {array.dtype}{hint}"
        )
    if array.ndim > 2 and all(size == 1 for size in array.shape[1:-1]):
        array = array.reshape(len(array), array.shape[-1])  # one vector in each row
    if array.ndim != 2 or (d is not None and len(array) and array.shape[1] != d):
        wanted = "one vector in each row" if d is None else f"lists of {d} numbers"
        found = array.shape[1] if array.ndim == 2 else f"shape {array.shape[1:]}"
        raise EmbedFilterError(f"{where}: expected {wanted}, found {found} in row {first}")
    return np.asarray(array)
