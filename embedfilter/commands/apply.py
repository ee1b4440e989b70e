"""``embedfilter apply``: the embeddings of a file, filtered."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from embedfilter.arrays.embeddings import PRECISIONS
from embedfilter.commands.common import (
    PATH,
    each_block,
    is_same_file,
    json_option,
    print_text,
    read_rows,
    threads_option,
)
from embedfilter.errors import EmbedFilterError
from embedfilter.files.endings import ARROW, NPZ, PARQUET, ending

if TYPE_CHECKING:
    from embedfilter.filter import EmbedFilter

__all__ = ["apply"]


@click.command()
@click.argument("filter_file", metavar="FILTER", type=PATH)
@click.argument("embeddings", metavar="IN", type=str)
@click.argument("output", metavar="OUT", type=str)
@click.option("--column", help="Of Parquet and Arrow files.  [default: the only one of floats]")
@click.option(
    "--output-column", help="Write filtered embeddings into this column, and keep the other."
)
@click.option("--key", help="The array of an .npz file.  [default: the only one]")
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
    embeddings: str,
    output: str,
    column: str | None,
    output_column: str | None,
    key: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Filter the embeddings of a file, of any length.

    IN is a .npy or .npz file of embeddings (n, d), for which OUT is a .npy file; or a Parquet
    (.parquet) or Arrow (.arrow, .feather) file with a column of lists, whose other columns OUT
    keeps. "-" is a stream of Arrow batches on standard input or output.

    OUT may be IN: it is written when all is filtered.

    \b
    Example:
      embedfilter apply filter.safetensors embeddings.npy filtered.npy
      embedfilter apply filter.safetensors texts.parquet filtered.parquet --column embedding
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    start = time.perf_counter()
    for name, file in (("filter", filter_file), ("ranges", options["ranges_file"])):
        if file is not None and is_same_file(Path(output), file):
            raise EmbedFilterError(
                f"{output}: expected an output apart from the {name}, found the file {file} itself"
            )
    kind, wanted = _kind(embeddings), _kind(output)
    if wanted != ("column" if kind == "column" else ".npy"):
        files = "Parquet, Arrow or - (a stream)" if kind == "column" else ".npy"
        raise EmbedFilterError(f"{output}: expected an output of {files} for {embeddings}")
    for option, value, needed in (
        ("--column", column, "column"),
        ("--output-column", output_column, "column"),
        ("--key", key, ".npz"),
    ):
        if value is not None and kind != needed:
            raise EmbedFilterError(f"{option}: expected none for {embeddings}, found {value!r}")
    from embedfilter.filter import EmbedFilter  # noqa: PLC0415 - light --help

    f = EmbedFilter.load(filter_file)
    transform = _transform(f, **options)
    if kind == "column":
        n_rows, width = _apply_column(f, transform, embeddings, output, column, output_column)
    else:
        n_rows, width = _apply_rows(f, transform, Path(embeddings), key, Path(output))
    seconds = time.perf_counter() - start
    if as_json:
        click.echo(
            json.dumps({"rows": n_rows, "width": width, "seconds": seconds}), err=output == "-"
        )
    elif output != "-":
        print_text(f"{output}: {n_rows} rows of {width} in {seconds:.2f} s")


_Transform = Callable[[NDArray[Any]], NDArray[Any]]


def _kind(path: str) -> str:
    """Return what is at a path, by its ending: ".npy", ".npz" or "column"."""
    if path == "-" or ending(path) in (*PARQUET, *ARROW):
        return "column"
    return ".npz" if ending(path) in NPZ else ".npy"


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


def _apply_column(
    f: EmbedFilter,
    transform: _Transform,
    source: str,
    output: str,
    column: str | None,
    output_column: str | None,
) -> tuple[int, int]:
    from tqdm import tqdm  # noqa: PLC0415

    from embedfilter.files.columns import filter_column  # noqa: PLC0415 - needs pyarrow

    if transform(np.empty((0, f.n_features_in), np.float32)).dtype.name == "bfloat16":
        raise EmbedFilterError(f"{output}: expected a type that Arrow has, found bfloat16")
    with tqdm(desc="apply", unit=" rows", unit_scale=True, disable=None) as bar:
        return filter_column(
            source,
            output,
            transform,
            f.n_features_in,
            column=column,
            output_column=output_column,
            progress=bar.update,
        )


def _apply_rows(
    f: EmbedFilter, transform: _Transform, source: Path, key: str | None, output: Path
) -> tuple[int, int]:
    """Filter rows into a .npy file and return the shape written."""
    from embedfilter.files.atomic import atomic_output  # noqa: PLC0415
    from embedfilter.files.containers.npy import write_npy_header  # noqa: PLC0415
    from embedfilter.files.embeddings import EmbeddingsFile  # noqa: PLC0415

    empty = transform(np.empty((0, f.n_features_in), np.float32))  # the output's width and type
    with EmbeddingsFile(source, key) as file, atomic_output(output) as target:
        shape = file.shape[0], empty.shape[1]
        write_npy_header(target, shape, empty.dtype)

        def write(rows: NDArray[Any]) -> None:
            target.write(transform(rows).reshape(-1).view(np.uint8).data)

        each_block(file, f, write, "apply")
    return shape


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
