"""Names of the parts of one whole: ``model-00001-of-00005.safetensors`` and so on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedfilter.files.endings import ending

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Part", "first_parts", "part_of", "parts_beside"]

_PART = re.compile(r"(.*?)(\d{1,6})([-_.]of[-_.])(\d{1,6})(\D.*)?", re.ASCII | re.I | re.DOTALL)
# More parts than any model has would make lists of what is missing too long to make.
_MOST_PARTS = 100_000


@dataclass(frozen=True)
class Part:
    """One part of several, by its name.

    Attributes
    ----------
    name : str
        The file's name.
    number, count : int
        Which it is, from 1 or from 0, and of how many.
    whole : tuple
        The same for all parts of one whole, and for them alone.
    """

    name: str
    number: int
    count: int
    whole: tuple[str, str, int]

    def named(self, number: int) -> str:
        """Return the name of another part, written as this one's is."""
        match = _PART.fullmatch(self.name)
        assert match is not None
        before, digits, of, count, after = match.groups("")
        return f"{before}{number:0{len(digits)}}{of}{count}{after}"


def part_of(name: str) -> Part | None:
    """Return which part of several a file is by its name; None where it is none."""
    match = _PART.fullmatch(name)
    if match is None:
        return None
    number, count = int(match[2]), int(match[4])
    if not 1 < count <= _MOST_PARTS or number > count:
        return None
    return Part(name, number, count, (match[1].lower(), (match[5] or "").lower(), count))


def parts_beside(given: Part, names: Iterable[str]) -> tuple[dict[int, str], list[str]]:
    """Return the parts of a whole among the names of a folder.

    Parameters
    ----------
    given
        One of the parts.
    names
        The folder's names.

    Returns
    -------
    dict of int to str
        The names of those that are there, by their numbers.
    list of str
        The names that those would have that are not.
    """
    parts = [part for part in map(part_of, names) if part is not None]
    found = {part.number: part.name for part in parts if part.whole == given.whole}
    found[given.number] = given.name
    # Most count from 1, some from 0.
    first = 0 if 0 in found else 1
    missing = [n for n in range(first, first + given.count) if n not in found]
    return dict(sorted(found.items())), [given.named(number) for number in missing]


def first_parts(names: Iterable[str], patterns: Iterable[re.Pattern[str]] = ()) -> list[str]:
    """Return names of files, sorted, of the parts of each whole the first alone.

    Parameters
    ----------
    names
        The names.
    patterns
        Of other names of parts: the text outside of group 1 says which whole it is.
    """
    patterns = tuple(patterns)
    kept: dict[object, str] = {}
    for name in sorted(names):
        part = part_of(name)
        whole: object = (part.whole, ending(name)) if part else name
        for pattern in patterns:
            match = pattern.fullmatch(name)
            if match is not None:
                whole = (pattern, name[: match.start(1)].lower(), name[match.end(1) :].lower())
        kept.setdefault(whole, name)
    return list(kept.values())
