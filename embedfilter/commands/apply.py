"""``embedfilter apply``: the embeddings of files, filtered."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from embedfilter.arrays.embeddings import PRECISIONS
from embedfilter.commands.common import (
    FILE,
    PATH,
    block_rows,
    check_width,
    column_option,
    embedding_rows,
    in_rows,
    is_same_file,
    json_option,
    key_option,
    load_filter,
    print_text,
    read_rows,
    threads_option,
)
from embedfilter.errors import EmbedFilterError
from embedfilter.files.tables.outputs import ARRAYS, FORMATS, check_output, open_output

if TYPE_CHECKING:
    from embedfilter.files.tables.base import Part, Table
    from embedfilter.filter import EmbedFilter

__all__ = ["apply"]


@click.command()
@click.argument("filter_file", metavar="FILTER", type=PATH)
@click.argument("embeddings", metavar="IN...", type=FILE, nargs=-1, required=True)
@click.argument("output", metavar="OUT", type=FILE)
@column_option
@click.option(
    "--output-column", help="Write filtered embeddings into this column, and keep the other."
)
@key_option
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    help="What OUT is.  [default: by its ending; for - as IN]",
)
@click.option(
    "--normalize/--no-normalize",
    default=True,
    show_default=True,
    help="Scale each row to unit length.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="float32",
    show_default=True,
    help="The type of the numbers written; ubinary packs the signs of eight into a byte.",
)
@click.option(
    "--ranges",
    "ranges_file",
    type=PATH,
    help="For int8 and uint8, unless the filter is calibrated: a .npy file (2, k) of the least and"
    " the greatest value of each dimension of filtered embeddings.",
)
@threads_option
@json_option
def apply(
    filter_file: Path,
    embeddings: tuple[str, ...],
    output: str,
    column: str | None,
    output_column: str | None,
    key: str | None,
    format_: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Filter the embeddings of files, of any length.

    IN is a file, several of one kind, a folder of them, or - for standard input: .npy, .npz,
    .safetensors, .pt, of one vector or any number of axes, as (texts, tokens, d); or a table with
    a column of lists, whose other columns OUT keeps: Parquet, Arrow, Feather, .jsonl, .csv, .tsv,
    the text ones perhaps compressed (.gz, .zst). OUT is of any of these kinds, by its ending;
    without one, of IN's.

    OUT may be IN: it is written when all is filtered.

    \b
    Example:
      embedfilter apply filter.safetensors embeddings.npy filtered.npy
      embedfilter apply filter.safetensors in.parquet out.parquet --column vector
      zcat texts.jsonl.gz | embedfilter apply filter.safetensors - filtered.jsonl
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    from embedfilter.files.tables.opening import open_table  # noqa: PLC0415 - light --help

    start = time.perf_counter()
    for name, file in (("filter", filter_file), ("ranges", options["ranges_file"])):
        if file is not None and output != "-" and is_same_file(Path(output), file):
            raise EmbedFilterError(
                f"{output}: expected an output apart from the {name}, found the file {file} itself"
            )
    f = load_filter(filter_file, embeddings[0])
    transform = _transform(f, **options)
    if output != "-":  # found out before the work, as far as it is not about the input
        check_output(output, "npy", format_)
    with open_table(embeddings, key) as table:
        n_rows, width = _filter(
            f, filter_file, transform, table, output, format_, column, output_column
        )
        shape = (*(table.lead or (n_rows,)), width)
    seconds = time.perf_counter() - start
    if as_json:
        facts = {"rows": n_rows, "width": width, "shape": shape, "seconds": seconds}
        click.echo(json.dumps(facts), err=output == "-")
    elif output != "-":
        counted = f"{n_rows} rows of {width}"
        if len(shape) > 2:
            counted = f"an array {shape}, of {n_rows} vectors,"
        print_text(f"{output}: {counted} in {seconds:.2f} s")


_Transform = Callable[[NDArray[Any]], NDArray[Any]]


def _transform(
    f: EmbedFilter,
    *,
    precision: str,
    normalize: bool,
    ranges_file: Path | None,
    n_threads: int | None,
) -> _Transform:
    """Return the transform of blocks of rows that the options ask for."""
    in_filter = f.ranges is not None and normalize
    ranges = _read_ranges(ranges_file, precision, f.n_components, in_filter)
    transform = functools.partial(
        f.transform, precision=precision, normalize=normalize, ranges=ranges, n_threads=n_threads
    )
    try:
        transform(np.empty((0, f.n_features_in), np.float32))
    except ValueError as error:
        if str(error).startswith("ranges:"):
            raise EmbedFilterError(f"{ranges_file}: {error}") from None
        raise
    return transform


def _filter(
    f: EmbedFilter,
    filter_file: Path,
    transform: _Transform,
    table: Table,
    output: str,
    format_: str | None,
    column: str | None,
    output_column: str | None,
) -> tuple[int, int]:
    """Filter a table into an output and return the shape written."""
    from tqdm import tqdm  # noqa: PLC0415

    from embedfilter.files.tables.ahead import ahead  # noqa: PLC0415
    from embedfilter.files.tables.base import EMBEDDING, Layout  # noqa: PLC0415

    chosen = check_output(output, table.format, format_)
    source = table.embedding_column(column)
    if output_column is not None and chosen in ("npy", "pt"):
        raise EmbedFilterError(
            f"--output-column: expected none for {output}, which has no columns, found"
            f" {output_column!r}"
        )
    is_other = output_column is not None and output_column != source and chosen not in ARRAYS
    if is_other and output_column in table.names:
        raise EmbedFilterError(
            f"--output-column: expected a name that {table.where} has not, found"
            f" {output_column!r}, whose values would be lost"
        )
    if len(table.lead or ()) > 1 and chosen not in ARRAYS:
        shape = (*(table.lead or ()), table.width)
        raise EmbedFilterError(
            f"{output}: expected a file of arrays ({', '.join(ARRAYS)}) for {table.where} of shape"
            f" {shape}, found {chosen}"
        )
    check_width(table, f, filter_file)
    empty = transform(np.empty((0, f.n_features_in), np.float32))  # the output's width and type
    target = output_column or source or EMBEDDING
    keeps = source if target != source else None
    layout = Layout(table, target, empty.shape[1], empty.dtype, keeps)

    def filtered() -> Iterator[tuple[Part, NDArray[Any]]]:
        first = 0
        for part in ahead(table.parts(block_rows(f.n_features_in))):
            rows = embedding_rows(table, part, source, first, f, filter_file)
            try:
                yield part, transform(rows)
            except ValueError as error:
                raise in_rows(table, source, first, rows, error) from None
            first += len(rows)

    n_rows = 0
    with (
        open_output(output, chosen, layout) as out,
        tqdm(total=table.n_rows, desc="apply", unit=" rows", unit_scale=True, disable=None) as bar,
    ):
        for part, rows in ahead(filtered()):  # one is read, one filtered, one written at a time
            out.write(part, rows)
            n_rows += len(part)
            bar.update(len(part))
    return n_rows, empty.shape[1]


def _read_ranges(path: Path | None, precision: str, k: int, in_filter: bool) -> Any:
    needed = precision in ("int8", "uint8")
    if path is None:
        if needed and not in_filter:
            raise EmbedFilterError(
                f"--ranges: expected a .npy file (2, {k}) for --precision {precision}, found none;"
                " make it from filtered embeddings Y of a sample:"
                " np.save('ranges.npy', [Y.min(axis=0), Y.max(axis=0)])"
            )
        return None
    if not needed:
        raise EmbedFilterError(
            f"--ranges: expected only with --precision int8 or uint8, found {path} with"
            f" --precision {precision}"
        )
    ranges = read_rows(path)
    if ranges.shape != (2, k):
        raise EmbedFilterError(
            f"{path}: expected ranges of shape (2, {k}), found shape {ranges.shape}"
        )
    return ranges
