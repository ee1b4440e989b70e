"""Which directions each kind keeps: nested for every size, and as the paper says."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import (
    assert_same_directions,
    edge_rows,
    head_with_spectrum,
)

from embedfilter import EmbedFilter
from embedfilter.fitting.kinds import kept_directions


def test_random_keeps_different_rows_and_the_same_each_time() -> None:
    W = np.random.default_rng(25).standard_normal((400, 320))
    f = EmbedFilter.from_matrix(W, ratio=4, kind="random")
    assert len(set(f.component_indices)) == 80
    assert not np.array_equal(np.sort(f.component_indices), edge_rows(320, 80))
    assert f == EmbedFilter.from_matrix(W, ratio=4, kind="random")


@pytest.mark.parametrize("d", [2, 3, 4, 5, 7, 8, 33])
@pytest.mark.parametrize("kind", ["edge", "late", "head", "tail", "mid", "random"])
def test_every_kind_is_nested(rng: np.random.Generator, d: int, kind: str) -> None:
    W = head_with_spectrum(rng, 50, np.geomspace(3, 1, d))
    whole = EmbedFilter.from_matrix(W, kind=kind, ratio=1)
    for j in range(1, d + 1):
        alone = EmbedFilter.from_matrix(W, kind=kind, n_components=j)
        assert_same_directions(whole.truncate(j), alone)


@pytest.mark.parametrize("d", [1, 2, 7, 8, 9, 16, 33, 576])
def test_late_keeps_a_window_that_ends_late(d: int) -> None:
    """At three quarters, and for more than a quarter of the directions one later for each four."""
    for k in range(1, d + 1):
        kept = kept_directions("late", d, k)
        end = max(k, 3 * d // 4 + max(0, k - d // 4) // 4)
        end = min(end, d)
        expected = np.arange(end - k, end)
        assert np.array_equal(np.sort(kept), expected)
        assert np.array_equal(kept, kept_directions("late", d, d)[:k])
