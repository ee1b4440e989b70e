"""Texts in a file, one a line, and the cells of a .tsv file."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

from embedfilter.errors import EmbedFilterError

__all__ = ["read_lines", "read_table", "read_texts"]


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
    where = "standard input" if str(path) == "-" else str(path)
    data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise EmbedFilterError(
            f"{where}: expected UTF-8 in line {number}, found byte {data[error.start]:#04x}"
        ) from None
    if not text:
        raise EmbedFilterError(f"{where}: expected a line for each item, found an empty file")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def read_texts(path: Path) -> list[str]:
    """Return the texts of a file, one in each line, without space around them.

    Raises
    ------
    EmbedFilterError
        As `read_lines`, and for a line without a text.
    OSError
        If it cannot be read.
    """
    texts = [line.strip() for line in read_lines(path)]
    if not all(texts):
        where = "standard input" if str(path) == "-" else str(path)
        raise EmbedFilterError(
            f"{where}: expected a text in line {texts.index('') + 1}, found none"
        )
    return texts


def read_table(path: Path, needed: list[str]) -> list[dict[str, str]]:
    """Return the rows of a .tsv file by the names in its header, those needed among them.

    Raises
    ------
    EmbedFilterError
        As `read_lines`; if a name is not in the header, or a row is short.
    OSError
        If it cannot be read.
    """
    lines = read_lines(path)
    names = lines[0].split("\t")
    if not set(needed) <= set(names):
        raise EmbedFilterError(
            f"{path}: expected a header line with {', '.join(map(repr, needed))}, found"
            f" {', '.join(map(repr, names))[:200]}"
        )
    # Texts beside the numbers may hold quotes that mean nothing.
    text = io.StringIO("\n".join(lines), newline="\n")
    rows = list(csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE))
    for number, row in enumerate(rows, 2):
        if any(row[name] is None for name in needed):
            raise EmbedFilterError(
                f"{path}: expected {len(names)} columns, found fewer in line {number}"
            )
    return rows
