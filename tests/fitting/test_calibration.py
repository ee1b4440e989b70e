"""Calibration: against its formula in float64, its laws, samples that come in parts."""

from __future__ import annotations

import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from numpy.typing import NDArray
from oracle import calibrated, head_with_spectrum, model_like_spectrum, unit_rows

from embedfilter import EmbedFilter
from embedfilter.arrays.vocabulary_sample import VocabularySample
from embedfilter.fitting.calibration import SampleStatistics

D, K = 48, 24


@pytest.fixture(scope="module")
def f() -> EmbedFilter:
    return made_filter("edge")


def made_filter(kind: str) -> EmbedFilter:
    W = head_with_spectrum(np.random.default_rng(1), 500, model_like_spectrum(D, 25))
    return EmbedFilter.from_matrix(W, kind=kind)


def sample(n: int, seed: int = 2) -> NDArray[np.float64]:
    """Return embeddings with a mean far from 0 and variances that differ, as real ones have."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).standard_normal((D, D)) * np.geomspace(3, 0.2, D)[:, None]
    return rng.standard_normal((n, D)) @ mixing + np.linspace(-9, 9, D)


X = sample(300)


@pytest.fixture(scope="module")
def g(f: EmbedFilter) -> EmbedFilter:
    return f.calibrate(X)


# ---- the formula ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["edge", "late", "identity"])
@pytest.mark.parametrize("whitening", [0, 0.5, 1])
@pytest.mark.parametrize("n", [2, 5, 30, 300])
def test_the_formula(kind: str, whitening: float, n: int) -> None:
    f = made_filter(kind)
    rows = X[:n]
    C, mean, shrinkage = calibrated(f.components, rows, whitening)
    g = f.calibrate(rows, whitening=whitening)
    assert float(g.metadata["calibration_shrinkage"]) == pytest.approx(shrinkage, rel=1e-4)
    others = sample(40, seed=3)
    exact = unit_rows((others - mean) @ C.T)
    Y = g.transform(others)
    # Inner products, as axes of equal variance, which few rows have, may be rotated.
    np.testing.assert_allclose(Y @ Y.T, exact @ exact.T, atol=1e-5)
    determined = min(n - 1, f.n_components)
    np.testing.assert_allclose(np.abs(Y[:, : determined - 1]), np.abs(exact[:, : determined - 1]),
                               atol=1e-3)  # fmt: skip


def test_one_component() -> None:
    f = made_filter("edge").truncate(1)
    g = f.calibrate(X)
    assert g.metadata["calibration_shrinkage"] == "1"
    assert np.array_equal(g.transform(X, precision="ubinary")[:, 0] >> 7, g(X)[:, 0] > 0)


def test_laws_on_the_sample_itself(g: EmbedFilter) -> None:
    """The mean is 0 with ten rows of 0; dimensions are not correlated, of descending variance."""
    Y = g.transform(X, normalize=False).astype(np.float64)
    zeros = g.transform(np.zeros((10, D)), normalize=False)
    np.testing.assert_allclose(np.concatenate([Y, zeros]).mean(axis=0), 0, atol=1e-5)
    covariance = np.cov(Y.T)
    variances = np.diagonal(covariance)
    np.testing.assert_allclose(covariance - np.diag(variances), 0, atol=1e-5 * variances[0])
    assert (np.diff(variances) < 0).all()
    products = g.components @ g.components.T
    lengths = np.sqrt(np.diagonal(products))
    np.testing.assert_allclose(products / np.outer(lengths, lengths), np.eye(K), atol=1e-6)
    assert (np.diff(lengths) > 0).all()  # whitened
    assert np.log(lengths).mean() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8", "ubinary"])
def test_transform(g: EmbedFilter, precision: str) -> None:
    assert g.mean is not None
    assert g.ranges is not None
    exact = (X - g.mean) @ g.components.T.astype(np.float64)
    np.testing.assert_allclose(g.transform(X, normalize=False), exact, atol=2e-5)
    np.testing.assert_allclose(g.transform(X), unit_rows(exact), atol=2e-6)
    many = g.transform(X, precision=precision)
    assert np.array_equal(g.transform(X[3], precision=precision), many[3])
    assert np.array_equal(g.transform(X[7:30], precision=precision, n_threads=2), many[7:30])


@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_mean_far_from_0_costs_no_digits(
    isa: str, f: EmbedFilter, dtype: str, with_prior: bool
) -> None:
    """Also where the filter cuts most of it: what is subtracted is the mean as it is."""
    far = X + np.linspace(-3e4, 3e4, D) * X.std(axis=0)
    if dtype == "float16":  # up to 65504
        far *= 6e4 / np.abs(far).max()
    rows = far.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if dtype in ("float16", "bfloat16"):
        rows = np.unique(rows, axis=0)  # such a step may be all that they differ by
    g = f.calibrate(rows, prior=rows[::2] / 2 if with_prior else None)
    assert g.mean is not None
    wide = rows.astype(np.float64)
    # All of the mean is taken off, or all but two deviations of the rows, within the filter.
    left = wide.mean(axis=0) - g.mean
    P = f.components.astype(np.float64)
    deviation = np.sqrt(np.var(wide @ P.T, axis=0).sum())
    assert np.linalg.norm(P @ left) < 2.01 * deviation
    np.testing.assert_allclose(left, P.T @ (P @ left), atol=1e-6 * np.abs(wide).max())
    exact = (wide - g.mean) @ g.components.T.astype(np.float64)
    error = np.linalg.norm(g.transform(rows, normalize=False) - exact, axis=1)
    assert (error / np.linalg.norm(exact, axis=1)).max() < 1e-5
    np.testing.assert_allclose(g.transform(rows), unit_rows(exact), atol=1e-5)


def test_nested(f: EmbedFilter, g: EmbedFilter) -> None:
    for j in range(1, K + 1):
        alone, cut = f.calibrate(X, n_components=j), g.truncate(j)
        # NumPy's product of fewer rows may round otherwise.
        np.testing.assert_allclose(alone.components, cut.components, rtol=1e-6, atol=1e-6)
        assert np.array_equal(alone.mean, cut.mean)
        assert alone.component_indices.shape == (j,)
        np.testing.assert_allclose(alone(X), cut(X), atol=1e-6)
    assert g.truncate(K) == g


def test_pca_of_the_whole_space_stays_identity() -> None:
    g = made_filter("identity").calibrate(X, n_components=7, whitening=0)
    assert (g.kind, g.truncate(3).kind) == ("identity", "identity")
    lengths = np.linalg.norm(g.components, axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)
    axes = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)[2][:7]
    np.testing.assert_allclose(np.abs(np.sum(axes * g.components, axis=1)), 1, atol=1e-6)


def test_inverse_transform(g: EmbedFilter) -> None:
    assert g.mean is not None
    Y = g.transform(X, normalize=False)
    back = g.inverse_transform(Y)
    np.testing.assert_allclose(g.transform(back, normalize=False), Y, atol=1e-4)
    # The part of the rows, about the mean, that lies in what the filter keeps.
    Q = np.linalg.qr(g.components.T.astype(np.float64))[0]
    inside = (X - g.mean) @ Q @ Q.T + g.mean
    np.testing.assert_allclose(back, inside, atol=1e-4)


# ---- ranges -----------------------------------------------------------------


def test_ranges_are_of_the_sample(g: EmbedFilter) -> None:
    assert g.ranges is not None
    Y = g.transform(X)
    # Wider only where the sample's extremes are under two standard deviations.
    assert (g.ranges[0] <= Y.min(axis=0) + 1e-6).all()
    assert (g.ranges[1] >= Y.max(axis=0) - 1e-6).all()
    np.testing.assert_allclose(g.ranges, [Y.min(axis=0), Y.max(axis=0)], atol=0.05)
    stored = g.transform(X, precision="int8")
    assert np.array_equal(stored, g.transform(X, precision="int8", ranges=g.ranges))
    with pytest.raises(ValueError, match="ranges: expected the least .*the filter has none"):
        g.transform(X, precision="int8", normalize=False)


@pytest.mark.parametrize("n", [2, 3, 10, 300])
def test_ranges_of_few_rows_fit_others(f: EmbedFilter, n: int) -> None:
    g = f.calibrate(X[:n])
    others = g.transform(sample(500, seed=5), precision="uint8")
    assert ((others == 0) | (others == 255)).mean() < 0.1


@pytest.mark.parametrize("j", [2, 6, 12])
def test_ranges_of_a_shorter_filter(f: EmbedFilter, g: EmbedFilter, j: int) -> None:
    cut, alone = g.truncate(j).ranges, f.calibrate(X, n_components=j).ranges
    assert cut is not None
    assert alone is not None
    np.testing.assert_allclose(np.ptp(cut, axis=0) / np.ptp(alone, axis=0), 1, atol=0.35)


# ---- samples in parts -------------------------------------------------------


def test_parts_of_a_sample(f: EmbedFilter, g: EmbedFilter) -> None:
    statistics = f.statistics()
    for part in np.split(X, [1, 2, 50]):
        assert statistics.add(part, n_threads=2) is statistics
    assert statistics.n_rows == 300
    assert f.calibrate(statistics) == g  # to the bit
    assert f.calibrate(statistics, n_components=5) == f.calibrate(X, n_components=5)
    f.calibrate(statistics.add(X))  # more may come after it
    assert statistics.n_rows == 600


def test_statistics_add_up_across_processes(f: EmbedFilter, g: EmbedFilter) -> None:
    parts = [pickle.loads(pickle.dumps(f.statistics().add(part))) for part in np.split(X, 6)]
    for order in (parts, parts[::-1]):
        total = sum(order)
        assert isinstance(total, SampleStatistics)
        assert total.n_rows == 300
        together = f.calibrate(total)
        np.testing.assert_allclose(together.components, g.components, atol=1e-6)
        assert together.mean is not None
        np.testing.assert_allclose(together.mean, g.mean, atol=1e-6)
        np.testing.assert_allclose(together.ranges, g.ranges, atol=1e-6)
    assert [part.n_rows for part in parts] == [50] * 6
    assert parts[0].add(X[:7]).n_rows == 57


def test_the_rows_kept_are_the_same_in_any_order(f: EmbedFilter) -> None:
    rows = sample(5000)
    forwards, backwards = f.statistics().add(rows), f.statistics()
    for part in np.array_split(rows[::-1], 13):
        backwards.add(part)
    merged = f.statistics().add(rows[3000:]) + f.statistics().add(rows[:3000])
    kept = forwards.sample()
    assert kept.shape == (1024, K)
    assert np.array_equal(backwards.sample(), kept)
    assert np.array_equal(merged.sample(), kept)
    # They are spread over the sample, and are rows of it.
    filtered = f.transform(rows, normalize=False)
    places = np.flatnonzero((filtered[:, None, 0] == kept[:, 0]).any(axis=1))
    assert len(places) == 1024
    assert 2200 < places.mean() < 2800
    # Rows that come again and again are kept once.
    assert f.statistics().add(np.repeat(rows[:3], 400, axis=0)).sample().shape == (3, K)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_types_of_sample(f: EmbedFilter, dtype: str) -> None:
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    rows = X.astype(kind)
    assert f.calibrate(rows) == f.calibrate(rows.astype(np.float64))
    tensor = torch.from_numpy(rows.astype(np.float32)).to(getattr(torch, dtype))
    assert f.calibrate(tensor) == f.calibrate(rows)
    assert f.statistics().add(X[0]).add([]).n_rows == 1


# ---- what is refused --------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        (X[:1], {}, ValueError, "X_sample: expected at least 2 rows, found 1"),
        (X[0], {}, ValueError, "X_sample: expected at least 2 rows, found 1"),
        ([], {}, ValueError, "X_sample: expected at least 2 rows, found 0"),
        (np.tile(X[0], (9, 1)), {}, ValueError, "expected rows that differ once.* 9 alike"),
        (np.zeros((9, D)), {}, ValueError, "expected rows that differ once.* 9 alike"),
        (X[:, :7], {}, ValueError, r"X_sample: expected \(n, 48\), found shape \(300, 7\)"),
        (X.astype(int), {}, TypeError, "X_sample: expected one of float16.*found int64"),
        (np.where(X > 30, np.nan, X), {}, ValueError, "X_sample: expected finite.* of 300 rows"),
        (np.where(X > 30, 1e39, X), {}, ValueError, "X_sample: rows 0 to 299: expected numbers"),
        (X, {"whitening": -0.1}, ValueError, "whitening: expected from 0 to 1, found -0.1"),
        (X, {"whitening": 1.1}, ValueError, "whitening: expected from 0 to 1, found 1.1"),
        (X, {"whitening": np.nan}, ValueError, "whitening: expected from 0 to 1, found nan"),
        (X, {"whitening": "1"}, TypeError, "whitening: expected a number from 0 to 1, found '1'"),
        (X, {"whitening": True}, TypeError, "whitening: expected a number"),
        (X, {"n_components": 25}, ValueError, "n_components: expected from 1 to 24, found 25"),
        (X, {"n_components": 0}, ValueError, "n_components: expected from 1 to 24, found 0"),
        (X, {"n_components": 2.0}, TypeError, "n_components: expected an integer, found 2.0"),
        (X, {"n_threads": 0}, ValueError, "n_threads"),
    ],
)  # fmt: skip
def test_bad_samples_and_options(
    f: EmbedFilter, rows, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        f.calibrate(rows, **options)


def test_other_filters(f: EmbedFilter, g: EmbedFilter) -> None:
    for refused in (lambda: g.calibrate(X), g.statistics):
        with pytest.raises(ValueError, match="filter: expected one that is not calibrated"):
            refused()
    other = made_filter("late").statistics().add(X)
    with pytest.raises(ValueError, match="that passed this filter, found those of .*'late'"):
        f.calibrate(other)
    with pytest.raises(ValueError, match="that passed the same filter, found .*'edge'.*'late'"):
        f.statistics() + other
    with pytest.raises(TypeError, match="unsupported operand"):
        other + 3  # type: ignore[operator]


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_units_do_not_matter(f: EmbedFilter, g: EmbedFilter, scale: float) -> None:
    np.testing.assert_allclose(f.calibrate(X * scale)(X * scale), g(X), atol=1e-5)


# ---- keeping it -------------------------------------------------------------


def test_saved_and_pickled(f: EmbedFilter, g: EmbedFilter, tmp_path: Path) -> None:
    g.save(tmp_path / "g")
    for same in (EmbedFilter.load(tmp_path / "g"), pickle.loads(pickle.dumps(g))):
        assert same == g
        assert same.metadata == g.metadata
        assert np.array_equal(same.transform(X, precision="int8"), g.transform(X, precision="int8"))
    assert g != f
    moved = EmbedFilter(**{**g.__getstate__(), "mean": g.mean + 1})
    assert moved != g
    assert repr(g) == "EmbedFilter(48 -> 24, kind='edge', calibrated, source='array')"
    assert g.metadata["calibration_rows"] == "300"
    assert g.metadata["calibration_components"] == "24"
    assert g.metadata["calibration_whitening"] == "0.5"


def test_plain_safetensors_reads_a_calibrated_filter(g: EmbedFilter, tmp_path: Path) -> None:
    g.save(tmp_path / "g")
    tensors = safetensors.numpy.load_file(tmp_path / "g")
    assert {name: (str(t.dtype), t.shape) for name, t in tensors.items()} == {
        "components": ("float32", (K, D)),
        "component_indices": ("int64", (K,)),
        "singular_values": ("float64", (D,)),
        "mean": ("float32", (D,)),
        "ranges": ("float32", (2, K)),
    }
    Y = (X - tensors["mean"]) @ tensors["components"].T
    np.testing.assert_allclose(unit_rows(Y), g.transform(X), atol=2e-6)


# ---- a prior, and words ------------------------------------------------------


def words(n: int = 60, description: str = "60 words of a test") -> VocabularySample:
    """Return a sample of other directions, mean and size than that of texts."""
    rows = 7 * sample(n, seed=5)[:, ::-1] + 1
    return VocabularySample.of(np.ascontiguousarray(rows, np.float32), description)


def covariance_of(f: EmbedFilter, rows: NDArray) -> tuple[NDArray, NDArray, float]:
    """Return mean, covariance and the estimate of its shrinkage, of filtered rows."""
    Y = np.asarray(rows, np.float64) @ f.components.T.astype(np.float64)
    rho = calibrated(f.components, rows, 0)[2]
    return Y.mean(axis=0), np.cov(Y.T, bias=True), rho


@pytest.mark.parametrize("n", [2, 20, 300])
def test_the_formula_with_a_prior(f: EmbedFilter, n: int) -> None:
    V = words()
    g = f.calibrate(X[:n], prior=V)
    m, C, _ = covariance_of(f, X[:n])
    mv, Cv, rho = covariance_of(f, V)
    t = np.trace(C)
    Cv = (1 - rho) * Cv / np.trace(Cv) * t + rho * t / K * np.eye(K)
    values, axes = np.linalg.eigh((n * C + 300 * Cv) / (n + 300))
    scales = (values + t / K) ** (-0.25)
    mean = (n * m + 10 * 0.5 * mv) / (n + 10)
    most = 2 * np.sqrt(t)  # of two rows: more of their mean would be left
    mean = m - (m - mean) * min(1, most / np.linalg.norm(m - mean))
    Y = (sample(40, seed=3) @ f.components.T.astype(np.float64) - mean) @ axes * scales
    np.testing.assert_allclose(
        g(sample(40, seed=3)), unit_rows(Y)[:, ::-1] * signs(g, Y), atol=2e-5
    )
    assert g.metadata["calibration_prior"] == "60 words of a test"
    assert g.metadata["calibration_rows"] == str(n)
    parts = f.statistics().add(V[:30]) + f.statistics().add(V[30:])
    again = f.calibrate(X[:n], prior=parts)
    assert again.metadata["calibration_prior"] == "60 rows"
    np.testing.assert_allclose(again(X), g(X), atol=1e-5)


def signs(g: EmbedFilter, Y: NDArray) -> NDArray:
    found = g(sample(40, seed=3))
    return np.sign(np.sum(found * Y[:, ::-1], axis=0))


def test_words_are_known_for_what_they_are(f: EmbedFilter) -> None:
    V = words()
    g = f.calibrate(V)
    m, C, rho = covariance_of(f, V)
    t = np.trace(C)
    values, axes = np.linalg.eigh((1 - rho) * C + rho * t / K * np.eye(K))
    Y = (sample(40, seed=3) @ f.components.T.astype(np.float64) - m / 2) @ axes
    Y *= (values + t / K) ** (-0.25)
    np.testing.assert_allclose(
        g(sample(40, seed=3)), unit_rows(Y)[:, ::-1] * signs(g, Y), atol=2e-5
    )
    assert g.metadata["calibration_sample"] == "60 words of a test"
    # What is made of them is a sample as any.
    plain = f.calibrate(np.asarray(V))
    assert "calibration_sample" not in plain.metadata
    for other in (V[:], V.copy(), np.concatenate([V[:20], V[20:]])):
        assert f.calibrate(other) == plain


def test_many_rows_outweigh_a_prior(f: EmbedFilter) -> None:
    many = sample(30_000)
    far = f.calibrate(many[:20], prior=words())
    near, alone = f.calibrate(many, prior=words()), f.calibrate(many[:20])

    def angle(a: EmbedFilter, b: EmbedFilter) -> float:
        left, right = (unit_rows(g.components[:4]) for g in (a, b))
        return float(np.linalg.svd(left @ right.T, compute_uv=False).min())

    exact = f.calibrate(many)
    assert angle(near, exact) > 0.99
    assert angle(far, f.calibrate(words())) > angle(alone, f.calibrate(words()))


def test_a_prior_that_is_none(f: EmbedFilter) -> None:
    for prior, expected in (
        (np.ones((1, D)), "prior: expected at least 2 rows, found 1"),
        (np.ones((5, D)), "prior: expected rows that differ once filtered, found 5 alike"),
        (np.ones((5, D + 1)), "prior: expected "),
        (np.full((5, D), np.nan), "prior: expected finite numbers"),
    ):
        with pytest.raises(ValueError, match=expected):
            f.calibrate(X, prior=prior)


def test_rows_that_are_scaled_otherwise(f: EmbedFilter) -> None:
    """Unit rows less the mean of long ones are that mean, all alike."""
    rows = X / np.linalg.norm(X, axis=1, keepdims=True)
    raw, unit = f.calibrate(X), f.calibrate(rows)
    assert float(raw.metadata["calibration_row_length"]) > 50
    assert unit.metadata["calibration_row_length"] == "1"
    for g, given in ((raw, rows), (unit, X), (raw, rows[0]), (unit, X.astype(np.float16))):
        with pytest.warns(UserWarning, match=r"^X: expected rows of a length of about .*, found"):
            g.transform(given)
    raw.transform(X), unit.transform(rows), unit.transform(np.zeros((3, D), np.float32))
    odd = X.copy()
    odd[0] = 0
    raw.transform(odd)  # one row tells nothing
    odd[:] = np.nan
    with pytest.raises(ValueError, match="found NaN"):
        raw.transform(odd)
    with pytest.raises(ValueError, match=r"^prior: expected rows of a length of about 1, as"):
        f.calibrate(rows, prior=words())
    parts = f.statistics().add(X[:7]) + f.statistics().add(X[7:])
    length = float(f.calibrate(parts).metadata["calibration_row_length"])
    assert length == pytest.approx(np.sqrt(np.mean(np.sum(np.square(X, dtype=float), 1))), rel=1e-5)


# ---- a real model -----------------------------------------------------------


@pytest.mark.parametrize("template", ["PromptEOL", "Echo"])
def test_more_paraphrases_are_found(smollm2: Path, demo_embeddings, template: str) -> None:
    """Fitted on texts that are not scored; these pairs had no part in choosing the settings."""
    pairs = demo_embeddings[template].reshape(2, 240, -1)
    late = EmbedFilter.from_checkpoint(smollm2, kind="late")
    edge = EmbedFilter.from_checkpoint(smollm2)

    def found(f: EmbedFilter, half: int) -> float:
        left, right = f(pairs[0, half::2]), f(pairs[1, half::2])
        return np.mean(np.argmax(left @ right.T, axis=1) == np.arange(120))

    gains = {}
    for k in (288, 72):
        gains[k] = np.mean([
            found(late.calibrate(pairs[:, 1 - half :: 2].reshape(240, -1), n_components=k), half)
            - found(edge.truncate(k), half)
            for half in (0, 1)
        ])  # fmt: skip
    assert gains[288] > 0.01
    assert gains[72] > 0.12


def test_what_few_rows_leave_open_is_determined(rng: np.random.Generator) -> None:
    """In the order of the filter: rounding in the rows does not turn the rest around."""
    W = head_with_spectrum(rng, 400, model_like_spectrum(64, 25))
    f = EmbedFilter.from_matrix(W, ratio=2)
    X = rng.standard_normal((12, 64))
    first = f.calibrate(X, whitening=0)
    other = f.calibrate(X * (1 + 1e-12 * rng.standard_normal(X.shape)), whitening=0)
    assert np.abs(first.components - other.components).max() < 1e-3
    # Beyond the rows' 11 directions come those nearest to the filter's own first ones.
    rest = first.components[11:] @ f.components.T
    position = np.square(rest) @ np.arange(32)
    assert (np.diff(position) > 0).all()
