"""Spectroscopy and diagnostics against their formulas in float64 NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracle import head_with_spectrum, model_like_spectrum

from embedfilter import EmbedFilter, LogitLens, diagnose
from embedfilter.lens.spectroscopy import band_edges

V, D = 700, 40


@pytest.fixture(scope="module")
def W() -> NDArray:
    return head_with_spectrum(np.random.default_rng(3), V, model_like_spectrum(D, 25))


@pytest.fixture(scope="module")
def lens(W: NDArray) -> LogitLens:
    return LogitLens(W)


@pytest.fixture
def X(rng: np.random.Generator) -> NDArray:
    return rng.standard_normal((30, D))


@pytest.fixture
def counts(rng: np.random.Generator) -> NDArray:
    return rng.poisson(1000 / (1 + np.arange(V)))


def projector(W: NDArray, start: int, stop: int) -> NDArray:
    rows = np.linalg.svd(W, full_matrices=False)[2][start:stop]
    return rows.T @ rows


def shares(x: NDArray, W: NDArray, bands: list[tuple[int, int]]) -> tuple[NDArray, NDArray]:
    parts = [projector(W, *band) @ x for band in bands]
    own = np.array([part @ part for part in parts]) / (x @ x)
    return own, np.array([(W @ part) @ (W @ part) for part in parts]) / ((W @ x) @ (W @ x))


@pytest.mark.parametrize("bands", [1, 3, 8, D, [0, 1, 10, 39, D], np.array([0, D])])
def test_energies(lens: LogitLens, W: NDArray, X: NDArray, bands: object) -> None:
    found = lens.spectroscopy(X, bands=bands)
    assert [stop for _, stop in found.bands[:-1]] == [start for start, _ in found.bands[1:]]
    assert (found.bands[0][0], found.bands[-1][1]) == (0, D)
    for i in (0, 17):
        own, logits = shares(X[i], W, found.bands)
        np.testing.assert_allclose(found.energy[i], own, atol=1e-9)
        np.testing.assert_allclose(found.logit_energy[i], logits, atol=1e-9)
    np.testing.assert_allclose(found.energy.sum(axis=1), 1)


def test_after_a_filter_the_edge_is_empty(lens: LogitLens, W: NDArray, X: NDArray) -> None:
    f = EmbedFilter.from_matrix(W, ratio=2)
    found = lens.spectroscopy(X, bands=[0, 10, 30, D], filter=f)
    np.testing.assert_allclose(found.energy, np.tile([0, 1, 0], (30, 1)), atol=1e-9)


def test_average_token_of_counts(lens: LogitLens, W: NDArray, X: NDArray, counts: NDArray) -> None:
    found = lens.spectroscopy(X, bands=4, counts=counts)
    y = np.log(counts + 1)
    y -= y.mean()
    expected, *_ = np.linalg.lstsq(W, y, rcond=None)
    average = found.average_token
    assert average.origin == "unigram counts"
    np.testing.assert_allclose(average.vector, expected, atol=1e-9 * np.abs(expected).max())
    own, logits = shares(expected, W, found.bands)
    np.testing.assert_allclose(found.average_energy, own, atol=1e-9)
    np.testing.assert_allclose(found.average_logit_energy, logits, atol=1e-9)
    U = np.linalg.svd(W, full_matrices=False)[0]
    parts = [float(((U[:, a:b].T @ y) ** 2).sum() / (y @ y)) for a, b in found.bands]
    np.testing.assert_allclose(found.frequency, parts, atol=1e-9)
    # All bands together write what a regression on W explains.
    residual = y - W @ expected
    np.testing.assert_allclose(found.frequency.sum(), 1 - residual @ residual / (y @ y))


def test_average_token_without_counts(lens: LogitLens, W: NDArray, X: NDArray) -> None:
    found = lens.spectroscopy(X)
    assert found.average_token.origin == "vocabulary mean"
    np.testing.assert_allclose(found.average_token.vector, W.mean(axis=0), atol=1e-12)
    assert found.frequency is None


def test_directions_that_write_nothing(rng: np.random.Generator) -> None:
    W = rng.standard_normal((200, 6)) @ rng.standard_normal((6, 9))  # rank 6 of 9
    lens = LogitLens(W)
    found = lens.spectroscopy(np.ones((2, 9)), bands=9, counts=np.arange(200))
    assert np.isfinite(found.average_token.vector).all()
    assert np.abs(found.average_energy[6:]).max() < 1e-9
    assert (found.frequency[6:] == 0).all()


def test_zero_vectors_and_empty_batches(lens: LogitLens) -> None:
    found = lens.spectroscopy(np.zeros((2, D)))
    assert (found.energy == 0).all()
    none = lens.spectroscopy(np.empty((0, D)))
    assert none.energy.shape == (0, 8)
    for shown in (repr(none), none._repr_html_(), found._repr_html_()):
        assert "vocabulary mean" in shown
        assert "nan" not in shown


def test_the_papers_second_observation(
    smollm2: Path, demo_embeddings: dict[str, NDArray], demo_texts: list[str]
) -> None:
    """The edge of the spectrum carries the embeddings and writes the average token."""
    with LogitLens(smollm2) as lens:
        counts = lens.count_tokens(demo_texts)
        for X in demo_embeddings.values():
            found = lens.spectroscopy(X, counts=counts)
            mean = found.energy.mean(axis=0)
            for energy in (mean, found.average_energy):
                assert energy[[0, 7]].sum() > 0.6
                assert (energy[1:6] < 0.1).all()
            assert found.frequency[0] > 5 * found.frequency[3]
            assert found.frequency[7] > 2 * found.frequency[3]
            assert "frequent tokens" in repr(found)
    assert counts[260] == max(counts[[260, 253, 259]])  # " the"


@pytest.mark.parametrize(
    ("bands", "error"),
    [(0, ValueError), (D + 1, ValueError), (2.5, TypeError), (True, TypeError), ("a", TypeError),
     ([0], TypeError), ([0, 5], ValueError), ([1, D], ValueError), ([0, 5, 5, D], ValueError),
     ([0, 7, 5, D], ValueError), ([0.0, 40.0], TypeError), (None, TypeError)],
)  # fmt: skip
def test_wrong_bands(lens: LogitLens, bands: object, error: type) -> None:
    with pytest.raises(error, match="bands: expected"):
        lens.spectroscopy(np.ones((1, D)), bands=bands)


def test_bands_are_of_equal_size() -> None:
    for d in range(1, 30):
        for n in range(1, d + 1):
            sizes = np.diff(band_edges(n, d))
            assert len(sizes) == n
            assert sizes.sum() == d
            assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(
    ("counts", "error"),
    [(np.ones(V), ValueError), (np.zeros(V), ValueError), (np.ones(V + 1), ValueError),
     ([], ValueError), (np.full(V, np.nan), ValueError), (-np.arange(V), ValueError),
     (np.ones((V, 1)), TypeError), (["a"], TypeError), (3, TypeError)],
)  # fmt: skip
def test_wrong_counts(lens: LogitLens, counts: object, error: type) -> None:
    with pytest.raises(error, match="counts: expected"):
        lens.average_token(counts)


def test_fewer_counts_than_tokens(lens: LogitLens) -> None:
    few = lens.average_token([5, 3, 1])
    padded = lens.average_token(np.pad([5, 3, 1], (0, V - 3)))
    assert np.array_equal(few.vector, padded.vector)


# ---- diagnostics ------------------------------------------------------------


def by_definition(X: NDArray) -> tuple[float, float, float]:
    units = X / np.linalg.norm(X, axis=1, keepdims=True)
    cosines = (units @ units.T)[np.triu_indices(len(X), 1)]
    sigma = np.linalg.svd(units, compute_uv=False)
    p = sigma / sigma.sum()
    return cosines.mean(), np.exp(-(p * np.log(p)).sum()), sigma[0] ** 2 / (sigma**2).sum()


@pytest.mark.parametrize("n", [2, 10, 200])
def test_diagnostics(W: NDArray, rng: np.random.Generator, n: int) -> None:
    X = rng.standard_normal((n, D)) + 1.5
    f = EmbedFilter.from_matrix(W)
    found = diagnose(X, f)
    for space, vectors in ((found.before, X), (found.after, f.transform(X))):
        figures = (space.mean_cosine, space.effective_rank, space.largest_direction)
        np.testing.assert_allclose(figures, by_definition(vectors.astype(float)), rtol=1e-5)
    C = f.components.astype(float)
    cut = X - X @ C.T @ C
    expected = ((cut**2).sum(axis=1) / (X**2).sum(axis=1)).mean()
    assert found.before.edge == pytest.approx(expected, abs=1e-6)
    assert found.after.edge == 0
    assert (found.before.dimensions, found.after.dimensions) == (D, D // 2)
    assert diagnose(X).after is None


def test_the_papers_third_observation(smollm2: Path, demo_embeddings: dict[str, NDArray]) -> None:
    """The narrow cone opens."""
    f = EmbedFilter.from_checkpoint(smollm2)
    for X in demo_embeddings.values():
        found = diagnose(X, f)
        assert found.after.mean_cosine < found.before.mean_cosine - 0.1
        assert found.after.largest_direction < found.before.largest_direction - 0.1
        assert found.before.edge > 0.8


def test_diagnostics_are_shown(W: NDArray, rng: np.random.Generator) -> None:
    X = rng.standard_normal((9, D))
    found = diagnose(X, EmbedFilter.from_matrix(W))
    for shown in (repr(found), found._repr_html_()):
        assert all(word in shown for word in ("before", "after", "mean cosine", "filter cuts"))
    alone = diagnose(X)
    for shown in (repr(alone), alone._repr_html_()):
        assert "after" not in shown
        assert "filter cuts" not in shown


def test_spaces_that_have_no_figures(W: NDArray) -> None:
    f = EmbedFilter.from_matrix(W)
    for X in (np.empty((0, D)), np.ones((1, D)), np.zeros((5, D))):
        found = diagnose(X, f)
        assert np.isnan(found.before.mean_cosine)
        assert "nan" in repr(found)
    partly = np.zeros((6, D))
    partly[:3] = np.eye(3, D)
    assert diagnose(partly).before.effective_rank == pytest.approx(3)


def test_diagnostics_of_tensors(rng: np.random.Generator) -> None:
    X = rng.standard_normal((20, 8)).astype(np.float32)
    tensor = torch.from_numpy(X)
    assert diagnose(tensor) == diagnose(X)
    half = diagnose(tensor.to(torch.bfloat16)).before
    assert half.mean_cosine == pytest.approx(diagnose(X).before.mean_cosine, abs=0.01)


@pytest.mark.parametrize(
    ("X", "error"),
    [(np.ones(5), ValueError), (np.ones((2, 3, 4)), ValueError), (np.ones((2, 0)), ValueError),
     (np.ones((2, 3), int), TypeError), (np.full((2, 3), np.nan), ValueError)],
)  # fmt: skip
def test_wrong_vectors(X: NDArray, error: type) -> None:
    with pytest.raises(error, match="X: expected"):
        diagnose(X)
