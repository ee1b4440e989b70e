"""What the library says of its arguments, in the words of the command line.

The library names parameters as Python has them: ``n_threads: expected ...``, ``pass tensor=``. Who
has typed a command is told ``--threads: expected ...``, ``pass --tensor``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import click

__all__ = ["in_options"]

# What commands call otherwise than the library does.
_OTHERS = {"filter_file": "filter", "X": "embeddings", "X_sample": "embeddings",
           "scores": "pairs", "words": "vocabulary"}  # fmt: skip
_LEADING = re.compile(r"(?:[A-Za-z_]+, )*[A-Za-z_]+(?=: )")
_TWICE = re.compile(r"\b[a-z_]+=[A-Z]+ \((--[a-z-]+ [A-Z]+)\)")  # base=MODEL (--base MODEL)
# Not a part of a path, as kind=a/x.parquet.
_GIVEN = re.compile(r"(?<![\w./])([a-z_]+)=('[^']*'|[A-Z]+|\d[\d.]*)?(?=[\s,;)]|$)")
_UNDERSCORED = re.compile(r"(?<![\w.'=-])[a-z]+_[a-z_]+\b(?![.'(])")


def in_options(message: str, command: click.Command, others: Mapping[str, click.Command]) -> str:
    """Return a message about parameters of the library as one about options of a command.

    Parameters
    ----------
    message : str
    command : click.Command
        Whose options are named.
    others : mapping of str to click.Command
        Of options that it has not, the first of these that has it is named, too.
    """
    names = _names(command)
    for name, other in others.items():
        for parameter, option in _names(other).items():
            if option.startswith("-"):
                names.setdefault(parameter, f"{option} (of {name})")

    leading = _LEADING.match(message)
    if leading is not None:
        words = leading[0].split(", ")
        if all(word in names for word in words):
            message = ", ".join(names[word] for word in words) + message[leading.end() :]
    message = _TWICE.sub(r"\1", message)
    message = _GIVEN.sub(lambda match: _given(match, names), message)
    return _UNDERSCORED.sub(lambda match: names.get(match[0], match[0]), message)


def _given(match: re.Match[str], names: Mapping[str, str]) -> str:
    name, value = match[1], match[2]
    if name not in names:
        return match[0]
    return names[name] if value is None else f"{names[name]} {value.strip(chr(39))}"


def _names(command: click.Command) -> dict[str, str]:
    """Return what the command line calls each parameter of a command."""
    names: dict[str, str] = {}
    for part in command.commands.values() if isinstance(command, click.Group) else ():
        names |= _names(part)
    for param in command.params:
        if isinstance(param, click.Argument):
            shown = param.make_metavar(click.Context(command)).strip("[]")
        else:
            shown = max(param.opts, key=len)
            names[shown.lstrip("-").replace("-", "_")] = shown
        names[str(param.name).removesuffix("_file")] = shown
        names[str(param.name)] = shown
    for name, ours in _OTHERS.items():
        if ours in names:
            names.setdefault(name, names[ours])
    if "checkpoint" in names or "model" in names:
        names.setdefault("source", names.get("checkpoint") or names["model"])
    return names
