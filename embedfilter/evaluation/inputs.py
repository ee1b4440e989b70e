"""What users hand over to be evaluated, checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfilter.arrays.columns import as_array
from embedfilter.arrays.embeddings import as_embeddings, bad_rows_message
from embedfilter.arrays.torch_tensors import is_torch
from embedfilter.arrays.vocabulary_sample import VocabularySample, description_of
from embedfilter.checkpoints.base_head import open_for
from embedfilter.evaluation.tasks import Labels, Pairs, Relevance, Space, Task
from embedfilter.files.messages import source_name
from embedfilter.filter import EmbedFilter
from embedfilter.fitting.cuts import LARGEST_SINE, Accuracy
from embedfilter.fitting.kinds import check_n_components, kept_directions

__all__ = [
    "as_dimensions", "as_filters", "as_given", "as_source", "as_task", "as_words", "check_inputs",
    "encoded",
]  # fmt: skip

_Rows = NDArray[np.float32]
# Kinds of filter that are compared, where a model is given.
_KINDS = ("edge", "late")
_LEAST_ROWS = 2


def as_task(
    X: Any, *, pairs: Any, scores: Any, labels: Any, queries: Any, qrels: Any, k: int
) -> Task:
    """Return the task that the arguments of `evaluate` ask for, or raise."""
    k = check_n_components(k, 1_000_000, "k")
    given = {
        "scores": scores is not None,
        "labels": labels is not None,
        "qrels": qrels is not None,
    }
    asked = [name for name, is_given in given.items() if is_given]
    if len(asked) > 1:
        raise ValueError(f"{', '.join(asked)}: expected one of them, found {len(asked)}")
    for name, value, partner in (("pairs", pairs, "scores"), ("queries", queries, "qrels")):
        if value is not None and partner not in asked:
            raise ValueError(f"{name}: expected {partner} with it, found None")
    if scores is not None:
        if isinstance(X, tuple) and X:
            _refuse_other_order(X[0], X[-1], "X[1]")
            _refuse_other_order(X[0], scores, "scores")
        return _pairs(X, pairs, scores)
    rows = _rows(X, "X")
    if labels is not None:
        _refuse_other_order(X, labels, "labels")
        return Labels(rows, _labels(labels, len(rows)))
    if qrels is not None:
        if queries is None:
            raise ValueError("qrels: expected queries with it, found None")
        return _relevance(rows, _rows(queries, "queries", rows.shape[1]), qrels, k)
    return Space(rows, k)


def check_inputs(X: Any, source: Any, *, k: int, **judged: Any) -> None:
    """Raise for what is wrong with the arguments of `evaluate`, before the work that takes long."""
    given = {"pairs": None, "scores": None, "labels": None, "queries": None, "qrels": None}
    d = as_task(X, **{**given, **judged}, k=k).X.shape[1]
    if source is not None:
        _check_width(source, d)


def encoded(
    X: Any,
    queries: Any,
    model: Any,
    template: str | None,
    *,
    progress: bool,
    with_words: bool,
    judged: dict[str, Any],
) -> tuple[Any, Any, Any, str]:
    """Return embeddings of texts, X and queries, and perhaps of its words, by a language model.

    Unfiltered. Words are None where its vocabulary has none. The last is the template. The other
    arguments of `as_task`, `judged`, are looked at before.
    """
    lists = X if isinstance(X, tuple) else (X,)
    for name, texts in (*(("X", texts) for texts in lists), ("queries", queries)):
        if texts is not None and (
            isinstance(texts, str) or not all(isinstance(text, str) for text in texts)
        ):
            raise TypeError(f"{name}: expected a list of texts to encode, found {type(texts)}")
    beside = {"labels": judged.get("labels")}
    if isinstance(X, tuple) and X:  # of a pair each
        beside |= {"X[1]": X[-1], "scores": judged.get("scores")}
    for name, values in beside.items():
        _refuse_other_order(lists[0] if lists else None, values, name)
    rows = tuple(np.ones((len(texts), 1), np.float32) for texts in lists)  # as many
    judged["queries"] = None if queries is None else np.ones((len(queries), 1), np.float32)
    check_inputs(rows if isinstance(X, tuple) else rows[0], None, **judged)
    from embedfilter.integrations.encoder import (  # noqa: PLC0415 - it needs an extra
        encoder,
        template_for,
    )
    from embedfilter.integrations.vocabulary_words import (  # noqa: PLC0415
        N_WORDS,
        embedded_words,
        vocabulary_words,
    )

    template = template_for(model, template)
    embed = encoder(model, template=template, ratio=1, normalize=False)
    rows = tuple(embed.encode(list(texts), show_progress_bar=progress) for texts in lists)
    found = None if queries is None else embed.encode(list(queries), show_progress_bar=progress)
    words = None
    if with_words and len(vocabulary_words(embed.tokenizer)) >= _LEAST_ROWS:
        words = embedded_words(
            embed,
            N_WORDS,
            of=source_name(os.fspath(model)),
            template=template,
            batch_size=32,
            progress=progress,
        )
    return rows if isinstance(X, tuple) else rows[0], found, words, template


def as_words(words: Any, d: int) -> _Rows | None:
    """Return embeddings of words of the vocabulary, checked, described as they were; or None."""
    if words is None:
        return None
    rows = _rows(words, "words", d)
    return VocabularySample.of(rows, description_of(words) or f"{len(rows)} words")


def as_source(base: Any, source: Any, model: Any) -> Any:
    """Return the base model as the source of filters, after comparing it with the model."""
    if model is None or source is not None:
        wrong = "encode_with with it, found None" if model is None else "no source beside it"
        raise ValueError(f"base: expected {wrong}")
    # Before texts are encoded, which takes long.
    open_for(model, base).close()
    return base


def as_filters(
    source: Any, d: int, dimensions: list[int], kinds: Sequence[str] = _KINDS
) -> dict[str, EmbedFilter]:
    """Return the filters to compare at these numbers of dimensions, by name."""
    if source is None:
        return {}
    # A filter that cuts less than an eighth hardly is one.
    widest = min(max((k for k in dimensions if k < d), default=d // 2), 7 * d // 8)
    _check_width(source, d)
    filters = _load_filters(source, max(1, widest), kinds)
    # A filter that keeps all is a rotation: no filter.
    return {
        f.kind if f.mean is None else f"calibrated {f.kind}": f.truncate(min(f.n_components, d - 1))
        for f in filters
        if d > 1
    }


def as_given(source: Any) -> EmbedFilter | None:
    """Return the filter that the source is, or the file of; None where it is a model."""
    if isinstance(source, EmbedFilter):
        return source
    from embedfilter.files.filter_file import is_filter_file  # noqa: PLC0415 - light import

    if isinstance(source, (str, Path)) and is_filter_file(Path(source)):
        return EmbedFilter.load(source)
    return None


def _check_width(source: Any, d: int) -> None:
    """Raise if rows of d have not the width that a filter, or the head of a model, has."""
    f = as_given(source)
    if f is not None:
        width, owner = f.n_features_in, f.metadata.get("source")
    else:
        with open_for(source, None) as W:
            width, owner = W.shape[1], W.source
    if width != d:
        raise ValueError(f"X: expected rows of {width}, as {owner} has, found rows of {d}")


def _load_filters(source: Any, widest: int, kinds: Sequence[str]) -> list[EmbedFilter]:
    f = as_given(source)
    if f is not None:
        return [f]
    whole = EmbedFilter.from_checkpoint(source, kind="identity")  # the head is summed once
    return [
        _of_kind(whole, kind, widest)
        or EmbedFilter.from_checkpoint(source, n_components=widest, kind=kind)
        for kind in kinds
    ]


def _of_kind(whole: EmbedFilter, kind: str, k: int) -> EmbedFilter | None:
    """Return the filter of a kind, of one that keeps all of a head's directions.

    None where its cuts want a closer look at the head, or a warning, or there is no such filter.
    """
    d, sigma = whole.n_features_in, whole.singular_values
    kept = kept_directions(kind, d, k)
    accuracy = Accuracy.of_metadata(whole.metadata).at_least(sigma)
    if not accuracy.resolves(sigma).all() or accuracy.sine(sigma, kept) > LARGEST_SINE:
        return None
    rows = whole.components[np.argsort(whole.component_indices)[kept]]
    return EmbedFilter(rows, kept, sigma, kind=kind, metadata=whole.metadata)


def as_dimensions(dimensions: Any, d: int, f: EmbedFilter | None = None) -> list[int]:
    """Return the numbers of dimensions to compare at, descending; by default d, d/2, d/4, d/8.

    Where there is a filter, its own and those that are smaller, beside d.
    """
    if dimensions is None:
        dimensions = [d // ratio for ratio in (1, 2, 4, 8) if d // ratio]
        if f is not None:
            most = min(f.n_components, d)  # one of another width is refused later
            dimensions = [d, most, *(k for k in dimensions if k < most)]
    try:
        wanted = list(dimensions)
    except TypeError:
        raise TypeError(f"dimensions: expected integers, found {dimensions!r}") from None
    if not wanted:
        raise ValueError("dimensions: expected at least one, found none")
    return sorted({check_n_components(k, d, "dimensions") for k in wanted}, reverse=True)


def _rows(X: Any, name: str, d: int | None = None) -> _Rows:
    """Return embeddings as float32 (n, d), finite, or raise."""
    given, _ = as_embeddings(X, d, name=name)
    if given.ndim != 2:
        raise ValueError(f"{name}: expected (n, d), found shape {given.shape}")
    n, width = given.shape
    if n < _LEAST_ROWS or width < 1:
        raise ValueError(
            f"{name}: expected at least {_LEAST_ROWS} rows of embeddings, found {n} of {width}"
        )
    with np.errstate(over="ignore"):
        rows = given.astype(np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(bad_rows_message(rows, name))
    return rows


def _refuse_masked(values: Any, name: str) -> None:
    """Raise for what NumPy would take from behind a mask."""
    if np.ma.is_masked(values):
        raise TypeError(f"{name}: expected an array, found a masked array: fill it first")


def _numbers(values: Any, name: str) -> NDArray[np.float64]:
    _refuse_masked(values, name)
    given = as_array(values, name) if is_torch(values) else values
    try:
        numbers = np.asarray(given, np.float64)
        is_time = np.asarray(given).dtype.kind in "mM"
    except (OverflowError, TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected numbers: {error}") from None
    if is_time:
        raise TypeError(f"{name}: expected numbers, found times")
    if not np.isfinite(numbers).all():
        row = int(np.argwhere(~np.isfinite(np.atleast_1d(numbers)))[0][0])
        raise ValueError(f"{name}: expected finite numbers, found NaN or infinity in row {row}")
    return numbers


def _refuse_other_order(X: Any, values: Any, name: str) -> None:
    """Raise for columns of pandas with one index in two orders, where a row of each is a pair."""
    indexes: list[Any] = [getattr(column, "index", None) for column in (X, values)]
    mine, its = indexes
    if not (hasattr(mine, "is_unique") and hasattr(its, "is_unique")) or mine.equals(its):
        return
    if len(mine) == len(its) and mine.is_unique and its.is_unique and mine.isin(its).all():
        raise ValueError(
            f"{name}: expected the order of X's index, found that index in another order:"
            f" {name}.loc[X.index] puts it right, {name}.to_numpy() says that rows are as they are"
        )


def _indices(values: Any, name: str, n: int, of: str) -> NDArray[np.int64]:
    """Return row numbers from 0 to n - 1, or raise."""
    numbers = _numbers(values, name)
    wrong = (np.floor(numbers) != numbers) | (numbers < 0) | (numbers >= n)
    if wrong.any():
        found = numbers.reshape(-1)[int(np.argmax(wrong))]
        raise ValueError(
            f"{name}: expected row numbers of {of}, integers from 0 to {n - 1}, found {found:g}"
        )
    return numbers.astype(np.int64)


def _pairs(X: Any, pairs: Any, scores: Any) -> Pairs:
    if isinstance(X, tuple):
        if len(X) != 2 or pairs is not None:
            raise ValueError(
                "X: expected two arrays, and no pairs, or one array, found a tuple of"
                f" {len(X)}{' and pairs' if pairs is not None else ''}"
            )
        first = _rows(X[0], "X[0]")
        second = _rows(X[1], "X[1]", first.shape[1])
        if len(first) != len(second):
            raise ValueError(
                f"X: expected two arrays of one length, found {len(first)} and {len(second)} rows"
            )
        rows = np.concatenate([first, second])
    else:
        rows = _rows(X, "X")
    values = _numbers(scores, "scores")
    if pairs is None:
        if values.shape != (len(rows) // 2,) or len(rows) % 2:
            raise ValueError(
                "scores: expected one for each pair of rows, the first of all pairs and then the"
                f" second of all, found shape {values.shape} for {len(rows)} rows"
            )
        n = len(values)
        return _scored(rows, np.stack([np.arange(n), np.arange(n) + n], axis=1), values)
    indices = _indices(pairs, "pairs", len(rows), "X")
    if indices.ndim != 2 or indices.shape[1] != 2:
        raise ValueError(f"pairs: expected shape (m, 2), found {indices.shape}")
    if values.shape != (len(indices),):
        raise ValueError(
            f"scores: expected {len(indices)}, one for each pair, found shape {values.shape}"
        )
    return _scored(rows, indices, values)


def _scored(rows: _Rows, pairs: NDArray[np.int64], scores: NDArray[np.float64]) -> Pairs:
    if len(scores) < _LEAST_ROWS or np.ptp(scores) == 0:
        raise ValueError(
            "scores: expected at least two that differ, found"
            f" {'one value' if len(scores) else 'none'}"
        )
    return Pairs(rows, pairs, scores)


def _labels(labels: Any, n: int) -> NDArray[np.int64]:
    _refuse_masked(labels, "labels")
    try:
        given = np.asarray(as_array(labels, "labels") if is_torch(labels) else labels)
    except ValueError as error:  # lists of unequal length
        raise ValueError(f"labels: expected {n}, one for each row of X: {error}") from None
    if given.ndim == 0:
        found = f"{type(labels).__name__}, which is no sequence: a list of them is"
        raise ValueError(f"labels: expected {n}, one for each row of X, found a {found}")
    if given.shape != (n,):
        counted = f"{len(given)}" if given.ndim == 1 else f"shape {given.shape}"
        raise ValueError(f"labels: expected {n}, one for each row of X, found {counted}")
    for row, label in enumerate(given.tolist()):
        if _is_missing(label):
            raise ValueError(
                f"labels: expected a label for each row, found {label!r} in row {row}: leave rows"
                " without one out, of X, too"
            )
    if given.dtype == object:
        given = given.astype(str)
    values, numbers = np.unique(given, return_inverse=True)
    if len(values) == len(given) > 1:
        raise ValueError(
            "labels: expected some that several rows have, found one of its own for each"
        )
    if len(values) < 2:
        raise ValueError(
            f"labels: expected at least two different ones, found only {values.tolist()[0]!r}"
        )
    return np.asarray(numbers, np.int64)


def _is_missing(label: Any) -> bool:
    """Tell None, and what is not equal to itself (NaN, NaT, pandas' NA), from labels."""
    try:
        return label is None or bool(label != label)  # noqa: PLR0124
    except TypeError:  # NA does not even say so
        return True


def _relevance(documents: _Rows, queries: _Rows, qrels: Any, k: int) -> Relevance:
    table = _numbers(qrels, "qrels")
    if table.ndim != 2 or table.shape[1] not in (2, 3):
        raise ValueError(
            "qrels: expected rows of query, document and, if not 1, relevance, found shape"
            f" {table.shape}"
        )
    of_query = _indices(table[:, 0], "qrels", len(queries), "queries")
    of_document = _indices(table[:, 1], "qrels", len(documents), "X")
    judgements = np.stack([of_query, of_document], axis=1)
    if len(np.unique(judgements, axis=0)) != len(judgements):
        raise ValueError("qrels: expected one judgement of a query and document, found several")
    gains = table[:, 2] if table.shape[1] == 3 else np.ones(len(table))
    relevant = gains > 0
    if not relevant.any():
        raise ValueError("qrels: expected a relevance over 0, found none")
    return Relevance(
        np.concatenate([documents, queries]), len(documents), judgements[relevant],
        gains[relevant], k,
    )  # fmt: skip
