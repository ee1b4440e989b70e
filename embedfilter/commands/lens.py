"""``embedfilter lens``: the tokens that embeddings write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedfilter.commands.common import (
    CHECKPOINT,
    PATH,
    column_option,
    filter_option,
    json_option,
    key_option,
    load_filter,
    print_text,
    read_beside,
    read_rows,
    revision_option,
    tensor_option,
    texts_option,
    threads_option,
)
from embedfilter.commands.roles import EMBEDDINGS, MODEL, check_order

if TYPE_CHECKING:
    from embedfilter.lens.top_tokens import TopTokens

__all__ = ["lens"]

_SHOWN = 20


@click.command()
@click.argument("checkpoint", type=CHECKPOINT)
@click.argument("embeddings", type=PATH)
@filter_option
@click.option("-k", "k", type=int, default=10, show_default=True, help="Tokens for each vector.")
@click.option(
    "--rows", "n_rows", type=click.IntRange(min=1), help=f"How many vectors.  [default: {_SHOWN}]"
)
@texts_option
@click.option("--tokenizer", type=PATH, help="A tokenizer.json, where there is none beside.")
@column_option
@key_option
@tensor_option
@revision_option
@threads_option
@json_option
def lens(
    checkpoint: str,
    embeddings: Path,
    filter_file: Path | None,
    k: int,
    n_rows: int | None,
    texts_file: Path | None,
    column: str | None,
    key: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show which tokens embeddings write.

    The k tokens with the largest logits of each of the first vectors, as the model's unembedding
    matrix gives them; with --filter, before the filter and after it. EMBEDDINGS is a file, of
    any kind that `apply` reads, of the model's embeddings, or of filtered ones.

    \b
    Example:
      embedfilter lens path/to/model embeddings.npy --filter filter.safetensors
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    from embedfilter.lens.logit_lens import LogitLens  # noqa: PLC0415
    from embedfilter.lens.top_tokens import visible_label  # noqa: PLC0415

    check_order((MODEL, checkpoint), (EMBEDDINGS, embeddings))
    f = None if filter_file is None else load_filter(filter_file, embeddings)
    X = read_rows(embeddings, _SHOWN if n_rows is None else n_rows, column=column, key=key)
    texts = read_beside(texts_file, embeddings, len(X))
    found: dict[str, TopTokens] = {}
    with LogitLens(checkpoint, **options) as logit_lens:
        already = f is not None and X.shape[1] == f.n_components != f.n_features_in
        if not already:
            found["before"] = logit_lens.top_tokens(X, k, labels=texts)
        if f is not None:
            found["after"] = logit_lens.top_tokens(X, k, filter=f, labels=texts)
        matrix = logit_lens.matrix
    if as_json:
        facts: dict[str, Any] = {
            "checkpoint": matrix.source,
            "tensor": matrix.name,
            "rows": len(X),
            "k": k,
        }
        if texts is not None:
            facts["texts"] = texts
        results = {name: result.as_dicts() for name, result in found.items()}
        print_text(json.dumps({**facts, **results}))
        return
    for row in range(len(X)):
        if texts is not None:
            print_text(f"{row:>5}  {visible_label(texts[row])}")
        for i, (name, result) in enumerate(found.items()):
            number = f"{row if i == 0 and texts is None else '':>5}"
            heads = [number] if f is None else [number, f"{name:<6}"]
            print_text("  ".join([*heads, result.line(row)]))
