"""Tables written as JSON lines, and as .csv and .tsv files."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from embedfilter.errors import EmbedFilterError
from embedfilter.files.tables.records import InnerPart

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from embedfilter.files.tables.base import Layout, Part

__all__ = ["CsvOutput", "JsonLinesOutput"]


def _number_format(dtype: np.dtype[Any]) -> str:
    """Return the format of a number that tells it from all others of its type."""
    return "%d" if dtype.kind in "iu" else "%.9g"


class JsonLinesOutput:
    """A JSON object a line: the keys that the row had, in their order, and the embedding."""

    def __init__(self, target: BinaryIO, layout: Layout) -> None:
        self._target, self._layout = target, layout
        self._keys: dict[str, str] = {}
        self._list = "[" + ", ".join([_number_format(layout.dtype)] * layout.width) + "]"

    def write(self, part: Part, rows: NDArray[Any]) -> None:
        """Write rows."""
        name = self._layout.column
        lines = []
        if isinstance(part, InnerPart):
            self._write_inside(part, rows.tolist())
            return
        for record, row in zip(part.records(name), rows.tolist(), strict=True):
            self._check_is_new(record)
            text = self._list % tuple(row)
            items = record if name in record else {**record, name: None}
            cells = [
                self._key(key) + (text if key == name else self._json(value, key))
                for key, value in items.items()
            ]
            lines.append("{" + ", ".join(cells) + "}\n")
        self._target.write("".join(lines).encode("utf-8", "surrogatepass"))

    def _write_inside(self, part: InnerPart, rows: list[list[Any]]) -> None:
        """Write rows with embeddings where they were, or beside all that there was."""
        name, number = self._layout.column, _number_format(self._layout.dtype)
        read = int if number == "%d" else float
        for i, row in enumerate(rows):
            numbers = [read(number % value) for value in row]
            is_there = name == ".".join(part.way)
            if not is_there:
                self._check_is_new(part.whole[i])
            record = part.put(i, numbers) if is_there else {**part.whole[i], name: numbers}
            self._target.write(f"{self._json(record, name)}\n".encode("utf-8", "surrogatepass"))

    def _check_is_new(self, record: Mapping[str, Any]) -> None:
        """Raise if a row has the key that the embedding is to have beside its own."""
        if self._layout.keeps is not None and self._layout.column in record:
            raise EmbedFilterError(
                f"{self._layout.table.where}: --output-column: expected a key that no row has,"
                f" found {self._layout.column!r}, whose values would be lost"
            )

    def _key(self, key: str) -> str:
        if key not in self._keys:
            self._keys[key] = f"{_ENCODE(key)}: "
        return self._keys[key]

    def _json(self, value: Any, key: str) -> str:
        try:
            text = _ENCODE(value)
        except TypeError as error:
            raise EmbedFilterError(
                f"{self._layout.table.where}: column {key!r}: expected what JSON can hold: {error}"
            ) from None
        # Half a pair of surrogates, which JSON can name and UTF-8 cannot hold.
        return text if _is_utf8(text) else json.dumps(value, default=_plain)

    def finish(self) -> None:
        """Do nothing more."""


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)  # as a number it would lose digits
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"found {type(value).__name__}")


_ENCODE = json.JSONEncoder(ensure_ascii=False, default=_plain).encode


class CsvOutput:
    """A .csv or .tsv file: embeddings as a list in a cell, or a column a number where they were so.

    It has a header, unless the table that it comes from had none.
    """

    def __init__(self, target: BinaryIO, layout: Layout, *, tabs: bool) -> None:
        self._target, self._layout, self._tabs = target, layout, tabs
        table = layout.table
        self._wide = table.wide or table.width is not None
        self._names: list[str] | None = None
        self._has_header = getattr(table, "has_header", True)
        self._number = _number_format(layout.dtype)

    def write(self, part: Part, rows: NDArray[Any]) -> None:
        """Write rows."""
        name, keeps = self._layout.column, self._layout.keeps
        records = part.records(name)
        text = io.StringIO(newline="")
        writer = self._writer(text)
        if self._names is None:
            self._names = list(records[0]) if records else []
            if name not in self._names:
                self._names.append(name)
            if self._has_header:
                writer(self._header(records[0] if records else {}))
        for record, row in zip(records, rows.tolist(), strict=True):
            cells: list[str] = []
            numbers = [self._number % value for value in row]
            for key in self._names:
                if key == name and self._wide:
                    cells += numbers
                elif key == name:
                    cells.append(f"[{', '.join(numbers)}]")
                elif key == keeps and self._layout.table.wide:
                    cells += [repr(value) for value in record[key]]
                else:
                    cells.append(self._cell(record.get(key), key))
            extra = record.keys() - set(self._names)
            if extra:
                raise EmbedFilterError(
                    f"{self._layout.table.where}: expected the keys of the first row, found"
                    f" {min(extra)!r}, for which there is no column"
                )
            writer(cells)
        self._target.write(text.getvalue().encode("utf-8", "surrogatepass"))

    def _header(self, first: dict[str, Any]) -> list[str]:
        made: list[str] = []
        for key in self._names or ():
            if key == self._layout.column and self._wide:
                made += [f"{key}{i}" for i in range(self._layout.width)]
            elif key == self._layout.keeps and self._layout.table.wide:
                made += [f"{key}{i}" for i in range(len(first[key]))]
            else:
                made.append(key)
        return made

    def _writer(self, text: io.StringIO) -> Any:
        if not self._tabs:
            # Of the characters in a cell csv quotes those that end lines, before Python 3.13 no
            # others: both of them end lines, and one is taken off again.
            lines = SimpleNamespace(write=lambda line: text.write(line.removesuffix("\r\n") + "\n"))
            return csv.writer(lines, lineterminator="\r\n").writerow

        def write(cells: list[str]) -> None:
            if any("\t" in cell or "\n" in cell or "\r" in cell for cell in cells):
                raise EmbedFilterError(
                    f"{self._layout.table.where}: expected texts without tabs and ends of lines,"
                    " which .tsv cannot hold, found one; write .csv"
                )
            text.write("\t".join(cells) + "\n")

        return write

    def _cell(self, value: Any, key: str) -> str:
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        if isinstance(value, (bytes, bytearray)):
            raise EmbedFilterError(
                f"{self._layout.table.where}: column {key!r}: expected text or numbers, found bytes"
            )
        if isinstance(value, (dict, list, bool)):
            return json.dumps(value, ensure_ascii=False, default=_plain)
        return value.isoformat() if isinstance(value, datetime.date) else str(value)

    def finish(self) -> None:
        """Do nothing more."""
