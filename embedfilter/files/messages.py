"""How values and sources are written in messages, and where a filter or a lens is shown."""

from __future__ import annotations

import codecs
import contextlib
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import PurePath

__all__ = ["NOT_THERE", "described", "listed", "origin_of_width", "shown", "source_name"]

NOT_THERE = "no such file or folder"
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlist = _SHORT.maxtuple = 8
_MOST_LISTED = 10
_KNOWN = {
    b"GGUF": "a GGUF file, a model", b"\x93NUMPY": "a .npy file", b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file", b"\x1f\x8b": "a compressed file", b"%PDF": "a PDF file",
    b"\x89PNG": "a picture", b"SQLite format 3": "a database",
}  # fmt: skip


def shown(value: object) -> str:
    """Return `value` as it is quoted in a message: escaped, and shortened where it is long."""
    return _SHORT.repr(value)


def listed(names: Iterable[str]) -> str:
    """Return names as they are listed in a message, ten at most, or "nothing"."""
    names = list(names)
    more = len(names) - _MOST_LISTED
    first = ", ".join(map(shown, names[:_MOST_LISTED])) or "nothing"
    return f"{first} and {more} more" if more > 0 else first


def described(start: bytes) -> str:
    """Return what a file is, by its first bytes, which are shown where they tell nothing."""
    for magic, name in _KNOWN.items():
        if start.startswith(magic):
            return name
    if not start:
        return "an empty file"
    with contextlib.suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # which may be cut
        if all(character.isprintable() or character.isspace() for character in text):
            return "a file of text"
    return f"a file that starts with {shown(start[:16])}"


def source_name(source: str) -> str:
    """Return a source; of an absolute path the last two parts, as notebooks are passed on."""
    path = PurePath(source)
    return str(PurePath(*path.parts[-2:])) if path.is_absolute() else source


def origin_of_width(metadata: Mapping[str, str]) -> str:
    """Return whose hidden size a filter takes, to follow it in a message; "" where not known."""
    source = metadata.get("source", "array")
    return "" if source == "array" else f", the hidden size of {source}"
