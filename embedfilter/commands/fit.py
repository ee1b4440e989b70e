"""``embedfilter fit``: a filter from a model's unembedding matrix."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from embedfilter.commands.common import (
    CHECKPOINT,
    PATH,
    base_option,
    check_filter_output,
    is_same_file,
    json_option,
    on_terminal,
    print_text,
    read_rows,
    revision_option,
    tensor_option,
    threads_option,
)
from embedfilter.commands.inspect import filter_facts
from embedfilter.errors import EmbedFilterError, warn_user
from embedfilter.files.endings import NPY, NPZ, ending
from embedfilter.fitting.kinds import KINDS

__all__ = ["fit"]

_LOOKED_AT = 64  # rows


@click.command(options_metavar="-o OUTPUT [OPTIONS]")
@click.argument("checkpoint", type=CHECKPOINT)
@click.option("-o", "--output", type=PATH, required=True, help="The filter file to write.")
@click.option("--ratio", type=float, help="Keep 1/RATIO of the dimensions.  [default: 2]")
@click.option("--components", "n_components", type=int, help="Keep so many, instead.")
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="edge",
    show_default=True,
    help="What is cut from the spectrum: edge cuts both ends alike, late more at the large"
    " singular values than at the small ones, head the large ones only,"
    " tail the small ones, mid the middle. To compare with: random keeps a random choice,"
    " identity all.",
)
@base_option
@tensor_option
@revision_option
@threads_option
@json_option
def fit(checkpoint: str, output: Path, base: str | None, as_json: bool, **options: Any) -> None:
    """Fit a filter to a model's unembedding matrix.

    CHECKPOINT is a model's folder, a file (.safetensors, .gguf, .bin, .pt, .npy, .npz or the
    index of a sharded checkpoint), ollama:NAME, a model that Ollama has fetched, or the id of one
    on the Hugging Face Hub.

    \b
    Example:
      embedfilter fit path/to/model -o filter.safetensors --ratio 2
      embedfilter fit Qwen/Qwen3-0.6B -o filter.safetensors
      embedfilter fit ollama:qwen3 -o filter.safetensors
      embedfilter fit path/to/embedder --base path/to/model -o filter.safetensors
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    from embedfilter.filter import EmbedFilter  # noqa: PLC0415 - commands import their needs

    for source in (checkpoint, base):
        if source is not None:
            _refuse_part_of_checkpoint(output, Path(source))
    check_filter_output(output)  # found out before the work, not after
    if ending(checkpoint) in (*NPY, *NPZ):
        _warn_of_embeddings(checkpoint, options["tensor"])
    start = time.perf_counter()
    f = EmbedFilter.from_checkpoint(checkpoint, base=base, progress=on_terminal(), **options)
    f.save(output)
    seconds = time.perf_counter() - start
    if as_json:
        print_text(json.dumps({**filter_facts(output, f), "seconds": seconds}))
        return
    facts, owner = f.metadata, "" if base is None else f" of {base}"
    print_text(
        f"{output}: {f.n_features_in} -> {f.n_components} dimensions, {f.kind}, from"
        f" {facts['tensor']}{owner} ({facts['rows']} x {f.n_features_in}, {facts['dtype']})"
        f" in {seconds:.2f} s"
    )


def _warn_of_embeddings(checkpoint: str, name: str | None) -> None:
    """Warn if the rows of an array's file have the length of embeddings, which no head's have."""
    from embedfilter.fitting.calibration import are_unit  # noqa: PLC0415

    try:
        rows = read_rows(Path(checkpoint), _LOOKED_AT, key=name)
    except (EmbedFilterError, OSError, ValueError, TypeError):  # told of it as a checkpoint
        return
    if are_unit(rows):
        warn_user(
            f"{checkpoint}: expected an unembedding matrix, found rows of length 1, as embeddings"
            " have: a filter is fitted to a model's head, and 'embedfilter apply' filters"
            " embeddings"
        )


def _refuse_part_of_checkpoint(output: Path, checkpoint: Path) -> None:
    """Raise if writing to `output` would overwrite a file of the checkpoint."""
    from embedfilter.files.filter_file import is_filter_file  # noqa: PLC0415

    files = [checkpoint]
    folder = checkpoint.parent if ending(checkpoint) == ".json" else checkpoint
    # A folder may hold an earlier filter besides the model.
    if folder.is_dir() and not is_filter_file(output):
        files += folder.iterdir()
    if any(is_same_file(output, file) for file in files):
        raise EmbedFilterError(
            f"{output}: expected an output apart from the checkpoint, found a file of {checkpoint}"
        )
