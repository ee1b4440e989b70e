"""The path for machines without kernels of their own: OpenBLAS's products."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest

import embedfilter
from embedfilter import EmbedFilter, _core


@pytest.fixture(autouse=True)
def generic() -> Iterator[None]:
    before = embedfilter.get_isa()
    embedfilter.set_isa("generic")
    yield
    embedfilter.set_isa(before)


def made_filter(rng: np.random.Generator, k: int, d: int) -> EmbedFilter:
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return EmbedFilter(Q[:k].astype(np.float32), np.arange(k), np.ones(d), kind="edge", metadata={})


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("n", [0, 1, 3, 255, 256, 257, 1000])
def test_projection(rng: np.random.Generator, n: int, dtype: type) -> None:
    f = made_filter(rng, 37, 90)
    X = rng.standard_normal((n, 90)).astype(dtype)
    expected = X.astype(np.float64) @ f.components.T.astype(np.float64)
    np.testing.assert_allclose(f.transform(X, normalize=False), expected, atol=1e-5)
    np.testing.assert_array_equal(f.transform(X[::-1]), f.transform(X[::-1].copy()))
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(f.transform(X), expected / lengths, atol=1e-6)


def test_a_filter_serves_whichever_path_comes(rng: np.random.Generator) -> None:
    f, X = made_filter(rng, 37, 90), rng.standard_normal((50, 90), np.float32)
    by_openblas = f.transform(X)
    embedfilter.set_isa("scalar")
    np.testing.assert_allclose(f.transform(X), by_openblas, atol=1e-6)
    made_for_kernels = made_filter(rng, 37, 90)
    by_kernels = made_for_kernels.transform(X)
    embedfilter.set_isa("generic")
    np.testing.assert_array_equal(made_for_kernels.transform(X), by_kernels)


def test_it_is_openblas_that_multiplies(rng: np.random.Generator) -> None:
    # Its sums run in another order than the kernels', which agree to the bit with one another.
    f, X = made_filter(rng, 300, 600), rng.standard_normal((500, 600), np.float32)
    by_openblas, alone = f.transform(X), np.array([f.transform(x) for x in X[:50]])
    np.testing.assert_allclose(alone, by_openblas[:50], atol=1e-6)
    embedfilter.set_isa("scalar")
    by_kernels = f.transform(X)
    assert not np.array_equal(by_openblas, by_kernels)
    np.testing.assert_allclose(by_openblas, by_kernels, atol=1e-6)


def test_a_sum_with_a_basis_is_exact(rng: np.random.Generator) -> None:
    W = rng.standard_normal((3000, 70), np.float32)
    total, gram = _core.Gram(70, np.eye(2, 70, dtype=np.float32)), np.zeros((70, 70))
    total.add(W, 2)
    total.finish(gram, 2)
    expected = np.triu(W.astype(np.float64).T @ W.astype(np.float64))
    np.testing.assert_allclose(gram, expected, rtol=1e-12, atol=1e-9)


def test_bad_rows(rng: np.random.Generator) -> None:
    f, X = made_filter(rng, 5, 30), rng.standard_normal((600, 30), np.float32)
    X[500, 3] = np.nan
    with pytest.raises(ValueError, match="in 1 of 600 rows: 500"):
        f.transform(X)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_fit(rng: np.random.Generator, dtype: type) -> None:
    # Enough rows for several chunks, the last one not full.
    W = (rng.standard_normal((20011, 90)) * np.geomspace(1, 30, 90)).astype(dtype)
    f = EmbedFilter.from_matrix(W, n_components=20)
    sigma, Vh = np.linalg.svd(W.astype(np.float64), full_matrices=False)[1:]
    np.testing.assert_allclose(f.singular_values, sigma, rtol=1e-9)
    cosines = np.linalg.svd(f.components @ Vh[f.component_indices].T)[1]
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    W[15000, 2] = np.inf
    with pytest.raises(ValueError, match="row 15000"):
        EmbedFilter.from_matrix(W)
