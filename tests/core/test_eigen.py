"""The eigen-decomposition: every step of divide and conquer against NumPy's, and its threads."""

from __future__ import annotations

import numpy as np
import pytest

from embedfilter import _core


def of_spectrum(values: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(len(values))
    Q, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    return Q * values @ Q.T


def gram(d: int) -> np.ndarray:
    W = np.random.default_rng(d).standard_normal((2 * d, d))
    return W.T @ W


def tridiagonal(diagonal: np.ndarray, beside: float) -> np.ndarray:
    beside = np.full(len(diagonal) - 1, beside)
    return np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)


def blocks(d: int) -> np.ndarray:
    """Parts that do not hang together, some cut further and some not."""
    A = np.zeros((d, d))
    for start, stop in ((0, d // 2), (d // 2, d // 2 + 10), (d // 2 + 11, d)):
        A[start:stop, start:stop] = gram(stop - start)
    return A


MATRICES = {
    # sizes around what is not cut (25) and what is one task (128)
    **{f"{d} columns": gram(d) for d in (1, 2, 3, 24, 25, 26, 27, 51, 128, 129, 257, 300)},
    "zeros": np.zeros((60, 60)),
    "the identity": np.eye(60),
    "a diagonal that descends": np.diag(np.arange(60.0, 0.0, -1.0)),
    "few different values": of_spectrum(np.repeat([1.0, 2.0, 5.0], 50)),
    "values that nearly agree": of_spectrum(1 + 1e-14 * np.arange(150)),
    "all but one near 0": of_spectrum(np.append(np.geomspace(1e-18, 1e-12, 149), 1.0)),
    "all magnitudes": of_spectrum(np.geomspace(1e-12, 1e3, 200)),
    "both signs": of_spectrum(np.linspace(-1, 1, 140)),
    "of rank 3": gram(200)[:, :3] @ gram(200)[:3],
    "Wilkinson's": tridiagonal(np.abs(np.arange(-100.0, 101.0)), 1.0),
    "Toeplitz": tridiagonal(np.full(200, 2.0), -1.0),
    "parts": blocks(200),
    "large numbers": 1e290 * gram(70),
    "small numbers": 1e-290 * gram(70),
}


@pytest.mark.parametrize("A", MATRICES.values(), ids=MATRICES)
def test_eigenvectors(A: np.ndarray) -> None:
    d = len(A)
    ranks = np.random.default_rng(0).permutation(d)
    values, vectors = _core.eigh(A.copy(), ranks, 2)
    exact = np.linalg.eigvalsh(A)
    unit = np.finfo(float).eps * d * max(np.abs(exact).max(), np.finfo(float).tiny)
    assert np.abs(values - exact).max() <= unit
    assert np.all(np.diff(values) >= 0)
    assert np.abs(A @ vectors.T - vectors.T * values[ranks]).max() <= unit
    assert np.abs(vectors @ vectors.T - np.eye(d)).max() <= np.finfo(float).eps * 5 * d


@pytest.mark.parametrize("d", [90, 300])
def test_threads_change_nothing(d: int) -> None:
    """Not a bit."""
    A = gram(d)
    values, vectors = _core.eigh(A.copy(), np.arange(d), 1)
    for n_threads in (2, 3, 8):
        again = _core.eigh(A.copy(), np.arange(d), n_threads)
        assert np.array_equal(again[0], values)
        assert np.array_equal(again[1], vectors)


def test_the_wanted_ones() -> None:
    """Whichever are asked for, in any order, none included, each is the same."""
    A = gram(150)
    values, vectors = _core.eigh(A.copy(), np.arange(150), 1)
    for ranks in ([149], [3, 3, 0], [], list(range(148, 10, -1))):
        some = _core.eigh(A.copy(), np.array(ranks, np.int64), 2)
        assert np.array_equal(some[0], values)
        assert np.allclose(some[1], vectors[ranks], rtol=0, atol=1e-15)


def test_a_norm_that_is_no_float64() -> None:
    with pytest.raises(OverflowError, match="does not fit"):
        _core.eigh(np.full((70, 70), 1e308), np.arange(3), 1)
