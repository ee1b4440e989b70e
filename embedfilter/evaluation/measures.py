"""What is measured of scored rows, and how it varies when they are drawn again."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import xlogy
from scipy.stats import entropy, rankdata, skew
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import v_measure_score
from sklearn.neighbors import NearestNeighbors

__all__ = [
    "Measure",
    "classifier_accuracy",
    "effective_rank",
    "hubness",
    "mean_cosine",
    "mean_of",
    "nearest",
    "neighbour_accuracy",
    "neighbour_overlap",
    "ranking",
    "spearman",
    "v_measure",
]

N_DRAWS = 1000
N_KMEANS = 4  # starts, each scored: how they differ is a part of the interval
_Rows = NDArray[np.float32]
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """A figure, and what it is in each of the draws of the bootstrap.

    Draw i of two measures of the same rows takes the same rows, so that differences of the
    draws are those of a paired bootstrap.
    """

    value: float
    draws: _Floats

    @classmethod
    def mean(cls, measures: list[Measure]) -> Measure:
        """Return the mean of several."""
        return cls(
            float(np.mean([m.value for m in measures])),
            np.mean([m.draws for m in measures], axis=0),
        )


@functools.lru_cache(maxsize=8)
def _drawn(n: int, seed: int) -> NDArray[np.int64]:
    """Return which of n items each draw takes, (N_DRAWS, n)."""
    return np.random.default_rng([n, seed]).integers(0, n, (N_DRAWS, n))


@functools.lru_cache(maxsize=8)
def _counts(n: int, seed: int) -> NDArray[np.float64]:
    """Return how often each draw takes each of n items, (N_DRAWS, n)."""
    places = _drawn(n, seed) + n * np.arange(N_DRAWS)[:, np.newaxis]
    return np.bincount(places.reshape(-1), minlength=N_DRAWS * n).reshape(N_DRAWS, n).astype(float)


def mean_of(values: NDArray[Any], seed: int) -> Measure:
    """Measure the mean of one value for each item."""
    values = np.asarray(values, np.float64)
    return Measure(float(values.mean()), values[_drawn(len(values), seed)].mean(axis=1))


# ---- Pairs ------------------------------------------------------------------


def spearman(cosines: NDArray[Any], scores: _Floats, seed: int) -> Measure:
    """Measure the rank correlation of cosines with scores."""
    drawn = _drawn(len(scores), seed)
    value = _correlation(rankdata(cosines), rankdata(scores))
    draws = _correlation(rankdata(cosines[drawn], axis=1), rankdata(scores[drawn], axis=1))
    return Measure(float(value), draws)


def _correlation(a: _Floats, b: _Floats) -> Any:
    """Return Pearson's correlation along the last axis; 0 where one side is constant."""
    a = a - a.mean(axis=-1, keepdims=True)
    b = b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    return (a * b).sum(axis=-1) / np.where(scale > 0, scale, 1)


# ---- Labels -----------------------------------------------------------------


def nearest(unit: _Rows, k: int) -> NDArray[np.int64]:
    """Return the k nearest other rows of each row, (n, k)."""
    # Of unit vectors, the nearest are those of the largest cosine.
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit)
    return np.asarray(search.kneighbors(return_distance=False))


def neighbour_accuracy(unit: _Rows, labels: NDArray[np.int64], seed: int) -> Measure:
    """Measure how often the nearest other row has the same label."""
    return mean_of(labels[nearest(unit, 1)[:, 0]] == labels, seed)


def classifier_accuracy(
    fitted: _Rows,
    fitted_labels: NDArray[np.int64],
    scored: _Rows,
    scored_labels: NDArray[np.int64],
    seed: int,
) -> Measure:
    """Measure a logistic regression, fitted on some rows, on others."""
    # One number scales all, so that its penalty means the same for every method.
    mean = fitted.mean(axis=0)
    spread = np.sqrt(((fitted - mean) ** 2).sum(axis=1).mean()) or 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=200).fit((fitted - mean) / spread, fitted_labels)
    return mean_of(model.predict((scored - mean) / spread) == scored_labels, seed)


