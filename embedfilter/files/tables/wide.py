"""Embeddings that are spread over a column a number: which columns, and what they are together."""

from __future__ import annotations

import re

from embedfilter.files.tables.base import EMBEDDING

__all__ = ["spread"]

_NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)


def spread(names: list[str], is_number: list[bool], has_header: bool) -> tuple[str, range]:
    """Return what columns of numbers are called together, and where they are, if anywhere.

    They are those whose names differ in a running number, ``e0, e1, ...``, or all.

    Parameters
    ----------
    names : list of str
    is_number : list of bool
        Of each column, or of its first row.
    has_header : bool
        Whether people gave the names: then numbers beside texts are no embedding.
    """
    if has_header:
        runs = [run for run in _numbered(names) if len(run[1]) > 1]
        if runs:  # of several it is not told which
            return (runs[0][0] or EMBEDDING, runs[0][1]) if len(runs) == 1 else ("", range(0))
    numbers = [i for i, is_one in enumerate(is_number) if is_one]
    adjacent = numbers == list(range(numbers[0], numbers[-1] + 1)) if numbers else False
    if adjacent and (len(numbers) == len(names) or not has_header):
        return EMBEDDING, range(numbers[0], numbers[-1] + 1)
    return "", range(0)


def _numbered(names: list[str]) -> list[tuple[str, range]]:
    """Return the runs of adjacent names that differ in a running number."""
    runs: list[tuple[str, range]] = []
    for place, name in enumerate(names):
        match = _NUMBERED.fullmatch(name)
        if match is None:
            continue
        prefix, number = match[1], int(match[2])
        if runs:
            last, columns = runs[-1]
            before = _NUMBERED.fullmatch(names[place - 1]) if place else None
            if (
                columns.stop == place
                and last == prefix
                and before is not None
                and int(before[2]) + 1 == number
            ):
                runs[-1] = prefix, range(columns.start, place + 1)
                continue
        runs.append((prefix, range(place, place + 1)))
    return runs
