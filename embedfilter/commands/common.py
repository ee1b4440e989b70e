"""What the commands share: types and options, reading and printing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

__all__ = ["PATH", "json_option", "print_text", "read_rows"]

PATH = click.Path(path_type=Path)
_Command = Callable[..., Any]


def json_option(command: _Command) -> _Command:
    """Add the option --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_text(text: str) -> None:
    """Print text; what the stream cannot encode, such as a path's odd bytes, as escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding))


def read_rows(path: Path, n_rows: int | None = None) -> NDArray[Any]:
    """Return the first rows of a .npy file, by default all."""
    from embedfilter.npy_file import NpyReader  # noqa: PLC0415 - commands import what they need

    with contextlib.closing(NpyReader(path)) as reader:
        n = reader.shape[0] if n_rows is None else n_rows
        none = np.empty((0, reader.shape[1]), reader.dtype)
        return next(reader.blocks(max(n, 1)), none)[:n]
