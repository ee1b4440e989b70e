"""``embedfilter calibrate``: a filter fitted to a sample of embeddings."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from embedfilter.commands.common import (
    CHECKPOINT,
    PATH,
    check_filter_output,
    check_is_matrix,
    column_option,
    each_block,
    is_same_file,
    json_option,
    key_option,
    load_filter,
    on_terminal,
    print_text,
    revision_option,
    tell_of_opening,
    template_option,
    threads_option,
)
from embedfilter.errors import EmbedFilterError, warn_user

__all__ = ["calibrate"]

_FEW_ROWS = 20  # as many as docs/results.md has measured


@click.command(options_metavar="-o OUTPUT [OPTIONS]")
@click.argument("filter_file", metavar="FILTER", type=PATH)
@click.argument("embeddings", type=PATH, required=False)
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
@click.option(
    "--vocabulary",
    metavar="MODEL",
    type=CHECKPOINT,
    help="Calibrate on words of this model's vocabulary, which it embeds in some minutes; with"
    " EMBEDDINGS, too, on both: their covariance is shrunk towards that of the words.",
)
@template_option
@click.option(
    "--unit/--raw",
    default=None,
    help="Whether the words' embeddings are scaled to unit length, as those must be that the filter"
    " is for.  [default: as EMBEDDINGS are; without them --unit, as `encode` writes]",
)
@revision_option
@column_option
@key_option
@threads_option
@json_option
def calibrate(
    filter_file: Path,
    embeddings: Path | None,
    output: Path,
    whitening: float,
    n_components: int | None,
    column: str | None,
    key: str | None,
    vocabulary: str | None,
    template: str | None,
    unit: bool | None,
    revision: str | None,
    n_threads: int | None,
    as_json: bool,
) -> None:
    """Fit a filter to a sample of embeddings, without labels.

    EMBEDDINGS is a file of any kind that `apply` reads, or a folder of them, or - for standard
    input, of any length: a few hundred rows are enough. They are to be normalised if, and only
    if, those that will be filtered are. Without any, words of the model's own vocabulary serve.

    \b
    Examples:
      embedfilter calibrate filter.safetensors sample.npy -o better.safetensors
      embedfilter calibrate filter.safetensors --vocabulary path/to/model \\
        -o better.safetensors
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    from embedfilter.files.tables.opening import open_table  # noqa: PLC0415 - light --help

    if embeddings is None and vocabulary is None:
        raise EmbedFilterError("expected EMBEDDINGS, or --vocabulary MODEL, or both, found none")
    if vocabulary is None and (unit is not None or revision is not None):
        raise EmbedFilterError(
            "--unit, --raw, --revision: expected --vocabulary beside them, found none"
        )
    if embeddings is not None and is_same_file(output, embeddings):
        raise EmbedFilterError(
            f"{output}: expected an output apart from the embeddings, found the file {embeddings}"
            " itself"
        )
    check_filter_output(output)  # found out before the work, not after
    start = time.perf_counter()
    f = load_filter(filter_file, embeddings or "-")
    try:
        statistics = f.statistics()
    except ValueError as error:
        detail = str(error).removeprefix("filter: ")
        raise EmbedFilterError(f"{filter_file}: {detail}") from None
    if embeddings is not None:
        with open_table([embeddings], key) as table:
            check_is_matrix(table)
            name = table.embedding_column(column)
            each_block(
                table,
                name,
                f,
                filter_file,
                lambda rows: statistics.add(rows, n_threads=n_threads),
                "calibrate",
            )
    sample: Any = statistics
    prior = None
    if vocabulary is not None:
        tell_of_opening(vocabulary)
        from embedfilter.fitting.calibration import is_unit  # noqa: PLC0415
        from embedfilter.integrations.encoder import vocabulary_sample  # noqa: PLC0415
        from embedfilter.integrations.sentence_transformers import check_matrix  # noqa: PLC0415

        check_matrix(f, vocabulary, vocabulary, revision=revision)
        if unit is None:
            unit = embeddings is None or is_unit(statistics.length())
        words = vocabulary_sample(
            vocabulary, template=template, normalize=unit, revision=revision, progress=on_terminal()
        )
        sample, prior = (words, None) if embeddings is None else (statistics, words)
    try:
        g = f.calibrate(
            sample,
            n_components=n_components,
            whitening=whitening,
            prior=prior,
            n_threads=n_threads,
        )
    except ValueError as error:
        argument, _, detail = str(error).partition(": ")
        source = {"X_sample": embeddings or vocabulary, "prior": vocabulary}.get(argument)
        if source is None:
            raise
        raise EmbedFilterError(f"{source}: {detail}") from None
    if vocabulary is None and statistics.n_rows < _FEW_ROWS:
        warn_user(
            f"{embeddings}: {statistics.n_rows} rows are few to calibrate on: {_FEW_ROWS} or more,"
            " or the model's words beside them (--vocabulary), do better"
        )
    g.save(output)
    facts = {
        "filter": str(output),
        "n_features_in": g.n_features_in,
        "n_components": g.n_components,
        "rows": int(g.metadata["calibration_rows"]),
        "vocabulary": g.metadata.get("calibration_sample") or g.metadata.get("calibration_prior"),
        "whitening": whitening,
        "shrinkage": float(g.metadata["calibration_shrinkage"]),
        "seconds": time.perf_counter() - start,
    }
    if as_json:
        print_text(json.dumps(facts))
        return
    used = g.metadata.get("calibration_sample") or f"{statistics.n_rows} rows"
    told = g.metadata.get("calibration_prior")
    print_text(
        f"{output}: {g.n_features_in} -> {g.n_components} dimensions, {g.kind}, calibrated on"
        f" {used} (shrinkage {facts['shrinkage']:.2g})"
        f"{'' if told is None else f' and {told}'} in {facts['seconds']:.2f} s"
    )
