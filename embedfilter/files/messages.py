"""How values and sources are written in messages, and where a filter or a lens is shown."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from pathlib import PurePath

__all__ = ["listed", "origin_of_width", "shown", "source_name"]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlist = _SHORT.maxtuple = 8
_MOST_LISTED = 10


def shown(value: object) -> str:
    """Return `value` as it is quoted in a message: escaped, and shortened where it is long."""
    return _SHORT.repr(value)


def listed(names: Iterable[str]) -> str:
    """Return names as they are listed in a message, ten at most, or "nothing"."""
    names = list(names)
    more = len(names) - _MOST_LISTED
    first = ", ".join(map(shown, names[:_MOST_LISTED])) or "nothing"
    return f"{first} and {more} more" if more > 0 else first


def source_name(source: str) -> str:
    """Return a source; of an absolute path the last two parts, as notebooks are passed on."""
    path = PurePath(source)
    return str(PurePath(*path.parts[-2:])) if path.is_absolute() else source


def origin_of_width(metadata: Mapping[str, str]) -> str:
    """Return whose hidden size a filter takes, to follow it in a message; "" where not known."""
    source = metadata.get("source", "array")
    return "" if source == "array" else f", the hidden size of {source}"
