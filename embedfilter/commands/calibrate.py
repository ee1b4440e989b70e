"""``embedfilter calibrate``: a filter fitted to a sample of embeddings."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from embedfilter.commands.common import (
    PATH,
    column_option,
    each_block,
    is_same_file,
    json_option,
    key_option,
    print_text,
    threads_option,
)
from embedfilter.errors import EmbedFilterError

__all__ = ["calibrate"]


@click.command()
@click.argument("filter_file", metavar="FILTER", type=PATH)
@click.argument("embeddings", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The filter file to write.")
@click.option(
    "--whitening",
    type=float,
    default=0.5,
    show_default=True,
    help="How much the variances are made alike: 0 (not at all) to 1.",
)
@click.option(
    "--components",
    "n_components",
    type=int,
    help="Keep so many dimensions.  [default: all of FILTER's]",
)
@column_option
@key_option
@threads_option
@json_option
def calibrate(
    filter_file: Path,
    embeddings: Path,
    output: Path,
    whitening: float,
    n_components: int | None,
    column: str | None,
    key: str | None,
    n_threads: int | None,
    as_json: bool,
) -> None:
    """Fit a filter to a sample of embeddings, without labels.

    EMBEDDINGS is a file of any kind that `apply` reads, or a folder of them, or - for standard
    input, of any length: a few hundred rows are enough. They are to be normalised if, and only
    if, those that will be filtered are.

    \b
    Example:
      embedfilter calibrate filter.safetensors sample.npy -o calibrated.safetensors
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    from embedfilter.files.atomic import check_target  # noqa: PLC0415 - light --help
    from embedfilter.files.tables.opening import open_table  # noqa: PLC0415
    from embedfilter.filter import EmbedFilter  # noqa: PLC0415

    check_target(output)  # found out before the work, not after
    if is_same_file(output, embeddings):
        raise EmbedFilterError(
            f"{output}: expected an output apart from the embeddings, found the file {embeddings}"
            " itself"
        )
    start = time.perf_counter()
    f = EmbedFilter.load(filter_file)
    try:
        statistics = f.statistics()
    except ValueError as error:
        detail = str(error).removeprefix("filter: ")
        raise EmbedFilterError(f"{filter_file}: {detail}") from None
    with open_table([embeddings], key) as table:
        name = table.embedding_column(column)
        each_block(
            table, name, f, lambda rows: statistics.add(rows, n_threads=n_threads), "calibrate"
        )
    try:
        g = f.calibrate(
            statistics, n_components=n_components, whitening=whitening, n_threads=n_threads
        )
    except ValueError as error:
        if not str(error).startswith("X_sample:"):
            raise
        raise EmbedFilterError(f"{embeddings}: {str(error).removeprefix('X_sample: ')}") from None
    g.save(output)
    facts = {
        "filter": str(output),
        "n_features_in": g.n_features_in,
        "n_components": g.n_components,
        "rows": statistics.n_rows,
        "whitening": whitening,
        "shrinkage": float(g.metadata["calibration_shrinkage"]),
        "seconds": time.perf_counter() - start,
    }
    if as_json:
        print_text(json.dumps(facts))
        return
    print_text(
        f"{output}: {g.n_features_in} -> {g.n_components} dimensions, {g.kind}, calibrated on"
        f" {statistics.n_rows} rows (shrinkage {facts['shrinkage']:.2g}) in"
        f" {facts['seconds']:.2f} s"
    )