def v_measure(unit: _Rows, labels: NDArray[np.int64], seed: int) -> Measure:
    """Measure how k-means clusters, as many as there are labels, agree with the labels."""
    n_labels = len(np.unique(labels))
    counts = _counts(len(labels), seed)
    values, draws = [], []
    for start in range(N_KMEANS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows
            clusters = KMeans(n_labels, n_init=1, random_state=start).fit_predict(unit)
        values.append(v_measure_score(labels, clusters))
        draws.append(_v_measures(counts, labels, clusters))
    chosen = np.random.default_rng(seed).integers(0, N_KMEANS, (N_KMEANS, N_DRAWS))
    found = np.array(draws)[chosen, np.arange(N_DRAWS)].mean(axis=0)
    # Labels and clusters of rows drawn twice agree by chance more than others: centred.
    value = float(np.mean(values))
    return Measure(value, found - found.mean() + value)


def _v_measures(counts: _Floats, labels: NDArray[np.int64], clusters: NDArray[np.int64]) -> _Floats:
    """Return the V-measure in each draw, given how often each takes each row (draws, n)."""
    n_labels, n_clusters = labels.max() + 1, clusters.max() + 1
    n = len(labels)
    cell = csr_array(
        (np.ones(n), (np.arange(n), labels * n_clusters + clusters)),
        shape=(n, n_labels * n_clusters),
    )
    table = (counts @ cell).reshape(len(counts), n_labels, n_clusters)
    of_labels = _entropies(table.sum(axis=2))
    of_clusters = _entropies(table.sum(axis=1))
    shared = of_labels + of_clusters - _entropies(table.reshape(len(counts), -1))
    total = of_labels + of_clusters
    return np.asarray(2 * shared / np.where(total > 0, total, 1))


def _entropies(counts: _Floats) -> _Floats:
    """Return the entropy of each row of whole numbers (draws, m), which add up to n in all rows."""
    n = int(counts[0].sum())
    products = xlogy(np.arange(n + 1), np.arange(n + 1))
    return np.asarray(np.log(n) - products[counts.astype(np.int64)].sum(axis=1) / n)


# ---- Relevance --------------------------------------------------------------


def ranking(cosines: NDArray[Any], relevance: csr_array, k: int, seed: int) -> dict[str, Measure]:
    """Measure ranked documents as trec_eval does: nDCG and recall at k, and MRR.

    Parameters
    ----------
    cosines : (queries, documents)
    relevance : (queries, documents) sparse
        Gains; each query has one over 0.
    k : int
    seed : int
    """
    n_queries, n_documents = cosines.shape
    k_found = min(k, n_documents)
    discounts = 1 / np.log2(np.arange(2, k + 2))
    ndcg, recall, reciprocal = np.zeros((3, n_queries))
    for q in range(n_queries):
        start, end = relevance.indptr[q : q + 2]
        documents, gains = relevance.indices[start:end], relevance.data[start:end]
        row = cosines[q]
        dense = np.zeros(n_documents)
        dense[documents] = gains
        best = np.argsort(-row, kind="stable")[:k_found]
        ideal = np.sort(gains)[::-1][:k]
        ndcg[q] = (dense[best] @ discounts[:k_found]) / (ideal @ discounts[: len(ideal)])
        recall[q] = np.count_nonzero(dense[best] > 0) / len(gains)
        first = documents[np.argmax(row[documents])]
        ahead = np.count_nonzero(row > row[first]) + np.count_nonzero(row[:first] == row[first])
        reciprocal[q] = 1 / (1 + ahead)
    return {
        f"nDCG@{k}": mean_of(ndcg, seed),
        f"recall@{k}": mean_of(recall, seed),
        "MRR": mean_of(reciprocal, seed),
    }


# ---- No judgements ----------------------------------------------------------


def neighbour_overlap(
    found: NDArray[np.int64], unfiltered: NDArray[np.int64], seed: int
) -> Measure:
    """Measure which share of the nearest rows (n, k) without a filter is still found."""
    shares = [np.isin(a, b).mean() for a, b in zip(found, unfiltered, strict=True)]
    return mean_of(np.array(shares), seed)


def mean_cosine(unit: _Rows, seed: int) -> Measure:
    """Measure the mean cosine of random pairs: each row with one other."""
    circle = np.random.default_rng(seed).permutation(len(unit))
    cosines = (unit[circle] * unit[np.roll(circle, 1)]).sum(axis=1)
    return mean_of(cosines, seed)


def effective_rank(unit: _Rows) -> Measure:
    """Measure the exponential of the entropy of the variances; no draws are made of it."""
    variances = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False).astype(np.float64) ** 2
    value = float(np.exp(entropy(variances))) if variances.sum() > 0 else 1.0
    return Measure(value, np.full(N_DRAWS, np.nan))


def hubness(found: NDArray[np.int64], seed: int) -> Measure:
    """Measure the skewness of how often a row is among the nearest (n, k) of others."""
    counts = np.bincount(found.reshape(-1), minlength=len(found)).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all counts equal, in a draw too
        value, draws = skew(counts), skew(counts[_drawn(len(counts), seed)], axis=1)
    return Measure(float(np.nan_to_num(value)), np.nan_to_num(draws))
