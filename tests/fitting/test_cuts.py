"""A filter is determined, or it is said that it is not: against float64, on all kinds of W."""

from __future__ import annotations

import warnings
from collections import Counter

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import head_with_spectrum, orthonormal, sine_of_largest_angle

from embedfilter import EmbedFilter
from embedfilter.fitting import spectrum
from embedfilter.fitting.cuts import Accuracy, noise_of_storage

RIGHT = 1e-4
N_DRAWS = 1000
SHAPES = ("flat", "power", "steps", "rank", "outliers", "tail")


@pytest.fixture(params=["float32 sums", "float64 sums"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where matrices as small as the tests' begin."""
    monkeypatch.setattr(spectrum, "_SMALL_WORK", 0 if "32" in request.param else 1 << 60)
    return request.param


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each sum that a fit makes, whether it is in float32; also of small matrices."""
    made: list[bool] = []
    original = spectrum._sum_gram

    def noted(W, basis, *rest):
        made.append(basis is not None)
        return original(W, basis, *rest)

    monkeypatch.setattr(spectrum, "_SMALL_WORK", 0)
    monkeypatch.setattr(spectrum, "_sum_gram", noted)
    return made


def exact_directions(W: NDArray, ranks: NDArray) -> NDArray[np.float64]:
    return np.linalg.svd(W.astype(np.float64), full_matrices=False)[2][ranks]


def error_of(f: EmbedFilter, W: NDArray) -> float:
    return sine_of_largest_angle(
        orthonormal(f.components), exact_directions(W, f.component_indices)
    )


# ---- a thousand draws -------------------------------------------------------


def drawn_spectrum(rng: np.random.Generator, shape: str, d: int) -> NDArray[np.float64]:
    if shape == "flat":
        return np.ones(d)
    if shape == "power":
        return np.arange(1, d + 1.0) ** -rng.uniform(0.1, 3)
    if shape == "steps":
        return np.repeat([1, 0.1, 0.01, 0.001], -(-d // 4))[:d]
    n = int(rng.integers(1, d))
    if shape == "rank":
        return np.r_[np.ones(n), np.zeros(d - n)]
    if shape == "outliers":
        n = int(rng.integers(1, 14))
        return np.r_[10 ** rng.uniform(1, 6, n), np.ones(d - n)]
    return np.r_[np.ones(d - n), np.geomspace(1, 10 ** -rng.uniform(1, 9), n)]


def drawn(seed: int) -> tuple[NDArray, str, int, str]:
    """Return a matrix, kind and size of a filter, and what the matrix is."""
    rng = np.random.default_rng(seed)
    d = int(rng.integers(16, 96))
    V = int(rng.integers(max(d, 32), 1500))  # the sample takes 32 rows at a time
    shape = str(rng.choice(SHAPES))
    sigma = drawn_spectrum(rng, shape, d)
    if rng.random() < 0.5:  # singular values that spread, or exactly these
        Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
        W = rng.standard_normal((V, d)) * sigma / np.sqrt(V) @ Q
    else:
        W = head_with_spectrum(rng, V, sigma)
    if shape == "flat" and rng.random() < 0.5:  # a few rows that a sample may not show
        W[rng.choice(V, min(V, 11), replace=False)] *= 10 ** rng.uniform(1, 5)
    dtype = str(rng.choice(["bfloat16", "float16", "float32", "float64"], p=[0.25, 0.2, 0.35, 0.2]))
    scale = 10 ** rng.uniform(-2, 2)
    if dtype == "float16":
        scale = min(scale, 6e4 / np.abs(W).max())
    W = (scale * W).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    kind = str(rng.choice(["edge", "late", "head", "tail", "mid", "random"]))
    return W, kind, int(rng.integers(1, d)), f"{shape} {dtype}"


def test_right_or_warned_or_refused(sums: list[bool]) -> None:
    """Never silently wrong; and mostly silent where right, in sums of both precisions."""
    found: Counter[str] = Counter()
    for seed in range(N_DRAWS):
        W, kind, k, what = drawn(seed)
        sums.clear()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                f = EmbedFilter.from_matrix(W, kind=kind, n_components=k)
            except ValueError as error:
                if "of rank over" not in str(error):
                    raise
                found["refused"] += 1
                continue
        right = error_of(f, W) <= RIGHT
        assert right or said, f"draw {seed}: {what}, {W.shape}, kind {kind}, {k} components"
        if said:
            found["right, warned of" if right else "wrong, warned of"] += 1
        else:
            found[f"right, silent, float{32 if sums[-1] else 64}"] += 1
    # When it was written: 146, 424, 232, and 51 false alarms.
    assert found["right, silent, float32"] >= 100
    assert found["right, silent, float64"] >= 300
    assert found["refused"] <= 300
    assert found["right, warned of"] <= 80


# ---- single ones ------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(("rank", "d"), [(260, 384), (300, 512)])
def test_rank_that_rounding_hides(
    route: str, rng: np.random.Generator, dtype: str, rank: int, d: int
) -> None:
    W = rng.standard_normal((4096, rank)) @ rng.standard_normal((rank, d)) / 100
    W = W.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    with pytest.raises(ValueError, match=rf"W: expected .* rank over .* found rank {rank} of {d}"):
        EmbedFilter.from_matrix(W, ratio=2)
    f = EmbedFilter.from_matrix(W, n_components=rank, kind="tail")  # a cut at the rank itself
    assert error_of(f, W) < RIGHT
    # All directions may be asked for; then a shorter filter is refused.
    everything = EmbedFilter.from_matrix(W, kind="identity")
    with pytest.raises(ValueError, match=f"n_components: expected .* found rank {rank} of {d}"):
        everything.truncate(d // 2)


def test_rank_that_the_product_was_rounded_to(rng: np.random.Generator) -> None:
    """In float32 throughout, which leaves more than rounding the result would."""
    A, B = (rng.standard_normal(shape, np.float32) for shape in ((4096, 300), (300, 512)))
    with pytest.raises(ValueError, match="found rank 300 of 512"):
        EmbedFilter.from_matrix(A @ B)


def test_directions_that_the_sample_did_not_show(
    sums: list[bool], rng: np.random.Generator
) -> None:
    """Eight dominate the sample and are taken out; three more are in rows that it has not."""
    V, d = 16384, 192
    W = rng.standard_normal((V, d), np.float32)
    sampled = np.linspace(0, V - 32, 64).astype(int)
    W[sampled[:8] + 3] *= 1e4
    W[[40, 700, 900]] *= 1e3
    W = W.astype(ml_dtypes.bfloat16)
    f = EmbedFilter.from_matrix(W)
    assert sums == [True, False]
    assert error_of(f, W) < 1e-6


@pytest.mark.parametrize(
    ("d", "k", "least"), [(384, 349, 1e-4), (640, 600, 3e-5)], ids=["ratio 1.1", "600 of 640"]
)
def test_cut_in_a_tail_under_the_routes_noise(
    sums: list[bool], rng: np.random.Generator, d: int, k: int, least: float
) -> None:
    sigma = np.geomspace(2, 0.5, d)
    sigma[-60:] *= np.geomspace(1, least, 60)
    W = head_with_spectrum(rng, 3000, sigma).astype(np.float32)
    f = EmbedFilter.from_matrix(W, n_components=k)
    assert sums == [True, False]
    assert error_of(f, W) < 1e-6
    np.testing.assert_allclose(
        f.singular_values, np.linalg.svd(W.astype(np.float64), compute_uv=False), rtol=1e-5
    )


def test_equal_singular_values(route: str, rng: np.random.Generator) -> None:
    sigma = np.geomspace(3, 1, 64)
    sigma[15] = sigma[16]
    W = head_with_spectrum(rng, 400, sigma)
    with pytest.warns(UserWarning, match=r"values 15 and 16 of 64 .* is arbitrary there"):
        EmbedFilter.from_matrix(W)


def test_what_warns_says_by_how_much(rng: np.random.Generator) -> None:
    """A large direction, whose rounding in float64 is near the gap at the cut."""
    sigma = np.geomspace(3, 1, 64)
    sigma[0] = 3e5
    W = head_with_spectrum(rng, 400, sigma)
    with pytest.warns(UserWarning, match=r"may be turned by a sine of 0\.\d+$") as said:
        f = EmbedFilter.from_matrix(W)
    bound = float(str(said[0].message).rpartition(" ")[2])
    assert error_of(f, W) < bound < 0.1


def test_nearly_equal_ones_are_no_reason_to_warn(route: str, rng: np.random.Generator) -> None:
    """All of a random matrix's are; float64 tells them apart."""
    W = rng.standard_normal((3000, 192), np.float32)
    for kind in ("edge", "random"):
        f = EmbedFilter.from_matrix(W, kind=kind)
        assert error_of(f, W) < RIGHT


def test_a_truncated_filter_knows_how_exact_it_is(
    sums: list[bool], rng: np.random.Generator
) -> None:
    """Two singular values that float32 sums do not tell apart are cut by truncation only."""
    sigma = np.geomspace(3, 1, 64)
    sigma[28] = sigma[27] * (1 - 1e-6)
    W = head_with_spectrum(rng, 3000, sigma).astype(np.float32)
    f = EmbedFilter.from_matrix(W, n_components=32)
    assert sums == [True]
    with pytest.warns(UserWarning, match="values 27 and 28 of 64 are too near"):
        f.truncate(8)
    fitted = EmbedFilter.from_matrix(W, n_components=8)  # in float64, then
    assert sums == [True, True, False]
    assert error_of(fitted, W) < RIGHT


def test_accuracy_is_kept_with_the_filter(rng: np.random.Generator, tmp_path) -> None:
    f = EmbedFilter.from_matrix(rng.standard_normal((300, 40)))
    f.save(tmp_path / "f.safetensors")
    again = Accuracy.of_metadata(EmbedFilter.load(tmp_path / "f.safetensors").metadata)
    assert str(again) == f.metadata["accuracy"]
    assert again.error > 0
    # A file of before, or of another program, has none.
    for text in ("", "1 2", "a b c", "nan 1 1", "1 -1 1", "1 1 0"):
        assert Accuracy.of_metadata({"accuracy": text}) == Accuracy()


@pytest.mark.parametrize(("dtype", "name"), [("float32", "F32"), (ml_dtypes.bfloat16, "BF16")])
def test_noise_of_storage_bounds_what_rounding_does(
    rng: np.random.Generator, dtype: str, name: str
) -> None:
    W = rng.standard_normal((2000, 100))
    rounding = W.astype(dtype).astype(np.float64) - W
    largest = np.linalg.svd(rounding, compute_uv=False)[0]
    bound = noise_of_storage(name, W.shape, np.sum(W * W, axis=1))
    assert largest < bound < (30 if name == "F32" else 1.5) * largest
    # A few rows that are long have little to do with it.
    W[:3] *= 1e6
    assert noise_of_storage(name, W.shape, np.sum(W * W, axis=1)) < 1.05 * bound
    assert noise_of_storage(name, W.shape, np.zeros(10)) == 0
