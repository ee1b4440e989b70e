"""Rows as dictionaries: files of JSON lines, and plain lines of text."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from embedfilter.errors import EmbedFilterError
from embedfilter.files.messages import listed, shown
from embedfilter.files.tables.base import Part, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = [
    "InnerPart",
    "JsonLines",
    "Lines",
    "RecordsPart",
    "RecordsTable",
    "number_list",
    "reading",
]

_BOM = b"\xef\xbb\xbf"
# Python's numbers take many times the memory of those in an array.
_SMALLER = 8
_TEXT = "text"
_DEEPEST = 6  # columns in columns that are looked into: OpenAI's batches have five


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """Name the file in what is raised of one that is cut short or damaged, compressed or not."""
    try:
        yield
    except (EOFError, OSError, zlib.error) as error:
        raise EmbedFilterError(f"{where}: cannot be read: {error}") from None


class RecordsPart(Part):
    """Rows as dictionaries."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def array(self, column: str | None, name: str, first: int, d: int | None) -> NDArray[Any]:
        """Return a column of lists of numbers as (n, d) float64."""
        lists = [number_list(row.get(column or "")) for row in self._rows]
        try:
            array = np.array(lists, np.float64)
        except (TypeError, ValueError):
            raise _fault(lists, name, first, d) from None
        if array.ndim != 2 or d not in (None, array.shape[1]) or np.isnan(array).any():
            fault = _fault(lists, name, first, d)
            if fault is not None:
                raise fault
        return array

    def values(self, column: str) -> list[Any]:
        """Return a column."""
        return [row.get(column) for row in self._rows]

    def records(self, without: str | None) -> list[dict[str, Any]]:
        """Return the rows themselves."""
        return self._rows


class InnerPart(RecordsPart):
    """Rows with a column inside of others, which other formats than JSON have as one of its way.

    Parameters
    ----------
    rows : list of dict
        With the column outside.
    whole : list of dict
        As they were read.
    way : tuple of str
        To the column.
    """

    def __init__(
        self, rows: list[dict[str, Any]], whole: list[dict[str, Any]], way: tuple[str, ...]
    ) -> None:
        super().__init__(rows)
        self.whole, self.way = whole, way

    def put(self, row: int, value: Any) -> dict[str, Any]:
        """Return a row as it was read, with another value of the column."""
        return _put(self.whole[row], self.way, value)  # type: ignore[no-any-return]


def number_list(value: Any) -> Any:
    """Return a list of numbers; what a cell of text holds as JSON, "[0.5, 1]", is one, too.

    So is a list of one list, in which llama.cpp's server returns an embedding.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    is_one = isinstance(value, list) and len(value) == 1 and isinstance(value[0], list)
    return value[0] if is_one else value


def _fault(lists: list[Any], name: str, first: int, d: int | None) -> Any:
    """Return the error for the first row that is no list of numbers like the others."""
    width = d or next((len(row) for row in lists if isinstance(row, list)), 0)
    for number, row in enumerate(lists, first):
        if not isinstance(row, list):
            found = "none" if row is None else shown(row)
            return ValueError(
                f"{name}: expected an embedding in each row, found {found} in row {number}"
            )
        for value in row:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                found = "null" if value is None else shown(value)
                return ValueError(f"{name}: expected numbers, found {found} in row {number}")
        if len(row) != width:
            return ValueError(
                f"{name}: expected lists of {width} numbers, found {len(row)} in row {number}"
            )
    return None


class RecordsTable(Table):
    """A text file whose rows become dictionaries, read line by line.

    Parameters
    ----------
    where : str
    stream : binary file
        Closed with the table.
    """

    def __init__(self, where: str, stream: BinaryIO) -> None:
        self.where = where
        self._stream = stream
        self._rows = self._read()
        try:
            self._first: dict[str, Any] | None = next(self._rows, None)
        except BaseException:
            stream.close()
            raise

    def _read(self) -> Iterator[dict[str, Any]]:
        raise NotImplementedError

    def lines(self, *, with_ends: bool = False) -> Iterator[str]:
        r"""Iterate over the lines, which \n or \r\n end, and nothing else does; UTF-8."""
        numbered = enumerate(self._stream, 1)
        while True:
            with reading(self.where):
                number, line = next(numbered, (0, b""))
            if not number:
                return
            data = line.removeprefix(_BOM) if number == 1 else line
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError as error:
                raise EmbedFilterError(
                    f"{self.where}: expected UTF-8 in line {number}, found byte"
                    f" {data[error.start]:#04x}"
                ) from None
            yield text if with_ends else text.removesuffix("\n").removesuffix("\r")

    @property
    def names(self) -> list[str]:
        """The keys of the first row."""
        return list(self._first or ())

    def embedding_column(self, wanted: str | None) -> str | None:
        """Return the key whose value is a list of numbers."""
        row = self._first
        if row is None:
            raise EmbedFilterError(f"{self.where}: expected rows of embeddings, found none")
        if wanted is not None:
            if wanted not in row:
                raise EmbedFilterError(
                    f"{self.where}: expected a column {wanted!r}, found {listed(row)}"
                )
            return wanted
        lists = {name: number_list(value) for name, value in row.items()}
        numbers = [name for name, value in lists.items() if _is_numbers(value)]
        if len(numbers) > 1:  # tokens' ids are integers
            numbers = [name for name in numbers if any(type(v) is float for v in lists[name])]
        if len(numbers) != 1:
            found = ", ".join(numbers) or f"none among {listed(row)}"
            printed = [name for name, value in lists.items() if _is_printed(value)]
            if printed and not numbers:
                found += f", of which {printed[0]!r} has lists as NumPy prints them, without commas"
            raise EmbedFilterError(
                f"{self.where}: expected one column of lists of numbers, or --column with its"
                f" name, found {found}"
            )
        return numbers[0]

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Iterate over the rows, fewer at a time than asked for."""
        n_rows = max(1, n_rows // _SMALLER)
        rows = [] if self._first is None else [self._first]
        for row in self._rows:
            if len(rows) == n_rows:
                yield RecordsPart(rows)
                rows = []
            rows.append(row)
        if rows:
            yield RecordsPart(rows)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(v) in (int, float) for v in value)


