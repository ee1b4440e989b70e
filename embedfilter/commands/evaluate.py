"""``embedfilter evaluate``: whether a filter helps."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from embedfilter.commands.common import (
    CHECKPOINT,
    PATH,
    base_option,
    column_option,
    json_option,
    key_option,
    load_filter,
    on_terminal,
    print_text,
    read_rows,
    tell_of_opening,
    template_option,
)
from embedfilter.commands.roles import EMBEDDINGS, MODEL, TEXTS, check_order
from embedfilter.errors import EmbedFilterError
from embedfilter.files.lines import read_labels, read_table, read_texts

__all__ = ["evaluate"]

_Table = list[dict[str, Any]]


def _integers(ctx: click.Context, option: click.Parameter, value: str | None) -> list[int] | None:
    try:
        return None if value is None else [int(part) for part in value.split(",")]
    except ValueError:
        message = f"expected integers with commas between them, found {value!r}"
        raise click.BadParameter(message, ctx, option) from None


@click.command()
@click.argument("embeddings", type=PATH)
@click.option("--filter", "filter_file", type=PATH, help="The filter file to compare.")
@click.option(
    "--model",
    metavar="MODEL",
    type=CHECKPOINT,
    help="A checkpoint, instead: filters of its head are compared.",
)
@click.option(
    "--encode-with",
    metavar="MODEL",
    type=CHECKPOINT,
    help="A causal language model. EMBEDDINGS, and QUERIES, are files with a text in each line"
    " then, which it embeds; filters of its head are compared, if no others are given.",
)
@template_option
@base_option
@column_option
@key_option
@click.option(
    "--pairs",
    "pairs_file",
    type=PATH,
    help="A table (.tsv, .csv, .jsonl, Parquet) with a column 'score'. With columns 'first' and"
    " 'second', row numbers from 0; otherwise EMBEDDINGS has the first texts of all pairs, then"
    " the second.",
)
@click.option(
    "--labels",
    "labels_file",
    type=PATH,
    help="A file with a label a line, a table with a column 'label', or a .npy file (n,).",
)
@click.option(
    "--queries", "queries_file", type=PATH, help="A file like EMBEDDINGS, which are documents then."
)
@click.option(
    "--qrels",
    "qrels_file",
    type=PATH,
    help="A table with columns 'query' and 'document', row numbers from 0, and"
    " 'relevance' if it is not always 1.",
)
@click.option(
    "--dimensions",
    metavar="K,K,...",
    callback=_integers,
    help="Compare at these.  [default: d, d/2, d/4, d/8; with --filter d, its own, and those"
    " below it]",
)
@click.option(
    "-k", type=int, default=10, show_default=True, help="How many results, or neighbours, count."
)
@click.option(
    "--vocabulary",
    is_flag=True,
    help="Compare the filter calibrated on words of MODEL's vocabulary, too, in --template: about a"
    " minute. With --encode-with it always is.",
)
@click.option("-o", "--output", type=PATH, help="Write an HTML page to this file, too.")
@json_option
def evaluate(
    embeddings: Path,
    filter_file: Path | None,
    model: str | None,
    encode_with: str | None,
    output: Path | None,
    column: str | None,
    key: str | None,
    vocabulary: bool,
    as_json: bool,
    pairs_file: Path | None,
    labels_file: Path | None,
    queries_file: Path | None,
    qrels_file: Path | None,
    **options: Any,
) -> None:
    """Find out whether a filter helps, and what helps more.

    Compares a filter with no filter, PCA, whitening and others on embeddings of your own, by
    scored pairs, labels or relevance judgements; with none of them it tells how the spaces look.
    EMBEDDINGS is a file, of any kind that `apply` reads, of embeddings that are not filtered yet,
    or of texts.

    \b
    Example:
      embedfilter evaluate embeddings.npy --model path/to/model --labels x.txt
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    from embedfilter import evaluation  # noqa: PLC0415 - light --help
    from embedfilter.evaluation.inputs import check_inputs  # noqa: PLC0415
    from embedfilter.files.atomic import check_target  # noqa: PLC0415

    if output is not None:
        check_target(output)  # found out before the work, not after
    if filter_file is not None and model is not None:
        raise EmbedFilterError(
            f"--filter, --model: expected one of them, found {filter_file} and {model}"
        )
    if vocabulary and model is None and encode_with is None:
        raise EmbedFilterError("--vocabulary: expected --model with it, found none")
    for name in (model, encode_with):
        if name is not None:
            check_order((EMBEDDINGS if encode_with is None else TEXTS, embeddings), (MODEL, name))
    if filter_file is not None:
        load_filter(filter_file, embeddings)  # a checkpoint is none
    source = model if filter_file is None else filter_file  # by name, for the advice
    read: Any = (
        functools.partial(read_rows, column=column, key=key)
        if encode_with is None
        else functools.partial(read_texts, column=column)
    )
    judged = _read_judgements(pairs_file, labels_file, queries_file, qrels_file, read)
    X = read(embeddings)
    files = {"X": embeddings, "pairs": pairs_file, "scores": pairs_file,
             "labels": labels_file, "queries": queries_file, "qrels": qrels_file}  # fmt: skip
    words = None
    with _naming(files):
        if encode_with is not None:
            tell_of_opening(encode_with)
        elif vocabulary and model is not None:
            check_inputs(X, model, k=options["k"], **judged)
            words, options["template"] = _words(model, options["template"], X)
        found = evaluation.evaluate(
            X, source, encode_with=encode_with, words=words, progress=on_terminal(),
            **judged, **options,
        )  # fmt: skip
    if output is not None:
        found.save_html(output)
    print_text(found.to_json() if as_json else str(found))
    if output is not None and not as_json:
        print_text(f"wrote {output}")


