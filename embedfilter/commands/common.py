"""What the commands share: types and options, reading and printing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = [
    "BLOCK_BYTES",
    "PATH",
    "is_same_file",
    "json_option",
    "print_text",
    "threads_option",
]

PATH = click.Path(path_type=Path)
BLOCK_BYTES = 16 << 20  # of a file that is streamed
_Command = Callable[..., Any]


def threads_option(command: _Command) -> _Command:
    """Add the option --threads."""
    return click.option(
        "--threads",
        "n_threads",
        type=int,
        help="Threads to use.  [default: EMBEDFILTER_NUM_THREADS, OPENBLAS_NUM_THREADS or"
        " OMP_NUM_THREADS, else all processors]",
    )(command)


def json_option(command: _Command) -> _Command:
    """Add the option --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_text(text: str) -> None:
    """Print text; what the stream cannot encode, such as a path's odd bytes, as escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding))


def is_same_file(path: Path, other: Path) -> bool:
    """Tell whether two paths lead to the same file, which exists."""
    try:
        return path.samefile(other)
    except OSError:  # one of them does not exist
        return False
