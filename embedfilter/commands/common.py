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

    from embedfilter.files.tables.base import Table
    from embedfilter.filter import EmbedFilter

__all__ = [
    "CHECKPOINT",
    "PATH",
    "base_option",
    "batch_size_option",
    "block_rows",
    "check_width",
    "column_option",
    "device_option",
    "dtype_option",
    "each_block",
    "filter_option",
    "in_rows",
    "is_same_file",
    "json_option",
    "key_option",
    "print_text",
    "read_rows",
    "revision_option",
    "template_option",
    "tensor_option",
    "threads_option",
]

PATH = click.Path(path_type=Path)
CHECKPOINT = click.Path(path_type=str)  # a string, since it may be the id of a model on the Hub
_ROWS = 8192  # read at a time where all are kept
_BLOCK_BYTES = 4 << 20  # of a file that is streamed, in float32


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
batch_size_option = click.option(
    "--batch-size", type=click.IntRange(1), default=32, show_default=True
)
device_option = click.option(
    "--device", help="Where the model runs: cpu, cuda, ...  [default: the best there is]"
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the model's weights.",
)
filter_option = click.option(
    "--filter", "filter_file", type=PATH, help="Show what is left after this filter, too."
)
column_option = click.option(
    "--column", help="The column of embeddings, of tables.  [default: the only one of lists]"
)
key_option = click.option(
    "--key", help="The array, of .npz, .safetensors and torch files.  [default: the only one]"
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


def read_rows(
    path: Path, n_rows: int | None = None, *, column: str | None = None, key: str | None = None
) -> NDArray[Any]:
    """Return the first rows (n, d) of a file of embeddings, by default all."""
    import numpy as np  # noqa: PLC0415 - light --help

    from embedfilter.files.tables.base import checked_rows  # noqa: PLC0415
    from embedfilter.files.tables.opening import open_table  # noqa: PLC0415

    blocks: list[NDArray[Any]] = []
    with open_table([path], key) as table:
        name, done, width = table.embedding_column(column), 0, table.width
        for part in table.parts(_ROWS if n_rows is None else min(n_rows, _ROWS)):
            blocks.append(checked_rows(table, part, name, done, width))
            width = blocks[-1].shape[1]
            done += len(part)
            if n_rows is not None and done >= n_rows:
                break
    rows = np.concatenate(blocks) if blocks else np.empty((0, width or 0), np.float32)
    return rows[:n_rows]


def block_rows(d: int) -> int:
    """Return how many embeddings of d numbers are read at a time."""
    return max(1, _BLOCK_BYTES // (4 * d))


def check_width(table: Table, f: EmbedFilter) -> None:
    """Raise if a table is known to hold embeddings of another width than a filter takes."""
    if table.width is not None and table.width != f.n_features_in:
        raise EmbedFilterError(
            f"{table.where}: expected rows of {f.n_features_in}, as {f.metadata.get('source')} has,"
            f" found rows of {table.width}"
        )


def in_rows(table: Table, column: str | None, first: int, n: int, error: ValueError) -> Exception:
    """Return an error about rows of a file, from one about rows of a block of it."""
    where = table.where if column is None else f"{table.where}: column {column!r},"
    colon = ":" if column is None else ""
    return EmbedFilterError(f"{where}{colon} rows {first} to {first + n - 1}: {error}")


def each_block(
    table: Table,
    column: str | None,
    f: EmbedFilter,
    use: Callable[[NDArray[Any]], object],
    what: str,
) -> None:
    """Hand a table's embeddings, a block of rows at a time, to a function; show how far it is.

    Parameters
    ----------
    table : Table
    column : str or None
        As the table's `embedding_column` returns it.
    f : EmbedFilter
        Takes embeddings of the table's width, or this raises.
    use : callable
        Of a ValueError that it raises the message is told with the file and the rows.
    what : str
        What is being done, beside the bar.
    """
    from tqdm import tqdm  # noqa: PLC0415 - light --help

    from embedfilter.files.tables.ahead import ahead  # noqa: PLC0415
    from embedfilter.files.tables.base import checked_rows  # noqa: PLC0415

    d = f.n_features_in
    check_width(table, f)
    done = 0
    with tqdm(total=table.n_rows, desc=what, unit=" rows", unit_scale=True, disable=None) as bar:
        for part in ahead(table.parts(block_rows(d))):
            rows = checked_rows(table, part, column, done, d)
            try:
                use(rows)
            except ValueError as error:
                raise in_rows(table, column, done, len(rows), error) from None
            done += len(part)
            bar.update(len(part))
