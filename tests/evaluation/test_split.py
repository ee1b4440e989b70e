"""Rows that belong together are fitted to, or judged, together."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import unit_rows

from embedfilter.evaluation.split import halves

D = 32


def test_duplicates_and_links_stay_together(rng: np.random.Generator) -> None:
    X = unit_rows(rng.standard_normal((40, D))).astype(np.float32)
    X[7] = X[2]
    X[9] = X[4] * np.float32(1 + 1e-6)
    links = np.array([[0, 1], [1, 5]])
    with pytest.warns(UserWarning, match="2 of 40 rows are duplicates of others; .* one half"):
        side = halves(X, links, np.arange(40))
    for a, b in ((2, 7), (4, 9), (0, 1), (1, 5)):
        assert side[a] == side[b]
    assert side.sum() == pytest.approx(20, abs=2)


def test_links_that_join_all_are_given_up(rng: np.random.Generator) -> None:
    X = unit_rows(rng.standard_normal((40, D))).astype(np.float32)
    links = np.stack([np.zeros(39, int), np.arange(1, 40)], axis=1)
    with pytest.warns(UserWarning, match="what crosses the halves is left out"):
        assert halves(X, links, np.arange(40)).sum() == 20
