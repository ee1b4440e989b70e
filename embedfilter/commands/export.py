"""``embedfilter export``: a filter inside a model of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path

import click

from embedfilter.commands.common import (
    CHECKPOINT,
    PATH,
    json_option,
    open_filter,
    print_text,
    tell_of_opening,
)
from embedfilter.commands.roles import FILTER, MODEL, check_order

__all__ = ["export"]


@click.command(options_metavar="-o OUTPUT [OPTIONS]")
@click.argument("filter_file", metavar="FILTER", type=PATH)
@click.argument("model", type=CHECKPOINT)
@click.option("-o", "--output", type=PATH, required=True, help="The folder to write, new or empty.")
@json_option
def export(filter_file: Path, model: str, output: Path, as_json: bool) -> None:
    """Put a filter into a sentence-transformers model.

    MODEL is such a model: its folder, or its id on the Hugging Face Hub. The copy loads with
    sentence-transformers alone.

    \b
    Example:
      embedfilter export filter.safetensors path/to/st-model -o filtered-model
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    from embedfilter.checkpoints.locating import hub_name  # noqa: PLC0415 - light --help
    from embedfilter.files.folder import exists  # noqa: PLC0415

    check_order((FILTER, filter_file), (MODEL, model))
    f = open_filter(filter_file)
    if not exists(Path(model)):
        hub_name(model)  # or it is a missing folder
    tell_of_opening(model)
    f.to_sentence_transformers(model, output)
    if as_json:
        print_text(json.dumps({"output": str(output), "dimensions": f.n_components}))
    else:
        print_text(f"wrote {output}: {model} with {f.n_components} of {f.n_features_in} dimensions")
