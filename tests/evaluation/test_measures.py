"""Measures by SciPy, scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from oracle import unit_rows
from scipy.sparse import csr_array
from sklearn.metrics import ndcg_score, v_measure_score

from embedfilter.evaluation import measures


def test_intervals_are_those_of_scipy(rng: np.random.Generator) -> None:
    values = rng.random(200)
    drawn = np.percentile(measures.mean_of(values, 0).draws, [2.5, 97.5])
    expected = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", rng=0
    ).confidence_interval
    np.testing.assert_allclose(drawn, expected, atol=0.005)


def test_neighbours_of_the_same_label(rng: np.random.Generator) -> None:
    unit = unit_rows(rng.standard_normal((100, 5))).astype(np.float32)
    labels = rng.integers(0, 3, 100)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    expected = np.mean(labels[cosines.argmax(axis=1)] == labels)
    assert measures.neighbour_accuracy(unit, labels, 0).value == pytest.approx(expected)


def test_v_measure_of_a_draw(rng: np.random.Generator) -> None:
    labels, clusters = rng.integers(0, 3, (2, 80))
    drawn = rng.integers(0, 80, 80)
    counts = np.bincount(drawn, minlength=80)[np.newaxis].astype(float)
    (found,) = measures._v_measures(counts, labels, clusters)
    assert found == pytest.approx(v_measure_score(labels[drawn], clusters[drawn]))


def test_rankings_by_hand() -> None:
    """Ranks 1, 2, 3, 4; relevant, of the first query, the 2nd and the 4th with gain 2."""
    cosines = np.array([[0.9, 0.8, 0.7, 0.6], [0.1, 0.4, 0.4, 0.2]])
    gains = np.array([[0, 1, 0, 2.0], [0, 0, 1, 0]])
    found = measures.ranking(cosines, csr_array(gains), 3, 0)
    first = (1 / np.log2(3)) / (2 / np.log2(2) + 1 / np.log2(3))
    second = 1 / np.log2(3)  # of two that tie the earlier comes first
    assert found["nDCG@3"].value == pytest.approx((first + second) / 2)
    assert found["recall@3"].value == pytest.approx((1 / 2 + 1) / 2)
    assert found["MRR"].value == pytest.approx(1 / 2)


def test_ndcg_is_that_of_scikit_learn(rng: np.random.Generator) -> None:
    cosines = rng.random((20, 50))
    gains = rng.integers(0, 3, (20, 50)).astype(float)
    found = measures.ranking(cosines, csr_array(gains), 10, 0)
    assert found["nDCG@10"].value == pytest.approx(ndcg_score(gains, cosines, k=10))
