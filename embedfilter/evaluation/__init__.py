"""Whether a filter helps: methods compared on a user's own embeddings."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

try:
    import scipy  # noqa: F401
    import sklearn  # noqa: F401
    from threadpoolctl import threadpool_limits
except ImportError as error:
    raise ImportError(
        "evaluating needs scikit-learn and SciPy: pip install 'embedfilter[evaluate]'"
    ) from error

from embedfilter.evaluation.findings import Result
from embedfilter.evaluation.inputs import (
    as_dimensions,
    as_filters,
    as_given,
    as_source,
    as_task,
    as_words,
    encoded,
)
from embedfilter.evaluation.measures import Measure
from embedfilter.evaluation.methods import (
    NO_FILTER,
    Method,
    all_methods,
    to_calibrate,
)
from embedfilter.evaluation.report import Evaluation
from embedfilter.evaluation.split import halves
from embedfilter.evaluation.tasks import Task, unit_rows
from embedfilter.evaluation.verdicts import (
    CANNOT_TELL,
    MARGIN,
    Advice,
    Key,
    advise,
    command_for,
    compare,
)
from embedfilter.filter import EmbedFilter

__all__ = ["Evaluation", "Result", "evaluate"]

_OVERALL = "mean of the measures"
_UNJUDGED = (
    "These figures describe the space; none says that a method is better. For a recommendation"
    " give scored pairs, labels or relevance judgements."
)
_TOO_EASY = (
    "without a filter next to nothing is missed: these data are too easy to tell one method from"
    " another; take texts that are harder to tell apart"
)


def evaluate(
    X: Any,
    source: Any = None,
    *,
    pairs: Any = None,
    scores: Any = None,
    labels: Any = None,
    queries: Any = None,
    qrels: Any = None,
    encode_with: Any = None,
    template: str | None = None,
    base: Any = None,
    dimensions: Sequence[int] | None = None,
    k: int = 10,
    words: Any = None,
    progress: bool = False,
) -> Evaluation:
    """Compare a filter with its alternatives on embeddings of one's own.

    At each number of dimensions: no filter, the filter, first coordinates, random directions,
    PCA, whitening, mean removal, all-but-the-top, and the filter calibrated on rows and on the
    model's vocabulary. The rows are split
    in two halves; what is fitted to data is fitted on one and scored on the other, both ways,
    and every method is scored on the same rows. The same arguments give the same result.

    Parameters
    ----------
    X : (n, d) array-like of float16, bfloat16, float32 or float64
        Embeddings as the model gives them, not yet filtered: of documents with `qrels`. With
        `scores`, all first texts of the pairs and then all second ones, or a tuple of two
        arrays, or any texts and `pairs`.
    source : EmbedFilter, path, open model or array, optional
        A filter, or what `EmbedFilter.from_checkpoint` takes. With none, no filter is compared.
    pairs : (m, 2) ints, optional
        Row numbers of X.
    scores : (m,) numbers, optional
        How alike the two texts of each pair are. Measured: Spearman's correlation.
    labels : (n,) array-like, optional
        Measured: 1-NN and logistic-regression accuracy, and V-measure of k-means clusters.
    queries : (q, d) array-like, optional
    qrels : (m, 2) or (m, 3) numbers, optional
        Row number of the query, of the document, and relevance. Measured: nDCG and recall at k,
        and MRR.
    encode_with : str or path, optional
        A causal language model, as `embedfilter.encoder` takes it. `X` and `queries` are lists
        of texts then, which it embeds, and it is the `source` if there is no other.
    template : {"prompteol", "echo", "mean"}, optional
        How that model reads a text; by default as `embedfilter.encoder` does.
    base : path or id, optional
        The `source`, where it is the model that `encode_with` was made of: for embedding models
        that were saved without their head.
    dimensions : sequence of int, optional
        By default d, d/2, d/4 and d/8; with a filter d, its own and those of these below it.
    k : int
        Of nDCG, recall and, with nothing to judge by, the neighbours compared.
    words : (n, d) array-like, optional
        What `embedfilter.vocabulary_sample` returns for the model, normalised if X is; with
        `encode_with` they are embedded besides the texts.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Evaluation

    Raises
    ------
    ImportError
        If scikit-learn or SciPy, or with `encode_with` sentence-transformers, is not installed.
    TypeError, ValueError
        For arguments that do not fit together, too few rows, NaN, constant scores or one label.

    Warns
    -----
    UserWarning
        If rows are duplicates, a sample was taken, or the halves could not be kept apart.
    """
    if words is not None and source is None and encode_with is None:
        raise ValueError("words: expected a source of the filter with them, found None")
    if base is not None:
        source = as_source(base, source, encode_with)
    if encode_with is not None:
        judgements: dict[str, Any] = {
            "pairs": pairs,
            "scores": scores,
            "labels": labels,
            "qrels": qrels,
            "k": k,
        }
        X, queries, of_model, template = encoded(
            X, queries, encode_with, template, progress=progress, with_words=words is None,
            judged=judgements,
        )  # fmt: skip
        words = of_model if words is None else words
        source = encode_with if source is None else source
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = as_task(
            X, pairs=pairs, scores=scores, labels=labels, queries=queries, qrels=qrels, k=k
        )
        d = task.X.shape[1]
        side = halves(unit_rows(task.X), task.links, task.order)
        given = as_given(source)
        wanted = as_dimensions(dimensions, d, given)
        filters = as_filters(source if given is None else given, d, wanted)
    # What is doubtful of a head is said once, not for each kind that is fitted to it.
    told = dict.fromkeys((str(warning.message), warning.category) for warning in caught)
    for message, category in told:
        warnings.warn(message, category, stacklevel=2)
    notes = [message for message, _ in told]

    scored: dict[Key, dict[str, list[Measure]]] = {}
    methods = all_methods(d, filters, as_words(words, d) if filters else None)
    notes += _too_few_rows(methods, wanted, side)
    n_steps = 2 * sum(len(_possible(method, wanted, side)) for method in methods)
    # Many small products: more threads only wait for one another.
    with threadpool_limits(1), tqdm(total=n_steps, unit=" fits", disable=not progress) as bar:
        for half in (False, True):
            for method, k_kept, measures in _score_half(task, methods, wanted, side, half):
                of_method = scored.setdefault((method.name, k_kept), {})
                for name, measure in measures.items():
                    of_method.setdefault(name, []).append(measure)
                bar.update()
    found = _summary(task, scored, list(filters), notes)
    if found.advice.method is None:
        return found
    calibrated, given = to_calibrate(d, filters), list(filters.values())[-1]
    checkpoint, filter_file = _origin(source)
    if base is not None:
        checkpoint = [_origin(encode_with)[0][0], *checkpoint]
    name, k_kept = found.advice.method
    judged = k_kept if name in filters else calibrated.n_components
    command = command_for(
        found.advice.method,
        calibrated.kind,
        calibrated.n_components,
        source=checkpoint,
        filter_file=filter_file if judged == given.n_components else "",
        template=template or "prompteol",
    )
    return dataclasses.replace(found, advice=dataclasses.replace(found.advice, command=command))


def _origin(source: Any) -> tuple[list[str], str]:
    """Return the checkpoint, and the filter's file: one is empty, if the other was given."""
    from embedfilter.files.filter_file import is_filter_file  # noqa: PLC0415 - light import

    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        return ([], name) if is_filter_file(Path(name)) else ([name], "")
    return ([], "FILTER") if isinstance(source, EmbedFilter) else (["MODEL"], "")


