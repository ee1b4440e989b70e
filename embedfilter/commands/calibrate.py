"""``embedfilter calibrate``: a filter fitted to a sample of embeddings."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from embedfilter.commands.common import (
    BLOCK_BYTES,
    PATH,
    is_same_file,
    json_option,
    print_text,
    threads_option,
)
from embedfilter.errors import EmbedFilterError

if TYPE_CHECKING:
    from embedfilter import EmbedFilter
    from embedfilter.calibration import SampleStatistics

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
@threads_option
@json_option
def calibrate(
    filter_file: Path,
    embeddings: Path,
    output: Path,
    whitening: float,
    n_components: int | None,
    n_threads: int | None,
    as_json: bool,
) -> None:
    """Fit a filter to a sample of embeddings, without labels.

    EMBEDDINGS is a .npy file (n, d) of any length: a few hundred rows are enough. They are to
    be normalised if, and only if, those that will be filtered are.

    \b
    Example:
      embedfilter calibrate filter.safetensors sample.npy -o calibrated.safetensors
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    from embedfilter import EmbedFilter  # noqa: PLC0415 - commands import what they need
    from embedfilter.atomic import check_target  # noqa: PLC0415

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
    _add_npy(statistics, f, embeddings, n_threads)
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


def _add_npy(
    statistics: SampleStatistics, f: EmbedFilter, path: Path, n_threads: int | None
) -> None:
    """Add the rows of a .npy file to the statistics of a sample."""
    from tqdm import tqdm  # noqa: PLC0415

    from embedfilter.npy_file import NpyReader  # noqa: PLC0415

    with contextlib.closing(NpyReader(path)) as reader:
        n_rows, d = reader.shape
        if d != f.n_features_in:
            raise EmbedFilterError(
                f"{path}: expected rows of {f.n_features_in}, as {f.metadata.get('source')} has,"
                f" found rows of {d}"
            )
        block_rows = max(1, BLOCK_BYTES // (d * reader.dtype.itemsize))
        done = 0
        with tqdm(
            total=n_rows, desc="calibrate", unit=" rows", unit_scale=True, disable=None
        ) as bar:
            for block in reader.blocks(block_rows):
                try:
                    statistics.add(block, n_threads=n_threads)
                except ValueError as error:
                    raise EmbedFilterError(
                        f"{path}: rows {done} to {done + len(block) - 1}: {error}"
                    ) from None
                done += len(block)
                bar.update(len(block))
