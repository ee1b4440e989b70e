"""What the library says of its arguments, in the words of the command line.

The library names parameters as Python has them: ``n_threads: expected ...``, ``pass tensor=``. Who
has typed a command is told ``--threads: expected ...``, ``pass --tensor``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

__all__ = ["in_options"]

# What commands call otherwise than the library does.
_OTHERS = {"filter_file": "filter", "X": "embeddings", "X_sample": "embeddings",
           "scores": "pairs", "words": "vocabulary"}  # fmt: skip
_LEADING = re.compile(r"(?:[A-Za-z_]+, )*[A-Za-z_]+(?=: )")
_TWICE = r"\b[a-z_]+=[A-Z]+ \((?P<option>--[a-z-]+ [A-Z]+)\)"  # base=MODEL (--base MODEL)
# Not a part of a path, as kind=a/x.parquet.
_GIVEN = r"(?<![\w./])(?P<given>[a-z_]+)=(?P<value>'[^']*'|[A-Z]+|\d[\d.]*)?(?=[\s,;)]|$)"
_UNDERSCORED = r"(?<![\w./'=-])(?P<name>[a-z]+_[a-z_]+)\b(?![./'(])"


def in_options(
    message: str,
    command: click.Command,
    others: Mapping[str, click.Command],
    arguments: Sequence[str] = (),
) -> str:
    """Return a message about parameters of the library as one about options of a command.

    Parameters
    ----------
    message : str
    command : click.Command
        Whose options are named.
    others : mapping of str to click.Command
        Of options that it has not, the first of these that has it is named, too.
    arguments : sequence of str
        What was typed: a file's name stays as it is, be it that of a parameter.
    """
    names = _names(command)
    for name, other in others.items():
        for parameter, option in _names(other).items():
            if option.startswith("-"):
                names.setdefault(parameter, f"{option} (of {name})")

    typed = _typed(arguments)
    leading = _LEADING.match(message)
    if leading is not None:
        words = leading[0].split(", ")
        if all(word in names and word not in typed for word in words):
            message = ", ".join(names[word] for word in words) + message[leading.end() :]
    # What was typed comes first, and is passed over.
    kept = "|".join(re.escape(text) for text in sorted(typed, key=len, reverse=True))
    patterns = [rf"(?<!\w)(?:{kept})(?![\w=])"] * bool(kept) + [_TWICE, _GIVEN, _UNDERSCORED]
    return re.sub("|".join(patterns), lambda match: _reworded(match, names), message)


def _typed(arguments: Sequence[str]) -> set[str]:
    """Return the arguments and values of options, as messages may show them."""
    values = {
        text.partition("=")[2] if text.startswith("--") else text
        for text in arguments
        if text.startswith("--") or not text.startswith("-")
    }
    return {shown for text in values if text for shown in (text, str(Path(text)))}


def _reworded(match: re.Match[str], names: Mapping[str, str]) -> str:
    option, given, value, name = match.group("option", "given", "value", "name")
    if option is not None:
        return option
    if given in names:
        return names[given] if value is None else f"{names[given]} {value.strip(chr(39))}"
    return names.get(name, match[0])


def _names(command: click.Command) -> dict[str, str]:
    """Return what the command line calls each parameter of a command."""
    names: dict[str, str] = {}
    for part in command.commands.values() if isinstance(command, click.Group) else ():
        names |= _names(part)
    for param in command.params:
        if isinstance(param, click.Argument):
            shown = (param.metavar or str(param.name).upper()).removesuffix("...")
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