def _is_printed(value: Any) -> bool:
    """Tell whether a text is what str() makes of an array: digits are lost in it."""
    return isinstance(value, str) and re.match(r"\s*\[[-+.\s\d]", value) is not None


def _taken(value: Any, way: tuple[str, ...]) -> tuple[Any, Any]:
    """Return what the way leads to, None if nowhere, and the value without it."""
    is_item = isinstance(value, list) and way[0].isdecimal() and int(way[0]) < len(value)
    if not is_item and not (isinstance(value, dict) and way[0] in value):
        return None, value
    step: Any = int(way[0]) if is_item else way[0]
    found, rest = (value[step], None) if len(way) == 1 else _taken(value[step], way[1:])
    copy = value.copy()
    if len(way) == 1 and not is_item:
        del copy[step]
    else:
        copy[step] = rest
    return found, copy


def _put(value: Any, way: tuple[str, ...], new: Any) -> Any:
    """Return a copy of a value with another at the end of the way, which is there."""
    if not way:
        return new
    copy = value.copy()
    step: Any = int(way[0]) if isinstance(value, list) else way[0]
    copy[step] = _put(value[step], way[1:], new)
    return copy


def _ways(
    value: Any, before: tuple[str | int, ...], deepest: int
) -> Iterator[tuple[str | int, ...]]:
    """Iterate over the ways to lists of numbers with fractions, none by a key with a dot."""
    if _is_numbers(value) and any(type(number) is float for number in value):
        yield before
    elif deepest and isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            if "." not in str(key):
                yield from _ways(inner, (*before, key), deepest - 1)


def _advice(ways: list[tuple[str | int, ...]]) -> str:
    """Return how to get at a list of numbers inside of others, of which there may be another."""
    columns = [".".join(map(str, way)) for way in ways]
    if len(ways) == 1:
        return f"--column {columns[0]}"
    n = next(i for i, (one, other) in enumerate(zip(*ways, strict=False)) if one != other)
    if not isinstance(ways[0][n], int):
        return f"--column {columns[0]} or {columns[1]}"
    way = "".join(_jq_step(step) for step in ways[0][:n])
    row = "" if len(ways[0]) > n + 1 else " | {embedding: .}"
    return f"--column {columns[0]}; of several in a line jq -c '{way}[]{row}' makes lines"


def _jq_step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if re.fullmatch(r"[A-Za-z_]\w*", step, re.ASCII) else f".{json.dumps(step)}"


class JsonLines(RecordsTable):
    """A file with a JSON object in each line; empty lines count for nothing.

    A column inside of others is named by the way to it, "data.0.embedding"; in other formats it
    becomes one of that name.
    """

    format = "jsonl"
    _way: tuple[str, ...] = ()

    def embedding_column(self, wanted: str | None) -> str | None:
        """Return the key whose value is a list of numbers, or the way to it."""
        first = self._first or {}
        if wanted is not None and wanted not in first and "." in wanted:
            way = tuple(wanted.split("."))
            value = number_list(_taken(first, way)[0])
            if value is not None and (_is_numbers(value) or not any(_ways(value, (), _DEEPEST))):
                self._way = way
                return wanted
        is_outside = any(_is_numbers(number_list(value)) for value in first.values())
        if not (is_outside if wanted is None else _is_numbers(number_list(first.get(wanted)))):
            free = (w for w in _ways(first, (), _DEEPEST) if ".".join(map(str, w)) not in first)
            ways = list(itertools.islice(free, 2))
            if ways and not is_outside:
                found = "" if wanted is None else f" {wanted!r}"
                raise EmbedFilterError(
                    f"{self.where}: expected a column{found} of lists of numbers, found one inside"
                    f" of {listed(dict.fromkeys(str(way[0]) for way in ways))}: {_advice(ways)}"
                )
        return super().embedding_column(wanted)

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Iterate over the rows, of which a column inside of others is taken out."""
        name, first = ".".join(self._way), 0
        for part in super().parts(n_rows):
            if not self._way:
                yield part
                continue
            rows, whole = [], part.records(None)
            for number, row in enumerate(whole, first):
                if name in row:
                    raise EmbedFilterError(
                        f"{self.where}: expected {name!r} inside of other keys, as in the first"
                        f" row, found a key of that name in row {number}"
                    )
                value, rest = _taken(row, self._way)
                rows.append({**rest, name: value})
            first += len(rows)
            yield InnerPart(rows, whole, self._way)

    def _read(self) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(self.lines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise EmbedFilterError(
                    f"{self.where}: expected JSON in line {number}: {error}"
                ) from None
            if not isinstance(row, dict):
                raise EmbedFilterError(
                    f"{self.where}: expected an object in line {number}, as in JSON lines, found"
                    f" a {type(row).__name__}"
                )
            yield row


class Lines(RecordsTable):
    """A file with a text in each line: one column, named "text"."""

    format = "jsonl"

    def _read(self) -> Iterator[dict[str, Any]]:
        for line in self.lines():
            yield {_TEXT: line}
