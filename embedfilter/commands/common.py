"""What the commands share: types and options, reading and printing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from embedfilter.errors import EmbedFilterError

__all__ = [
    "BLOCK_BYTES",
    "CHECKPOINT",
    "PATH",
    "filter_option",
    "is_same_file",
    "json_option",
    "print_text",
    "read_rows",
    "read_texts",
    "revision_option",
    "tensor_option",
    "threads_option",
]

PATH = click.Path(path_type=Path)
CHECKPOINT = click.Path(path_type=str)  # a string, since it may be the id of a model on the Hub
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


def revision_option(command: _Command) -> _Command:
    """Add the option --revision."""
    return click.option(
        "--revision", help="Of a model on the Hub: a branch, a tag or a commit.  [default: main]"
    )(command)


def tensor_option(command: _Command) -> _Command:
    """Add the option --tensor."""
    return click.option(
        "--tensor", help="The unembedding matrix's name, where it is not found by itself."
    )(command)


def filter_option(command: _Command) -> _Command:
    """Add the option --filter."""
    return click.option(
        "--filter", "filter_file", type=PATH, help="Show what is left after this filter, too."
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


def read_rows(path: Path, n_rows: int | None = None) -> NDArray[Any]:
    """Return the first rows of a .npy file, by default all."""
    from embedfilter.npy_file import NpyReader  # noqa: PLC0415 - commands import what they need

    with contextlib.closing(NpyReader(path)) as reader:
        n = reader.shape[0] if n_rows is None else n_rows
        none = np.empty((0, reader.shape[1]), reader.dtype)
        return next(reader.blocks(max(n, 1)), none)[:n]


def read_texts(path: Path) -> list[str]:
    """Return the texts of a file, one in each line; of standard input for "-"."""
    name = "standard input" if str(path) == "-" else str(path)
    data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    return list(_lines(name, data))


def _lines(name: str, data: bytes) -> Iterator[str]:
    lines = data.splitlines()
    if not lines:
        raise EmbedFilterError(f"{name}: expected a text in each line, found an empty file")
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise EmbedFilterError(
                f"{name}: expected UTF-8 in line {number}, found byte {line[error.start]:#04x}"
            ) from None
        if not text:
            raise EmbedFilterError(f"{name}: expected a text in line {number}, found none")
        yield text
