"""The bias of a head, which the model adds to the logits, beside float64 NumPy."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from oracle import head_with_spectrum, model_like_spectrum

from embedfilter import CheckpointError, EmbedFilter, LogitLens
from embedfilter.lens import logit_lens as lens_module

V, D = 5000, 48


@pytest.fixture(scope="module")
def W() -> NDArray:
    rng = np.random.default_rng(2)
    return head_with_spectrum(rng, V, model_like_spectrum(D, 25)).astype(np.float32)


@pytest.fixture(scope="module")
def bias() -> NDArray:
    return np.random.default_rng(3).standard_normal(V).astype(np.float32)


@pytest.fixture
def X(rng: np.random.Generator) -> NDArray:
    return rng.standard_normal((20, D)).astype(np.float32)


def lens_of(source: object, bias: NDArray, n_threads: int | None = None) -> LogitLens:
    lens = LogitLens(source, n_threads=n_threads)
    lens.matrix.bias = bias
    return lens


def largest(W: NDArray, bias: NDArray, X: NDArray, k: int) -> tuple[NDArray, NDArray]:
    logits = X.astype(np.float64) @ W.astype(np.float64).T + bias.astype(np.float64)
    ids = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(logits, ids, axis=1)


@pytest.mark.parametrize("n", [1, 4, 20])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_it_is_added(W: NDArray, bias: NDArray, X: NDArray, dtype: str, n: int) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    stored, vectors = W.astype(kind), X[:n].astype(kind)
    found = lens_of(stored, bias).top_tokens(vectors, 9)
    ids, logits = largest(
        stored.astype(np.float32), bias, vectors.astype(np.float32).astype(np.float64), 9
    )
    assert np.array_equal(found.ids, ids)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-5)
    assert not np.array_equal(found.ids, LogitLens(stored).top_tokens(vectors, 9).ids)


def test_a_bias_alone_ranks_vectors_of_zeros(W: NDArray, bias: NDArray) -> None:
    found = lens_of(W, bias).top_tokens(np.zeros(D), 5)
    assert found.ids[0].tolist() == np.argsort(-bias)[:5].tolist()
    assert np.array_equal(found.logits[0], np.sort(bias)[:-6:-1])


def test_the_same_for_every_batch_and_number_of_threads(
    isa: str, W: NDArray, bias: NDArray, X: NDArray
) -> None:
    expected = lens_of(W, bias, n_threads=1).top_tokens(X, 6)
    for found in (
        lens_of(W, bias, n_threads=2).top_tokens(X, 6),
        lens_of(W, bias, n_threads=3).top_tokens(X, 6),
    ):
        assert np.array_equal(found.ids, expected.ids)
        assert np.array_equal(found.logits, expected.logits)
    one = lens_of(W, bias).top_tokens(X[7], 6)
    assert np.array_equal(one.logits, expected.logits[7:8])


def test_after_a_filter(W: NDArray, bias: NDArray, X: NDArray) -> None:
    f, lens = EmbedFilter.from_matrix(W), lens_of(W, bias)
    inside = X @ f.components.T @ f.components
    ids, logits = largest(W, bias, inside, 5)
    for found in (
        lens.top_tokens(X, 5, filter=f),
        lens.top_tokens(f.transform(X, normalize=False), 5, filter=f),
    ):
        assert np.array_equal(found.ids, ids)
        np.testing.assert_allclose(found.logits, logits, rtol=1e-4)


def test_streamed_from_a_file(
    W: NDArray, bias: NDArray, X: NDArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"lm_head.weight": W}, path)
    expected = lens_of(W, bias).top_tokens(X, 6)
    kept = lens_of(path, bias).top_tokens(X, 6)
    monkeypatch.setattr(lens_module, "_KEPT_BYTES", 0)
    monkeypatch.setattr(lens_module, "_PASS_ROWS", 7)
    with lens_of(path, bias) as lens:
        streamed = lens.top_tokens(X, 6)
    for found in (kept, streamed):
        assert np.array_equal(found.ids, expected.ids)
        assert np.array_equal(found.logits, expected.logits)


def test_as_a_checkpoint_has_it(W: NDArray, bias: NDArray, X: NDArray, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"lm_head.weight": W, "lm_head.bias": bias}, path)
    found = LogitLens(path).top_tokens(X, 6)
    ids, logits = largest(W, bias, X, 6)
    assert np.array_equal(found.ids, ids)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-5)


def test_spectroscopy_is_of_the_matrix_alone(W: NDArray, bias: NDArray, X: NDArray) -> None:
    plain, biased = LogitLens(W).spectroscopy(X), lens_of(W, bias).spectroscopy(X)
    assert np.array_equal(plain.logit_energy, biased.logit_energy)


def test_what_is_wrong_is_told_as_without_it(
    W: NDArray, bias: NDArray, X: NDArray, tmp_path: Path
) -> None:
    lens = lens_of(W, bias)
    with pytest.raises(ValueError, match=r"X: expected numbers that float32 holds.* in row 3"):
        lens.top_tokens(np.where(np.arange(20)[:, None] == 3, 1e39, X.astype(np.float64)))
    with pytest.raises(ValueError, match=r"X: .* NaN or infinity in 1 of 20 rows: 2"):
        lens.top_tokens(np.where(np.arange(20)[:, None] == 2, np.nan, X))
    broken = W.copy()
    broken[4300, 4] = np.inf
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"lm_head.weight": broken}, path)
    for n in (1, 20):
        with pytest.raises(CheckpointError, match=r"NaN or infinity in row 4300"):
            lens_of(path, bias).top_tokens(X[:n])
