"""``embedfilter apply``: the embeddings of a file, filtered."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import embedfilter
from embedfilter.commands.common import (
    BLOCK_BYTES,
    PATH,
    is_same_file,
    json_option,
    print_text,
    threads_option,
)
from embedfilter.errors import EmbedFilterError

__all__ = ["apply"]

# Spelled out, so that --help does not need the C core.
PRECISIONS = ("float32", "float16", "bfloat16", "int8", "uint8", "ubinary")


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
    f = embedfilter.EmbedFilter.load(filter_file)
    transform = _transform(f, **options)
    if kind == "column":
        n_rows, width = _apply_column(f, transform, embeddings, output, column, output_column)
    else:
        rows = _npz_rows(Path(embeddings), key) if kind == ".npz" else _npy_rows(Path(embeddings))
        n_rows, width = _apply_rows(f, transform, embeddings, rows, Path(output))
    seconds = time.perf_counter() - start
    if as_json:
        click.echo(
            json.dumps({"rows": n_rows, "width": width, "seconds": seconds}), err=output == "-"
        )
    elif output != "-":
        print_text(f"{output}: {n_rows} rows of {width} in {seconds:.2f} s")


_Transform = Callable[[NDArray[Any]], NDArray[Any]]
# A shape (n, d), and a function from a number of rows to blocks of so many.
_Rows = contextlib.AbstractContextManager[tuple[tuple[int, int], int, Any]]


def _kind(path: str) -> str:
    """Return what is at a path, by its ending: ".npy", ".npz" or "column"."""
    suffix = Path(path).suffix.lower()
    if path == "-" or suffix in (".parquet", ".pq", ".arrow", ".feather", ".ipc"):
        return "column"
    return ".npz" if suffix == ".npz" else ".npy"


def _transform(
    f: embedfilter.EmbedFilter,
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


def _bar(n_rows: int | None) -> Any:
    from tqdm import tqdm  # noqa: PLC0415 - commands import what they alone need

    return tqdm(total=n_rows, desc="apply", unit=" rows", unit_scale=True, disable=None)


def _apply_column(
    f: embedfilter.EmbedFilter,
    transform: _Transform,
    source: str,
    output: str,
    column: str | None,
    output_column: str | None,
) -> tuple[int, int]:
    from embedfilter.columns import filter_column  # noqa: PLC0415 - needs pyarrow

    if transform(np.empty((0, f.n_features_in), np.float32)).dtype.name == "bfloat16":
        raise EmbedFilterError(f"{output}: expected a type that Arrow has, found bfloat16")
    with _bar(None) as bar:
        return filter_column(
            source,
            output,
            transform,
            f.n_features_in,
            column=column,
            output_column=output_column,
            progress=bar.update,
        )


@contextlib.contextmanager
def _npy_rows(source: Path) -> Iterator[tuple[tuple[int, int], int, Any]]:
    """Open a .npy file: its shape, the bytes of a number, and its blocks of rows."""
    from embedfilter.npy_file import NpyReader  # noqa: PLC0415

    with contextlib.closing(NpyReader(source)) as reader:
        yield reader.shape, reader.dtype.itemsize, reader.blocks


@contextlib.contextmanager
def _npz_rows(source: Path, key: str | None) -> Iterator[tuple[tuple[int, int], int, Any]]:
    """Open an array of an .npz file in the same way."""
    from embedfilter.checkpoints.files import InputFile  # noqa: PLC0415
    from embedfilter.checkpoints.numpy_file import open_npz  # noqa: PLC0415

    with open_npz(InputFile(source), source=str(source), tensor=key) as W:
        yield W.shape, 8, lambda n_rows: _blocks(W, n_rows)


def _blocks(W: Any, n_rows: int) -> Iterator[NDArray[Any]]:
    for start in range(0, W.shape[0], n_rows):
        yield W.rows(start, min(start + n_rows, W.shape[0]))


def _apply_rows(
    f: embedfilter.EmbedFilter, transform: _Transform, source: str, rows: _Rows, output: Path
) -> tuple[int, int]:
    """Filter rows into a .npy file and return the shape written."""
    from embedfilter.atomic import atomic_output  # noqa: PLC0415
    from embedfilter.npy_file import write_npy_header  # noqa: PLC0415

    with rows as ((n_rows, d), itemsize, blocks):
        if d != f.n_features_in:
            raise EmbedFilterError(
                f"{source}: expected rows of {f.n_features_in}, as {f.metadata.get('source')} has,"
                f" found rows of {d}"
            )
        empty = transform(np.empty((0, d), np.float32))  # the width and type of the output
        done = 0
        with atomic_output(output) as file, _bar(n_rows) as bar:
            write_npy_header(file, (n_rows, empty.shape[1]), empty.dtype)
            for block in blocks(max(1, BLOCK_BYTES // (d * itemsize))):
                try:
                    result = transform(block)
                except ValueError as error:
                    raise EmbedFilterError(
                        f"{source}: rows {done} to {done + len(block) - 1}: {error}"
                    ) from None
                file.write(result.reshape(-1).view(np.uint8).data)
                done += len(block)
                bar.update(len(block))
    return n_rows, empty.shape[1]


def _read_ranges(path: Path | None, precision: str, k: int, in_filter: bool) -> Any:
    from embedfilter.npy_file import NpyReader  # noqa: PLC0415

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
    with contextlib.closing(NpyReader(path)) as reader:
        if reader.shape != (2, k):
            raise EmbedFilterError(
                f"{path}: expected ranges of shape (2, {k}), found shape {reader.shape}"
            )
        (ranges,) = reader.blocks(2)
        return ranges
