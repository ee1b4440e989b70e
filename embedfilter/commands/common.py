"""What the commands share: types and options, reading and printing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedfilter.commands.roles import EMBEDDINGS, FILTER, check_order, is_model
from embedfilter.errors import EmbedFilterError
from embedfilter.files.messages import origin_of_width

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedfilter.files.tables.base import Part, Table
    from embedfilter.filter import EmbedFilter

__all__ = [
    "CHECKPOINT",
    "FILE",
    "PATH",
    "base_option",
    "batch_size_option",
    "block_rows",
    "check_filter_output",
    "check_is_matrix",
    "check_width",
    "column_option",
    "device_option",
    "dtype_option",
    "each_block",
    "embedding_rows",
    "filter_option",
    "in_rows",
    "is_same_file",
    "json_option",
    "key_option",
    "load_filter",
    "on_terminal",
    "open_filter",
    "print_text",
    "read_beside",
    "read_rows",
    "revision_option",
    "tell_of_opening",
    "template_option",
    "tensor_option",
    "texts_option",
    "threads_option",
]


class _Path(click.Path):
    """A path. An empty one, as an unset variable of the shell gives, would be this folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("expected a path, found an empty one", param, ctx)
        return super().convert(value, param, ctx)


PATH = _Path(path_type=Path)
CHECKPOINT = _Path(path_type=str)  # a string, since it may be the id of a model on the Hub
FILE = _Path(path_type=str)
_ROWS = 4096  # read at a time, at most: other columns may be long
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
    help="How a language model reads a text, and which of its states are pooled."
    "  [default: that of an encoder that was saved, else prompteol]",
)
batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="How many texts the model reads at a time.",
)
device_option = click.option(
    "--device", help="Where the model runs: cpu, cuda, ...  [default: the best there is]"
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="The type of the model's weights.",
)
filter_option = click.option(
    "--filter", "filter_file", type=PATH, help="Show what is left after this filter, too."
)
texts_option = click.option(
    "--texts",
    "texts_file",
    type=PATH,
    help="Show these beside the vectors: a file with the text of each in a line, or a table with a"
    " column 'text'.",
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


def on_terminal() -> bool:
    """Tell whether a progress bar would be seen, and would not fill a file."""
    return sys.stderr.isatty()


def tell_of_opening(model: str) -> None:
    """Tell whoever watches why nothing happens for some seconds."""
    if on_terminal():
        click.echo(f"embedfilter: opening {model} ...", err=True)


def load_filter(path: Path, embeddings: str | Path) -> EmbedFilter:
    """Read a filter, and say so if it and the embeddings are the other way round."""
    check_order((FILTER, path), (EMBEDDINGS, embeddings))
    return open_filter(path)


def open_filter(path: Path) -> EmbedFilter:
    """Read a filter; of a model in its place say how to make one."""
    from embedfilter.filter import EmbedFilter  # noqa: PLC0415 - light --help

    if is_model(path):
        raise EmbedFilterError(
            f"{path}: expected a filter, found a model: 'embedfilter fit {path} -o"
            " filter.safetensors' makes one of it"
        )
    return EmbedFilter.load(path)


def check_filter_output(path: Path) -> None:
    """Raise if a filter cannot be written to a file, or its name says that it is something else."""
    from embedfilter.files.atomic import check_target  # noqa: PLC0415 - light --help
    from embedfilter.files.filter_file import check_filter_name  # noqa: PLC0415

    check_filter_name(path)
    check_target(path)


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
        check_is_matrix(table)
        name, done, width = table.embedding_column(column), 0, table.width
        for part in table.parts(_ROWS if n_rows is None else min(n_rows, _ROWS)):
            blocks.append(checked_rows(table, part, name, done, width))
            width = blocks[-1].shape[1]
            done += len(part)
            if n_rows is not None and done >= n_rows:
                break
    rows = np.concatenate(blocks) if blocks else np.empty((0, width or 0), np.float32)
    return rows[:n_rows]


def read_beside(path: Path | None, embeddings: Path, n_rows: int) -> list[str] | None:
    """Return the texts of the first rows of embeddings, None where there is no file of them."""
    from embedfilter.files.lines import read_texts  # noqa: PLC0415 - light --help

    if path is None:
        return None
    texts = read_texts(path)
    if len(texts) < n_rows:
        raise EmbedFilterError(
            f"{path}: expected {n_rows} texts, one for each row of {embeddings}, found {len(texts)}"
        )
    return texts[:n_rows]


def block_rows(d: int) -> int:
    """Return how many embeddings of d numbers are read at a time."""
    return max(1, min(_ROWS, _BLOCK_BYTES // (4 * d)))


def check_is_matrix(table: Table) -> None:
    """Raise for an array of more than two axes: of texts and tokens, padding is no sample."""
    if len(table.lead or ()) > 1:
        shape = (*(table.lead or ()), table.width)
        raise EmbedFilterError(f"{table.where}: expected a matrix (n, d), found shape {shape}")


def check_width(table: Table, f: EmbedFilter, filter_file: Path) -> None:
    """Raise if a table is known to hold embeddings of another width than a filter takes."""
    if table.width not in (None, f.n_features_in):
        raise _width_error(table.where, f, filter_file, table.width)


def _width_error(
    where: str, f: EmbedFilter, filter_file: Path, width: int | None
) -> EmbedFilterError:
    hint = ": as many as it gives, so they may be filtered already"
    return EmbedFilterError(
        f"{where}: expected rows of {f.n_features_in}, which {filter_file} takes"
        f"{origin_of_width(f.metadata)}, found rows of"
        f" {width}{hint if width == f.n_components else ''}"
    )


def embedding_rows(
    table: Table,
    part: Part,
    column: str | None,
    first: int,
    f: EmbedFilter,
    filter_file: Path,
) -> NDArray[Any]:
    """Return the embeddings of a part of a table, which are as wide as a filter takes, or raise."""
    from embedfilter.files.tables.base import checked_rows  # noqa: PLC0415 - light --help

    try:
        return checked_rows(table, part, column, first, f.n_features_in)
    except EmbedFilterError as error:
        try:
            width = checked_rows(table, part, column, first, None).shape[1]
        except EmbedFilterError:
            raise error from None
        raise _width_error(table.where, f, filter_file, width) from None


def in_rows(
    table: Table, column: str | None, first: int, rows: NDArray[Any], error: ValueError
) -> Exception:
    """Return an error about rows of a file, from one about a block of it, whose rows these are."""
    import numpy as np  # noqa: PLC0415 - light --help

    where = table.where if column is None else f"{table.where}: column {column!r}"
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        return EmbedFilterError(
            f"{where}: expected finite numbers, found NaN or infinity in row"
            f" {first + int(np.argmax(bad))}"
        )
    colon = ":" if column is None else ","
    return EmbedFilterError(f"{where}{colon} rows {first} to {first + len(rows) - 1}: {error}")


def each_block(
    table: Table,
    column: str | None,
    f: EmbedFilter,
    filter_file: Path,
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
    filter_file : Path
        Of that filter.
    use : callable
        Of a ValueError that it raises the message is told with the file and the rows.
    what : str
        What is being done, beside the bar.
    """
    from tqdm import tqdm  # noqa: PLC0415 - light --help

    from embedfilter.files.tables.ahead import ahead  # noqa: PLC0415

    check_width(table, f, filter_file)
    done = 0
    with tqdm(total=table.n_rows, desc=what, unit=" rows", unit_scale=True, disable=None) as bar:
        for part in ahead(table.parts(block_rows(f.n_features_in))):
            rows = embedding_rows(table, part, column, done, f, filter_file)
            try:
                use(rows)
            except ValueError as error:
                raise in_rows(table, column, done, rows, error) from None
            done += len(part)
            bar.update(len(part))
