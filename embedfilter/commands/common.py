"""What the commands share: types and options, reading and printing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedfilter.errors import EmbedFilterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedfilter.files.embeddings import EmbeddingsFile
    from embedfilter.filter import EmbedFilter

__all__ = [
    "CHECKPOINT",
    "PATH",
    "base_option",
    "each_block",
    "filter_option",
    "is_same_file",
    "json_option",
    "print_text",
    "read_rows",
    "revision_option",
    "template_option",
    "tensor_option",
    "threads_option",
]

PATH = click.Path(path_type=Path)
CHECKPOINT = click.Path(path_type=str)  # a string, since it may be the id of a model on the Hub
_BLOCK_BYTES = 16 << 20  # of a file that is streamed


threads_option = click.option(
    "--threads",
    "n_threads",
    type=int,
    help="Threads to use.  [default: EMBEDFILTER_NUM_THREADS, OPENBLAS_NUM_THREADS or"
    " OMP_NUM_THREADS, else all processors]",
)
revision_option = click.option(
    "--revision", help="Of a model on the Hub: a branch, a tag or a commit.  [default: main]"
)
tensor_option = click.option(
    "--tensor", help="The unembedding matrix's name, where it is not found by itself."
)
base_option = click.option(
    "--base",
    metavar="MODEL",
    type=CHECKPOINT,
    help="Take the head of this model: of an embedding model that was saved without its head"
    " the one that it was made of.",
)
template_option = click.option(
    "--template",
    type=click.Choice(["prompteol", "echo", "mean"]),
    default="prompteol",
    show_default=True,
    help="How a language model reads a text, and which of its states are pooled.",
)
filter_option = click.option(
    "--filter", "filter_file", type=PATH, help="Show what is left after this filter, too."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


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
    """Return the first rows of a file of embeddings, by default all."""
    from embedfilter.files.embeddings import EmbeddingsFile  # noqa: PLC0415 - light --help

    with EmbeddingsFile(path) as file:
        return file.rows(n_rows)


def each_block(
    file: EmbeddingsFile, f: EmbedFilter, use: Callable[[NDArray[Any]], object], what: str
) -> None:
    """Hand a file's embeddings, a block of rows at a time, to a function; show how far it is.

    Parameters
    ----------
    file : EmbeddingsFile
    f : EmbedFilter
        Takes embeddings of the file's width, or this raises.
    use : callable
        Of a ValueError that it raises the message is told with the file and the rows.
    what : str
        What is being done, beside the bar.
    """
    from tqdm import tqdm  # noqa: PLC0415 - light --help

    n_rows, d = file.shape
    if d != f.n_features_in:
        raise EmbedFilterError(
            f"{file.path}: expected rows of {f.n_features_in}, as {f.metadata.get('source')} has,"
            f" found rows of {d}"
        )
    done = 0
    with tqdm(total=n_rows, desc=what, unit=" rows", unit_scale=True, disable=None) as bar:
        for block in file.blocks(_BLOCK_BYTES):
            try:
                use(block)
            except ValueError as error:
                raise EmbedFilterError(
                    f"{file.path}: rows {done} to {done + len(block) - 1}: {error}"
                ) from None
            done += len(block)
            bar.update(len(block))
