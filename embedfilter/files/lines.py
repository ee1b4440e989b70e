"""Texts, labels and judgements in files: lines, or a column of a table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedfilter.errors import EmbedFilterError
from embedfilter.files.endings import NPY, ending
from embedfilter.files.messages import listed, shown
from embedfilter.files.tables.delimited import DelimitedTable
from embedfilter.files.tables.opening import is_table, open_lines, open_table

if TYPE_CHECKING:
    from embedfilter.files.tables.base import Table

__all__ = [
    "open_texts", "part_texts", "read_labels", "read_lines", "read_table", "read_texts",
]  # fmt: skip

_ROWS = 32_768
_TEXTS = ("text", "sentence", "content", "document")
_LABELS = ("label",)


def read_lines(path: Path) -> list[str]:
    r"""Return the lines of a file, or of standard input for "-".

    UTF-8, with or without the mark at its start that some programs write. \n and \r\n end a line,
    and nothing else does: Unicode's other separators are part of a text.

    Raises
    ------
    EmbedFilterError
        If it is empty, or not UTF-8.
    OSError
        If it cannot be read.
    """
    with open_lines(path) as table:
        lines = [line for part in table.parts(_ROWS) for line in part.values("text")]
        if not lines:
            raise EmbedFilterError(
                f"{table.where}: expected a line for each item, found an empty file"
            )
    return lines


def open_texts(path: Path, column: str | None = None) -> tuple[Table, str]:
    """Open a file of texts, one in each line, or in a column of a table.

    Returns
    -------
    table : Table
    column : str
        That of the texts.

    Raises
    ------
    EmbedFilterError
        If there is no such column, or no usual one.
    OSError
        If it cannot be read.
    """
    if column is None and not is_table(path):
        return open_lines(path), "text"
    table = open_table([path])
    try:
        return table, table.value_column(column, _TEXTS, ", or --column with its name")
    except BaseException:
        table.close()
        raise


def part_texts(table: Table, values: list[Any], first: int) -> list[str]:
    """Return texts, without space around them; of rows from number `first` on.

    Raises
    ------
    EmbedFilterError
        For a row without a text.
    """
    texts = []
    for number, value in enumerate(values, first):
        text = value.strip() if isinstance(value, str) else ""
        if not text:
            lines = table.names == ["text"] and table.n_rows is None
            place = f"line {number + 1}" if lines else f"row {number}"
            found = "none" if value is None or isinstance(value, str) else shown(value)
            raise EmbedFilterError(
                f"{table.where}: expected a text in {place}, found {found}: leave the row out,"
                " and what is beside it in other files"
            )
        texts.append(text)
    return texts


def read_texts(path: Path, column: str | None = None) -> list[str]:
    """Return the texts of a file; see `open_texts` and `part_texts`."""
    table, name = open_texts(path, column)
    texts: list[str] = []
    with table:
        for part in table.parts(_ROWS):
            texts += part_texts(table, part.values(name), len(texts))
    if not texts:
        raise EmbedFilterError(f"{table.where}: expected a line for each item, found an empty file")
    return texts


def read_labels(path: Path, column: str | None = None) -> list[str]:
    """Return the labels of a file: one in each line, in a column, "label", of a table, or a .npy.

    Raises
    ------
    EmbedFilterError
        For a row without a label.
    OSError
        If it cannot be read.
    """
    if column is None and ending(path) in NPY:
        return _labels(path, _array_values(path))
    if column is None and not is_table(path):
        lines = read_lines(path)
        if "\t" not in lines[0]:
            if not all(line.strip() for line in lines):
                empty = [bool(line.strip()) for line in lines].index(False) + 1
                raise EmbedFilterError(f"{path}: expected a label in line {empty}, found none")
            return lines
        if str(path) == "-":  # which is read by now
            raise EmbedFilterError("-: expected a label in each line, found a table: give its file")
        return _labels(path, [row["label"] for row in read_table(path, ["label"])])
    with open_table([path]) as table:
        name = table.value_column(column, _LABELS, "")
        return _labels(path, [v for part in table.parts(_ROWS) for v in part.values(name)])


def _array_values(path: Path) -> list[Any]:
    """Return the values of an array (n,) in a .npy file."""
    try:
        values = np.load(path, allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise EmbedFilterError(f"{path}: expected a .npy file of labels: {error}") from None
    if not isinstance(values, np.ndarray) or values.ndim != 1:
        found = f"shape {values.shape}" if isinstance(values, np.ndarray) else "another file"
        raise EmbedFilterError(f"{path}: expected an array of labels (n,), found {found}")
    return list(values.tolist())


def _labels(path: Path, values: list[Any]) -> list[str]:
    for number, value in enumerate(values):
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        if missing or not str(value).strip():
            raise EmbedFilterError(f"{path}: expected a label in row {number}, found none")
    return [str(value) for value in values]


def read_table(path: Path, needed: list[str]) -> list[dict[str, Any]]:
    """Return the rows of a table, those needed among their columns.

    A file whose ending does not say what it is has tabs between columns, and a header.

    Raises
    ------
    EmbedFilterError
        If it is empty, a column is not there, or a row is short.
    OSError
        If it cannot be read.
    """
    if is_table(path):
        table = open_table([path])
    else:
        lines = open_lines(path)
        table = DelimitedTable(lines.where, lines._stream, tabs=True)  # type: ignore[attr-defined]
    with table:
        if not set(needed) <= set(table.names):
            raise EmbedFilterError(
                f"{table.where}: expected a header line with {', '.join(map(repr, needed))}, found"
                f" {listed(table.names)}"
            )
        return [row for part in table.parts(_ROWS) for row in part.records(None)]
