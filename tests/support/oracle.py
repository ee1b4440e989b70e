"""What the tests compare with: the method in float64 NumPy, straight from its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def head_with_spectrum(
    rng: np.random.Generator, V: int, singular_values: ArrayLike
) -> NDArray[np.float64]:
    """Return a random matrix (V, d) with these singular values."""
    sigma = np.asarray(singular_values, np.float64)
    U, _ = np.linalg.qr(rng.standard_normal((V, len(sigma))))
    Q, _ = np.linalg.qr(rng.standard_normal((len(sigma), len(sigma))))
    return (U * sigma) @ Q


def model_like_spectrum(d: int, peak: float) -> NDArray[np.float64]:
    """Return a spectrum like a language model's: one peak, a shoulder, a slow fall, a drop.

    The bulk is about 1, so `peak` is the ratio of the largest singular value to it; close
    neighbours in the bulk differ by about 1 / d.
    """
    bulk = np.geomspace(2.0, 0.5, d)
    bulk[0] = peak
    bulk[1:4] = np.array([0.2, 0.12, 0.1]) * peak
    bulk[-3:] *= 0.3
    return bulk


def edge_rows(d: int, k: int) -> NDArray[np.int64]:
    """Return the rows of Vh that the paper's filter keeps."""
    return np.arange((d - k) // 2, (d - k) // 2 + k)


def sine_of_largest_angle(A: NDArray, B: NDArray) -> float:
    """Return the sine of the largest principal angle between two row spaces.

    A and B have orthonormal rows, as many each. Taken from the part of A outside B, which is
    accurate for small angles, where the cosine is not.
    """
    A, B = np.asarray(A, np.float64), np.asarray(B, np.float64)
    return float(np.linalg.norm(A - (A @ B.T) @ B, 2))


def orthonormal(A: NDArray) -> NDArray[np.float64]:
    """Return orthonormal rows with the row space of A: undoes its rounding to float32."""
    return np.linalg.qr(np.asarray(A, np.float64).T)[0].T


def assert_same_directions(f: Any, g: Any) -> None:
    """Check that two filters, not calibrated, are the same but for how LAPACK rounds.

    It computes all directions that are asked for in one product; on some processors the last bit
    of one depends on which the others are.
    """
    assert f.kind == g.kind
    assert np.array_equal(f.component_indices, g.component_indices)
    assert np.array_equal(f.singular_values, g.singular_values)
    np.testing.assert_allclose(f.components, g.components, rtol=0, atol=1.2e-7)


def unit_rows(Y: NDArray) -> NDArray:
    """Return the rows scaled to unit length; rows of zeros stay."""
    norms = np.linalg.norm(Y, axis=1, keepdims=True)
    return Y / np.where(norms == 0, 1, norms)


def calibrated(P: NDArray, X: NDArray, whitening: float) -> tuple[NDArray, NDArray, float]:
    """Return components and mean, as y = C (x - mean), and shrinkage of a calibrated filter.

    P (p, d) has the filter's components. Straight from the definitions: the covariance is
    shrunk before it is decomposed, and the mean as if ten more embeddings were zero.
    """
    P, X = np.asarray(P, np.float64), np.asarray(X, np.float64)
    Y = X @ P.T
    n, p = Y.shape
    C = np.cov(Y.T, bias=True).reshape(p, p)
    t, q = np.trace(C), np.trace(C @ C)
    rho = min(1.0, ((1 - 2 / p) * q + t**2) / ((n + 1 - 2 / p) * (q - t**2 / p)))
    values, axes = np.linalg.eigh((1 - rho) * C + rho * t / p * np.eye(p))
    scales = (values[::-1] + 5 * t / p) ** (-whitening / 2)
    return scales[:, np.newaxis] * (axes.T[::-1] @ P), X.mean(axis=0) * n / (n + 10), rho


def largest_logits(W: NDArray, X: NDArray, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return ids and logits (n, k) of the k largest of W x, equal ones by ascending id."""
    logits = np.asarray(X, np.float64) @ np.asarray(W, np.float64).T
    ids = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(logits, ids, axis=1)