@contextlib.contextmanager
def _naming(files: dict[str, Path | None]) -> Iterator[None]:
    """Name the file in what is raised of an argument that was read from it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        argument, _, detail = str(error).partition(": ")
        file = files.get(argument.partition("[")[0])
        if file is None:
            raise
        detail = detail.replace(" of X,", f" of {files['X']},", 1)  # "each row of X, found ..."
        raise EmbedFilterError(f"{file}: {detail}") from None


def _words(model: str, template: str | None, X: Any) -> tuple[Any, str]:
    """Return embeddings of a model's words, of unit length if X is, and the template."""
    tell_of_opening(model)
    from embedfilter.fitting.calibration import are_unit  # noqa: PLC0415
    from embedfilter.integrations.encoder import (  # noqa: PLC0415 - takes seconds
        template_for,
        vocabulary_sample,
    )

    template = template_for(model, template)
    normalize = are_unit(X[:64])
    words = vocabulary_sample(model, template=template, normalize=normalize, progress=on_terminal())
    return words, template


def _column(path: Path, table: _Table, name: str) -> list[float]:
    numbers = []
    for number, row in enumerate(table):
        try:
            numbers.append(float(row[name]))
        except (TypeError, ValueError):
            raise EmbedFilterError(
                f"{path}: expected a number in column {name!r}, found {row[name]!r} in row {number}"
            ) from None
    return numbers


def _read_judgements(
    pairs: Path | None, labels: Path | None, queries: Path | None, qrels: Path | None, read: Any
) -> dict[str, Any]:
    """Return what files of judgements hold, as arguments of `embedfilter.evaluate`."""
    judged: dict[str, Any] = {} if pairs is None else _read_pairs(pairs)
    if labels is not None:
        judged["labels"] = read_labels(labels)
    if queries is not None:
        judged["queries"] = read(queries)
    if qrels is not None:
        judged["qrels"] = _read_qrels(qrels)
    return judged


def _read_pairs(path: Path) -> dict[str, Any]:
    table = read_table(path, ["score"])
    scores = _column(path, table, "score")
    if not table or not {"first", "second"} <= set(table[0]):
        return {"scores": scores}
    rows = [_column(path, table, name) for name in ("first", "second")]
    return {"scores": scores, "pairs": list(zip(*rows, strict=True))}


def _read_qrels(path: Path) -> list[tuple[float, ...]]:
    table = read_table(path, ["query", "document"])
    names = ["query", "document"]
    if table and "relevance" in table[0]:
        names.append("relevance")
    return list(zip(*(_column(path, table, name) for name in names), strict=True))
