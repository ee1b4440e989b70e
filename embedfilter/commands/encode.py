"""``embedfilter encode``: embeddings of texts, from a language model."""

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
    batch_size_option,
    device_option,
    dtype_option,
    json_option,
    on_terminal,
    print_text,
    revision_option,
    tell_of_opening,
    template_option,
)
from embedfilter.commands.roles import MODEL, TEXTS, check_order
from embedfilter.errors import EmbedFilterError

__all__ = ["encode"]

_CHUNK = 4096  # texts that are sorted by length and encoded together


@click.command(options_metavar="-o OUTPUT [OPTIONS]")
@click.argument("model", type=CHECKPOINT)
@click.argument("texts", type=PATH)
@click.option(
    "-o",
    "--output",
    type=PATH,
    required=True,
    help="The file to write, of any kind that `apply` writes: .npy, .parquet, .jsonl, ...",
)
@click.option("--column", help="The column of texts, of tables.  [default: text]")
@template_option
@click.option(
    "--ratio", type=float, help="Keep 1/RATIO of the dimensions; 1: no filter.  [default: 2]"
)
@click.option("--components", "n_components", type=int, help="Keep so many, instead.")
@click.option("--filter", "filter_file", type=PATH, help="Use this filter, and fit none.")
@click.option(
    "--calibrate",
    type=click.Choice(["vocabulary"]),
    help="Calibrate the filter on words of the model's own vocabulary first.",
)
@base_option
@click.option("--raw", is_flag=True, help="Do not scale embeddings to unit length.")
@batch_size_option
@device_option
@dtype_option
@revision_option
@json_option
def encode(
    model: str,
    texts: Path,
    output: Path,
    column: str | None,
    template: str | None,
    ratio: float | None,
    n_components: int | None,
    filter_file: Path | None,
    calibrate: str | None,
    base: str | None,
    raw: bool,
    batch_size: int,
    device: str | None,
    dtype: str,
    revision: str | None,
    as_json: bool,
) -> None:
    """Embed texts with a causal language model, filtered.

    MODEL is a folder of transformers, a GGUF file, ollama:NAME or an id on the Hugging Face Hub;
    TEXTS a file with one text in each line, - for standard input, or a table (.jsonl, .csv, .tsv,
    Parquet, Arrow), whose columns a table as OUTPUT keeps beside "embedding".

    \b
    Examples:
      embedfilter encode path/to/model texts.txt -o embeddings.npy --ratio 4
      embedfilter encode path/to/model texts.txt -o embeddings.npy --ratio 8 \\
        --calibrate vocabulary
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    import numpy as np  # noqa: PLC0415 - commands import what they need
    from tqdm import tqdm  # noqa: PLC0415

    from embedfilter.checkpoints.locating import check_named  # noqa: PLC0415
    from embedfilter.files.lines import open_texts, part_texts  # noqa: PLC0415
    from embedfilter.files.tables.base import EMBEDDING, Layout  # noqa: PLC0415
    from embedfilter.files.tables.outputs import (  # noqa: PLC0415
        check_output,
        open_output,
    )

    check_order((MODEL, model), (TEXTS, texts))
    format_ = check_output(str(output), "npy")  # found out before the work, not after
    table, name = open_texts(texts, column)
    lines: list[str] = []
    with table:
        parts = list(table.parts(8 * _CHUNK))
        for part in parts:
            lines += part_texts(table, part.values(name), len(lines))
    if not lines:
        raise EmbedFilterError(f"{table.where}: expected texts, found an empty file")
    if EMBEDDING in table.names and format_ in ("parquet", "arrow", "jsonl", "csv", "tsv"):
        raise EmbedFilterError(
            f"{table.where}: expected no column {EMBEDDING!r}, which {output} is to have, found one"
        )
    check_named(model)
    start = time.perf_counter()
    tell_of_opening(model)
    if device is not None:
        _check_device(device)
    from embedfilter.integrations.encoder import encoder  # noqa: PLC0415 - takes seconds

    embed = encoder(
        model,
        template=template,
        ratio=ratio,
        n_components=n_components,
        filter=filter_file,
        calibrate=calibrate,
        base=base,
        normalize=not raw,
        device=device,
        dtype=dtype,
        revision=revision,
        progress=on_terminal(),
    )
    width = embed.get_embedding_dimension()
    layout = Layout(table, EMBEDDING, width, np.dtype(np.float32))
    with (
        open_output(str(output), format_, layout) as file,
        tqdm(total=len(lines), unit=" texts", disable=None) as bar,
    ):
        done = 0
        for part in parts:
            rows = np.empty((len(part), width), np.float32)
            for first in range(0, len(part), _CHUNK):
                chunk = lines[done + first : done + min(first + _CHUNK, len(part))]
                rows[first : first + len(chunk)] = embed.encode(
                    chunk, batch_size=batch_size, show_progress_bar=False
                )
                bar.update(len(chunk))
            file.write(part, rows)
            done += len(part)
    seconds = time.perf_counter() - start
    figures: dict[str, Any] = {"rows": len(lines), "dimensions": width, "seconds": seconds}
    if as_json:
        click.echo(json.dumps({"output": str(output), **figures}), err=str(output) == "-")
    elif str(output) != "-":
        print_text(f"wrote {output}: {len(lines)} x {width} float32, in {seconds:.1f} s")


def _check_device(device: str) -> None:
    """Raise if torch cannot use a device here."""
    import torch  # noqa: PLC0415

    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise EmbedFilterError(
            f"--device: expected one that torch can use here, such as cpu, found {device!r}:"
            f" {first}"
        ) from None