def _score_half(
    task: Task, methods: list[Method], wanted: list[int], side: NDArray[np.bool_], half: bool
) -> Iterator[tuple[Method, int, dict[str, Measure]]]:
    """Score one half of the rows by methods fitted on the other."""
    scored = side == half
    rows = task.X[~scored]
    for method in methods:
        apply = method.fit(rows)
        for k in _possible(method, wanted, side):
            unit = unit_rows(apply(task.X, k))
            yield method, k, task.score(unit, ~scored, scored, int(half))


def _possible(method: Method, wanted: list[int], side: NDArray[np.bool_]) -> list[int]:
    """Return the dimensions that a method can give, fitted on either half."""
    fitted = min(np.count_nonzero(side), np.count_nonzero(~side))
    return [k for k in method.dimensions(wanted) if k < fitted or not method.needs_rows]


def _too_few_rows(methods: list[Method], wanted: list[int], side: NDArray[np.bool_]) -> list[str]:
    notes = []
    for method in methods:
        left_out = set(method.dimensions(wanted)) - set(_possible(method, wanted, side))
        if left_out:
            notes.append(
                f"{method.name} at {', '.join(map(str, sorted(left_out)))} dimensions is left out:"
                " half of the rows are not enough to fit it"
            )
    return notes


def _summary(
    task: Task,
    scored: dict[Key, dict[str, list[Measure]]],
    filters: list[str],
    notes: list[str],
) -> Evaluation:
    n_rows, d = task.X.shape
    means = {
        key: {name: Measure.mean(halves) for name, halves in of_method.items()}
        for key, of_method in scored.items()
    }
    base = means[NO_FILTER, d]
    overall = {key: Measure.mean(list(of_method.values())) for key, of_method in means.items()}
    if task.is_judged and overall[NO_FILTER, d].value >= 1 - MARGIN:
        notes = [*notes, _TOO_EASY]
    results = []
    for key, of_method in means.items():
        figures = {
            name: compare(measure, base[name], is_judged=task.is_judged)
            for name, measure in of_method.items()
        }
        verdict = CANNOT_TELL
        if task.is_judged and key[0] != NO_FILTER:
            verdict = compare(overall[key], overall[NO_FILTER, d], is_judged=True).verdict or ""
        results.append(Result(*key, figures, None if key[0] == NO_FILTER else verdict))
    if task.is_judged:
        measure = next(iter(base)) if len(base) == 1 else _OVERALL
        advice = advise(overall, filters, measure)
    else:
        advice = Advice(_UNJUDGED, None, {})
    return Evaluation(task.name, n_rows, d, tuple(results), advice, tuple(notes))
