"""What embeddings can be scored against: pairs, labels, judgements, or nothing.

A task holds all rows, says which belong together, and scores some of the rows of a method's
result, in which all have unit length.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from embedfilter.evaluation import measures
from embedfilter.evaluation.measures import Measure

__all__ = ["Labels", "Pairs", "Relevance", "Space", "Task", "unit_rows"]

_Rows = NDArray[np.float32]
_Mask = NDArray[np.bool_]
_LEAST_SCORED = 5
# Neighbours are looked for among all rows; beyond so many, a sample of them is scored.
_MOST_ROWS = 6000
_SEED = 0


class Task(Protocol):
    """What a task does."""

    name: str
    X: _Rows
    links: NDArray[np.int64]
    order: NDArray[Any]
    is_judged: bool

    def score(self, unit: _Rows, fitted: _Mask, scored: _Mask, seed: int) -> dict[str, Measure]:
        """Measure the scored rows; `fitted` are the others."""


def _no_links() -> NDArray[np.int64]:
    return np.zeros((0, 2), np.int64)


def _check_enough(n: int, what: str) -> None:
    if n < _LEAST_SCORED:
        raise ValueError(
            f"{what}: expected at least {_LEAST_SCORED} in each of the two halves of the rows,"
            f" found {n} in one"
        )


@dataclass
class Pairs:
    """Pairs of rows (m, 2) with a score each."""

    X: _Rows
    pairs: NDArray[np.int64]
    scores: NDArray[np.float64]
    name: str = "pairs"
    is_judged: bool = True
    links: NDArray[np.int64] = field(init=False)
    order: NDArray[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.links = self.pairs
        # In the order of the pairs.
        self.order = np.full(len(self.X), len(self.pairs))
        np.minimum.at(self.order, self.pairs.reshape(-1), np.repeat(np.arange(len(self.pairs)), 2))

    def score(self, unit: _Rows, fitted: _Mask, scored: _Mask, seed: int) -> dict[str, Measure]:
        """Measure Spearman's correlation of the cosines with the scores."""
        inside = scored[self.pairs].all(axis=1)
        a, b = self.pairs[inside].T
        scores = self.scores[inside]
        _check_enough(len(a), "pairs")
        if np.ptp(scores) == 0:
            raise ValueError(
                "scores: expected scores that differ, found one value for all pairs of a half"
            )
        return {"Spearman": measures.spearman((unit[a] * unit[b]).sum(axis=1), scores, seed)}


@dataclass
class Labels:
    """Rows with a label each, as numbers from 0."""

    X: _Rows
    labels: NDArray[np.int64]
    name: str = "labels"
    is_judged: bool = True
    links: NDArray[np.int64] = field(default_factory=_no_links)
    order: NDArray[Any] = field(init=False)

    def __post_init__(self) -> None:
        chosen = _sampled(len(self.X))
        self.X, self.labels = self.X[chosen], self.labels[chosen]
        self.order = self.labels

    def score(self, unit: _Rows, fitted: _Mask, scored: _Mask, seed: int) -> dict[str, Measure]:
        """Measure 1-NN and logistic-regression accuracy, and V-measure."""
        labels, others = self.labels[scored], self.labels[fitted]
        _check_enough(len(labels), "labels")
        if min(len(np.unique(labels)), len(np.unique(others))) < 2:
            raise ValueError(
                "labels: expected at least two different labels in each of the two halves of the"
                " rows, found one"
            )
        rows = unit[scored]
        return {
            "1-NN accuracy": measures.neighbour_accuracy(rows, labels, seed),
            "classifier accuracy": measures.classifier_accuracy(
                unit[fitted], others, rows, labels, seed
            ),
            "V-measure": measures.v_measure(rows, labels, seed),
        }


@dataclass
class Relevance:
    """Documents, then queries, and judgements (m, 3): query, document, gain over 0."""

    X: _Rows
    n_documents: int
    judgements: NDArray[np.int64]
    gains: NDArray[np.float64]
    k: int
    name: str = "relevance"
    is_judged: bool = True
    links: NDArray[np.int64] = field(init=False)
    order: NDArray[Any] = field(init=False)

    def __post_init__(self) -> None:
        queries, documents = self.judgements.T
        self.links = np.stack([documents, self.n_documents + queries], axis=1)
        # Groups with a query first, so that each half gets as many of them; then the rest.
        self.order = np.arange(len(self.X)) + len(self.X)
        np.minimum.at(self.order, self.links.reshape(-1), np.repeat(queries, 2))

    def score(self, unit: _Rows, fitted: _Mask, scored: _Mask, seed: int) -> dict[str, Measure]:
        """Measure nDCG and recall at k, and MRR, among the documents that are scored."""
        n_queries = len(self.X) - self.n_documents
        relevance = csr_array(
            (self.gains, tuple(self.judgements.T)), shape=(n_queries, self.n_documents)
        )
        is_document, is_query = scored[: self.n_documents], scored[self.n_documents :]
        relevance = relevance[is_query][:, is_document]
        has_some = np.diff(relevance.indptr) > 0
        _check_enough(int(has_some.sum()), "qrels: queries with a relevant document")
        queries = unit[self.n_documents :][is_query][has_some]
        cosines = queries @ unit[: self.n_documents][is_document].T
        return measures.ranking(cosines, relevance[has_some], self.k, seed)


@dataclass
class Space:
    """Rows about which nothing is known."""

    X: _Rows
    k: int
    name: str = "space"
    is_judged: bool = False
    links: NDArray[np.int64] = field(default_factory=_no_links)
    order: NDArray[Any] = field(init=False)
    _unfiltered: dict[int, NDArray[np.int64]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.X = self.X[_sampled(len(self.X))]
        self.order = np.arange(len(self.X))

    def score(self, unit: _Rows, fitted: _Mask, scored: _Mask, seed: int) -> dict[str, Measure]:
        """Measure what a space looks like, and how much of its neighbours stay.

        "No filter" is scored first, and the others are compared with its neighbours.
        """
        rows = unit[scored]
        _check_enough(len(rows), "X")
        found = measures.nearest(rows, min(self.k, len(rows) - 1))
        unfiltered = self._unfiltered.setdefault(seed, found)
        return {
            f"neighbour overlap@{self.k}": measures.neighbour_overlap(found, unfiltered, seed),
            "mean cosine": measures.mean_cosine(rows, seed),
            "effective rank": measures.effective_rank(rows),
            "hubness": measures.hubness(found, seed),
        }


def _sampled(n: int) -> NDArray[np.int64]:
    """Return the rows to take of n: all, or with a warning a sample."""
    if n <= _MOST_ROWS:
        return np.arange(n)
    warnings.warn(
        f"a random sample of {_MOST_ROWS} of the {n} rows is evaluated, since all are compared"
        " with all",
        stacklevel=2,
    )
    return np.sort(np.random.default_rng(_SEED).choice(n, _MOST_ROWS, replace=False))


def unit_rows(X: _Rows) -> _Rows:
    """Return rows of unit length; a row of zeros stays one."""
    lengths = np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(X / np.where(lengths > 0, lengths, 1), np.float32)
