"""Tables in text: .csv files, quoted as usual, and .tsv files, where quotes mean nothing.

Embeddings are lists in one column, ``"[0.1, 0.2]"``, or spread over a column a number: all of the
table, or those of names that differ in a running number, ``e0, e1, ...``.
"""

from __future__ import annotations

import csv
import itertools
from typing import TYPE_CHECKING, Any, BinaryIO

from embedfilter.errors import EmbedFilterError
from embedfilter.files.messages import shown
from embedfilter.files.tables.records import RecordsPart, RecordsTable, number_list
from embedfilter.files.tables.wide import spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedfilter.files.tables.base import Part

__all__ = ["DelimitedTable"]

_DELIMITERS = (",", ";", "\t")
_MAX_CELL = 1 << 24  # characters: lists are long


class DelimitedTable(RecordsTable):
    """A .csv or .tsv file.

    The first line is a header, unless there are numbers or lists in it; running numbers, as pandas
    writes for columns without names, are a header.

    Attributes
    ----------
    has_header : bool
    """

    def __init__(self, where: str, stream: BinaryIO, tabs: bool) -> None:
        self.format = "tsv" if tabs else "csv"
        self.has_header = True
        self._spread: tuple[str, range] | None = None
        super().__init__(where, stream)

    def _read(self) -> Iterator[dict[str, Any]]:
        rows = self._cells()
        line, names = next(rows, (0, []))
        if not line:
            return
        self.has_header = _is_header(names)
        if not self.has_header:
            rows = itertools.chain([(line, names)], rows)
            names = [str(i) for i in range(len(names))]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise EmbedFilterError(
                f"{self.where}: expected a header of names that differ, found {twice!r} twice"
            )
        for line, row in rows:
            if len(row) != len(names):
                found = "fewer" if len(row) < len(names) else "more"
                raise EmbedFilterError(
                    f"{self.where}: expected {len(names)} columns, found {found} in line {line}"
                )
            yield dict(zip(names, row, strict=True))

    def _cells(self) -> Iterator[tuple[int, list[str]]]:
        """Iterate over the rows, each with the number of its line."""
        lines = self.lines(with_ends=True)  # of which a cell in quotes may have some
        first = next(lines, None)
        if first is None:
            return
        text = itertools.chain([first], lines)
        csv.field_size_limit(max(_MAX_CELL, csv.field_size_limit()))
        if self.format == "tsv":
            reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            delimiter = max(_DELIMITERS, key=first.count)
            reader = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise EmbedFilterError(f"{self.where}: line {reader.line_num}: {error}") from None

    def embedding_column(self, wanted: str | None) -> str | None:
        """Return the column of lists, or what columns of numbers are called together."""
        first = self._first
        if first is not None and wanted not in first:
            cells = list(first.values())
            bare = next((c for c in cells if c[:1] == "[" and _is_number(c[1:])), None)
            if bare is not None:
                raise EmbedFilterError(
                    f"{self.where}: expected lists of numbers in quotes, as commas separate"
                    f" columns (not in .tsv files), found one without, from {shown(bare)} on"
                )
            numbers = [_is_number(cell) for cell in cells]
            name, columns = spread(list(first), numbers, self.has_header)
            if any(isinstance(number_list(cell), list) for cell in cells):
                columns = range(0)
            if columns and wanted in (None, name):
                self._spread, self.wide = (name, columns), True
                return name
        return super().embedding_column(wanted)

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Iterate over the rows; columns of numbers become one of lists."""
        first = 0
        for part in super().parts(n_rows):
            if self._spread is None:
                yield part
                continue
            rows = part.records(None)
            yield RecordsPart([self._joined(row, first + i) for i, row in enumerate(rows)])
            first += len(rows)

    def _joined(self, row: dict[str, str], number: int) -> dict[str, Any]:
        name, columns = self._spread or ("", range(0))
        items = list(row.items())
        try:
            numbers = [float(items[i][1]) for i in columns]
        except ValueError:
            wrong = next(items[i] for i in columns if not _is_number(items[i][1]))
            raise EmbedFilterError(
                f"{self.where}: column {wrong[0]!r}: expected a number, found {shown(wrong[1])} in"
                f" row {number}"
            ) from None
        before, after = items[: columns.start], items[columns.stop :]
        return {**dict(before), name: numbers, **dict(after)}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_header(cells: list[str]) -> bool:
    numbers = [cell for cell in cells if _is_number(cell)]
    running = [[str(i) for i in range(s, s + len(numbers))] for s in (0, 1)]
    lists = any(isinstance(number_list(cell), list) for cell in cells)
    return not lists and (not numbers or (len(numbers) > 2 and numbers in running))
