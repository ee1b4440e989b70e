"""Each kernel on each instruction set, against float64 and bit for bit against the scalar one.

Sizes straddle the registers and the panels: 4, 8, 12, 24, 128, 256.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from kernel_inputs import BFLOAT16, FLOATS, WIDTHS, cast, on_scalar
from numpy.typing import NDArray

from embedfilter import _core
from embedfilter.arrays.embeddings import core_view


def gram(*blocks: NDArray, basis: NDArray | None = None, n_threads: int = 1) -> NDArray[np.float64]:
    """Return the upper triangle of the sum of W^T W, and check that no more is written."""
    d = blocks[0].shape[1]
    total = _core.Gram(d, basis)
    for block in blocks:
        total.add(core_view(block), n_threads)
    result = np.full((d, d), 77.0)
    total.finish(result, n_threads)
    assert (result[np.tril_indices(d, -1)] == 77).all()
    return np.triu(result)


def project(
    C: NDArray, X: NDArray, precision: str = "float32", normalize: bool = False,
    starts: NDArray | None = None, steps: NDArray | None = None, n_threads: int = 1,
    mean: NDArray | None = None,
) -> NDArray:  # fmt: skip
    width = -(-len(C) // 8) if precision == "ubinary" else len(C)
    stored = {"ubinary": "uint8", "bfloat16": "uint16"}.get(precision, precision)
    # Every element must be written: start from a value that no result has.
    out = np.full((len(X), width), 77, stored)
    _core.PackedFilter(np.ascontiguousarray(C, np.float32), mean).project(
        core_view(X), out, precision, normalize, starts, steps, n_threads
    )
    return out


# ---- gram -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("d", WIDTHS)
def test_gram_of_each_width(isa: str, rng: np.random.Generator, d: int, dtype: str) -> None:
    W = cast(rng.standard_normal((37, d)), dtype)
    wide = W.astype(np.float64)
    np.testing.assert_allclose(gram(W), np.triu(wide.T @ wide), rtol=0, atol=1e-13 * 37)


@pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33, 127, 128, 129, 255, 256, 257, 1000])
def test_gram_of_each_height(isa: str, rng: np.random.Generator, n: int) -> None:
    W = rng.standard_normal((n, 29))
    np.testing.assert_allclose(gram(W), np.triu(W.T @ W), rtol=0, atol=1e-13 * max(n, 1))


@pytest.fixture
def some_rows(isa: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Rows for several chunks; in float32 a chunk of 500 columns is 8192 rows."""
    n, d = (9000, 500) if isa != "scalar" else (9000, 60)
    return rng.standard_normal((n, d)).astype(np.float32)


def dominant(W: NDArray, p: int) -> NDArray[np.float32]:
    wide = W.astype(np.float64)
    return np.ascontiguousarray(np.linalg.eigh(wide.T @ wide)[1].T[::-1][:p], np.float32)


@pytest.mark.parametrize("p", [0, 3])
def test_gram_does_not_depend_on_blocks_or_threads(some_rows: NDArray, p: int) -> None:
    W = some_rows
    basis = dominant(W[:300], p) if p else None
    wide = W.astype(np.float64)
    expected = np.triu(wide.T @ wide)
    one = gram(W, basis=basis)
    tolerance = 1e-6 if p else 1e-13
    np.testing.assert_allclose(one, expected, rtol=0, atol=tolerance * expected.max())
    for n_threads in (2, 3, 8):
        assert np.array_equal(gram(W, basis=basis, n_threads=n_threads), one)
    cuts = np.array([1, 255, 257, 1000, 5001])
    assert np.array_equal(gram(*np.split(W, cuts), basis=basis), one)
    assert np.array_equal(gram(*np.split(W, 9), basis=basis, n_threads=2), one)


HALVES_AND_SINGLES = ("float16", "bfloat16", "float32")


@pytest.mark.parametrize(
    ("d", "dtype", "p"),
    [
        *((d, *one) for d in WIDTHS[1:] for one in zip(HALVES_AND_SINGLES, (1, 2, 8), strict=True)),
        *((d, dtype, p) for d in (9, 33, 129) for dtype in HALVES_AND_SINGLES for p in (1, 2, 8)),
    ],
)
def test_gram_in_float32(isa: str, rng: np.random.Generator, d: int, dtype: str, p: int) -> None:
    p = min(p, d)
    W = cast(rng.standard_normal((300, d)) + 3, dtype)
    wide = W.astype(np.float64)
    basis = dominant(wide, p)
    expected = np.triu(wide.T @ wide)
    result = gram(W, basis=basis)
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6 * expected.max())
    assert np.array_equal(result, on_scalar(gram, W, basis=basis))


def test_gram_peels_with_any_basis(isa: str, rng: np.random.Generator) -> None:
    """The identity behind the peeling needs neither exact nor orthonormal directions."""
    W = rng.standard_normal((700, 50)).astype(np.float32)
    basis = rng.standard_normal((4, 50)).astype(np.float32) / 7
    wide = W.astype(np.float64)
    expected = np.triu(wide.T @ wide)
    np.testing.assert_allclose(gram(W, basis=basis), expected, rtol=0, atol=3e-6 * expected.max())


def test_peeling_makes_float32_sums_as_good_as_the_bulk_needs(
    isa: str, rng: np.random.Generator
) -> None:
    """One direction is 1000 times the others: without it, errors are those of the others."""
    d = 60
    direction = np.linalg.qr(rng.standard_normal((d, 1)))[0].T
    W = rng.standard_normal((2000, d)) + 1000 * rng.standard_normal((2000, 1)) * direction
    W = W.astype(np.float32)
    wide = W.astype(np.float64)
    exact = wide.T @ wide
    outside = np.eye(d) - direction.T @ direction
    result = gram(W, basis=direction.astype(np.float32))
    result = result + np.triu(result, 1).T
    error = outside @ (result - exact) @ outside
    # Relative to the bulk (2000), not to the largest (2e9).
    assert np.abs(error).max() < 2000 * 1e-4
    assert np.abs(result - exact).max() < 2e9 * 1e-6


def test_gram_may_go_on_after_its_end(isa: str, rng: np.random.Generator) -> None:
    A, B = rng.standard_normal((50, 20)), rng.standard_normal((60, 20))
    total = _core.Gram(20)
    result = np.zeros((20, 20))
    total.finish(result, 1)
    assert (result == 0).all()
    total.add(A, 1)
    total.finish(result, 1)
    np.testing.assert_allclose(result, np.triu(A.T @ A), atol=1e-12)
    total.add(B, 1)
    total.finish(result, 1)
    np.testing.assert_allclose(result, np.triu(A.T @ A + B.T @ B), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "too large"),
        ((-1,), ValueError, "too large"),
        ((32767,), ValueError, "too large"),
        ((4, np.ones((9, 4), np.float32)), ValueError, "too large"),
        ((4, np.ones((1, 5), np.float32)), ValueError, "basis: expected 4 columns, found 5"),
        ((4, np.ones((1, 4))), ValueError, "basis: expected a C-contiguous"),
    ],
)
def test_gram_refuses(arguments: tuple, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        _core.Gram(*arguments)


def test_gram_of_numbers_too_large_for_float32_sums(isa: str) -> None:
    W = np.full((3, 30), 3e38, np.float32)
    with pytest.raises(OverflowError):
        gram(W, basis=np.full((1, 30), 30**-0.5, np.float32))


@pytest.mark.parametrize("view", ["reversed", "every other", "columns", "offset by one element"])
def test_gram_of_views(isa: str, rng: np.random.Generator, view: str) -> None:
    base = rng.standard_normal((60, 41)).astype(np.float32)
    W = {
        "reversed": base[::-1],
        "every other": base[::2],
        "columns": base[:, 3:20],
        "offset by one element": base.reshape(-1)[1:2401].reshape(60, 40),
    }[view]
    wide = W.astype(np.float64)
    np.testing.assert_allclose(gram(W), np.triu(wide.T @ wide), rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("column", [0, 8, 12, 24, 28])
@pytest.mark.parametrize("p", [0, 1])
def test_gram_names_the_rows_that_are_not_finite(isa: str, dtype: str, column: int, p: int) -> None:
    basis = np.eye(1, 29, dtype=np.float32) if p else None  # zero at most columns
    for bad in (np.nan, np.inf, -np.inf):
        W = cast(np.ones((70, 29)), dtype)
        W[[33, 50], column] = bad
        with pytest.raises(ValueError, match="NaN or infinity") as raised:
            gram(W, basis=basis)
        assert raised.value.args[1:] == (33, 2), bad


# ---- project ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("d", WIDTHS)
def test_project_of_each_depth(isa: str, rng: np.random.Generator, d: int, dtype: str) -> None:
    C = rng.standard_normal((5, d)).astype(np.float32)
    X = cast(rng.standard_normal((6, d)), dtype)
    expected = X.astype(np.float32).astype(np.float64) @ C.T.astype(np.float64)
    result = project(C, X)
    # The textbook bound of a float32 sum of d products, each rounding half an ulp at most.
    bound = (d + 1) * 2.0**-24 * (np.abs(X.astype(np.float64)) @ np.abs(C.T.astype(np.float64)))
    assert (np.abs(result - expected) <= bound).all()
    assert np.array_equal(result, on_scalar(project, C, X))


@pytest.mark.parametrize("k", WIDTHS)
def test_project_of_each_width(isa: str, rng: np.random.Generator, k: int) -> None:
    C = rng.standard_normal((k, 19)).astype(np.float32)
    for n in (0, 1, 2, 3, 4, 5, 7, 8, 9):
        X = rng.standard_normal((n, 19)).astype(np.float32)
        expected = X.astype(np.float64) @ C.T.astype(np.float64)
        result = project(C, X)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5, err_msg=f"{n} rows")
        assert np.array_equal(result, on_scalar(project, C, X)), n


@pytest.mark.parametrize("n", [1, 3, 4, 5, 63, 64, 65, 129, 517])
def test_a_row_does_not_depend_on_batch_or_threads(
    isa: str, rng: np.random.Generator, n: int
) -> None:
    C = rng.standard_normal((130, 300)).astype(np.float32)
    X = rng.standard_normal((517, 300)).astype(np.float32)
    everything = project(C, X, normalize=True)
    assert np.array_equal(project(C, X[:n], normalize=True), everything[:n])
    assert np.array_equal(project(C, X[-n:], normalize=True), everything[-n:])
    for n_threads in (2, 3, 8):
        threaded = project(C, X[:n], normalize=True, n_threads=n_threads)
        assert np.array_equal(threaded, everything[:n])


@pytest.mark.parametrize("k", WIDTHS)
def test_normalised_rows(isa: str, rng: np.random.Generator, k: int) -> None:
    C = rng.standard_normal((k, 30)).astype(np.float32)
    X = rng.standard_normal((9, 30)).astype(np.float32)
    X[4] = 0
    wide = X.astype(np.float64) @ C.T.astype(np.float64)
    result = project(C, X, normalize=True)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    np.testing.assert_allclose(result, wide / np.where(norms == 0, 1, norms), rtol=0, atol=2e-6)
    assert (result[4] == 0).all()
    assert np.array_equal(result, on_scalar(project, C, X, normalize=True))


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1e18, 1e30, 1e37])
def test_normalising_rows_of_extreme_length(
    isa: str, rng: np.random.Generator, scale: float
) -> None:
    C = np.linalg.qr(rng.standard_normal((40, 40)))[0][:20].astype(np.float32)
    X = (rng.standard_normal((3, 40)) * scale).astype(np.float32)
    wide = X.astype(np.float64) @ C.T.astype(np.float64)
    expected = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    tolerance = 2e-6 if scale > 1e-37 else 1e-5  # products that are subnormal lose digits
    np.testing.assert_allclose(project(C, X, normalize=True), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("k", WIDTHS)
def test_mean(isa: str, rng: np.random.Generator, k: int, dtype: str) -> None:
    """Of a single row, of few rows and of many, each of which is computed in its own way."""
    for d, sizes in ((19, (1, 2, 5, 24, 25, 130)), (300, (1, 3, 25))):  # one run of inputs, and two
        C = rng.standard_normal((k, d)).astype(np.float32)
        mean = rng.standard_normal(d).astype(np.float32)
        for n in sizes:
            check_mean(C, cast(rng.standard_normal((n, d)) + mean, dtype), mean)


def check_mean(C: NDArray, X: NDArray, mean: NDArray) -> None:
    result = project(C, X, mean=mean)
    # Taken off in the rows' own precision, float32 or float64: to the bit.
    wide = X if X.dtype == np.float64 else X.astype(np.float32)
    assert np.array_equal(result, project(C, (wide - mean).astype(np.float32)))
    assert np.array_equal(result, on_scalar(project, C, X, mean=mean))
    for n_threads in (2, 3):
        assert np.array_equal(project(C, X, mean=mean, n_threads=n_threads), result)
    assert np.array_equal(project(C, X[-1:], mean=mean), result[-1:])


FAR = 3e4  # times its deviation is the mean of each dimension


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8", "ubinary"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("normalize", [False, True])
def test_a_far_mean_costs_no_digits(
    isa: str, rng: np.random.Generator, dtype: str, precision: str, normalize: bool
) -> None:
    """Relative to what is left; a bias added to the product would be off by 1e-2."""
    d, k = 300, 50
    C = np.linalg.qr(rng.standard_normal((d, d)))[0][:k].astype(np.float32)
    mean = (FAR * rng.choice([-1, 1], d)).astype(np.float32)
    deviation = 1e3 if dtype in ("float16", "bfloat16") else 1  # float16 ends at 65504, in steps
    mean = mean / np.float32(3) if dtype == "float16" else mean
    X = cast(mean + deviation * rng.standard_normal((130, d)), dtype)
    exact = (X.astype(np.float64) - mean) @ C.T.astype(np.float64)
    if normalize:
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    scale = np.sqrt(np.mean(np.square(exact)))
    if precision == "int8":
        starts = np.full(k, -4 * scale, np.float32)
        steps = np.full(k, 8 * scale / 255, np.float32)
        found = project(C, X, precision, normalize, starts, steps, mean=mean)
        levels = np.clip(np.trunc((exact - starts) / steps - 128), -128, 127)
        assert np.abs(found - levels).max() <= 1
        assert np.mean(found != levels) < 1e-3  # a rounding over the edge of a level
        return
    found = project(C, X, precision, normalize, mean=mean)
    if precision == "ubinary":
        bits = np.unpackbits(found, axis=1)[:, :k]
        assert np.array_equal(
            bits[np.abs(exact) > 1e-5 * scale], exact[np.abs(exact) > 1e-5 * scale] > 0
        )
        return
    if precision == "bfloat16":
        found = found.view(ml_dtypes.bfloat16)
    rounding = {"float32": 0, "float16": 2**-11, "bfloat16": 2**-8}[precision]
    error = np.abs(found.astype(np.float64) - exact)
    assert (
        error <= 1e-5 * scale + rounding * np.abs(exact) + (6e-8 if precision == "float16" else 0)
    ).all()


# ---- what is made under one set and used under another -----------------------


def test_each_object_keeps_the_set_that_it_was_made_with(
    isa: str, rng: np.random.Generator
) -> None:
    """Its panels are laid out for that set's tiles."""
    C = rng.standard_normal((70, 90)).astype(np.float32)
    X = rng.standard_normal((50, 90)).astype(np.float32)
    packed, lens, total = _core.PackedFilter(C), _core.Lens(X, 5), _core.Gram(90, C[:2].copy())
    lens.add(C[:30], 1)
    total.add(X[:30], 1)

    def use() -> tuple[NDArray, ...]:
        out, sums = np.empty((50, 70), np.float32), np.zeros((90, 90))
        ids, logits = np.empty((50, 5), np.int64), np.empty((50, 5), np.float32)
        packed.project(X, out, "float32", True, None, None, 1)
        lens.add(C[30:], 1)
        lens.finish(ids, logits)
        total.add(X[30:], 1)
        total.finish(sums, 1)
        return out, ids, logits, sums

    out, ids, logits, sums = on_scalar(use)
    assert np.array_equal(out, project(C, X, normalize=True))
    exact = X.astype(np.float64) @ C.T.astype(np.float64)
    assert np.array_equal(ids, np.argsort(-exact, axis=1)[:, :5])
    np.testing.assert_allclose(logits, -np.sort(-exact, axis=1)[:, :5], rtol=0, atol=1e-4)
    assert np.array_equal(sums, gram(X, basis=C[:2].copy()))


# ---- conversions: the identity as filter shows each element as it went in or out --


def all_halves(dtype: np.dtype) -> NDArray:
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bits.view(dtype)
    with np.errstate(invalid="ignore"):  # signalling NaN among them
        values = values[np.isfinite(values)]
    return values[: len(values) // 64 * 64].reshape(-1, 64)


@pytest.mark.parametrize("dtype", [np.dtype("float16"), BFLOAT16], ids=str)
def test_every_half_widens_exactly(isa: str, dtype: np.dtype) -> None:
    X = all_halves(dtype)
    if dtype == BFLOAT16:
        X = X[(np.abs(X.astype(np.float64)) < 1e38).all(axis=1)]
    result = project(np.eye(64, dtype=np.float32), X)
    # The sign of zero is lost in the sum, as it is in any matrix product.
    assert np.array_equal(result, X.astype(np.float32))


def awkward_floats(rng: np.random.Generator, largest: float, dtype: np.dtype) -> NDArray:
    """Values that a half holds, and those halfway between neighbours, and one ulp beside."""
    halves = all_halves(dtype).astype(np.float32)
    halves = halves[np.abs(halves) < largest]
    middles = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    middles = middles[np.abs(middles) < largest]
    random = (rng.standard_normal(6400) * np.exp(rng.uniform(-20, 10, 6400))).astype(np.float32)
    values = np.concatenate([halves, middles, np.nextafter(middles, np.float32(np.inf)),
                             np.nextafter(middles, np.float32(-np.inf)), random])  # fmt: skip
    values = values[np.abs(values) < largest]
    return values[: len(values) // 64 * 64].reshape(-1, 64)


@pytest.mark.parametrize(
    ("precision", "dtype", "largest"),
    [("float16", np.dtype("float16"), 65519.0), ("bfloat16", BFLOAT16, 3.3e38)],
)
def test_narrowing_rounds_to_nearest_even(
    isa: str, rng: np.random.Generator, precision: str, dtype: np.dtype, largest: float
) -> None:
    X = awkward_floats(rng, largest, dtype)
    result = project(np.eye(64, dtype=np.float32), X, precision).view(dtype)
    assert np.array_equal(result, X.astype(dtype))


def test_float64_rounds_to_nearest_even(isa: str, rng: np.random.Generator) -> None:
    X = rng.standard_normal((200, 37)) * np.exp(rng.uniform(-80, 80, (200, 37)))
    X[0, :4] = [1 + 2**-24, 1 + 3 * 2**-24, 1 + 2**-24 + 2**-50, -1 - 2**-24]
    result = project(np.eye(37, dtype=np.float32), X)
    assert np.array_equal(result, X.astype(np.float32))


# ---- quantised output -------------------------------------------------------


@pytest.mark.parametrize("k", WIDTHS)
@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_integer_levels(isa: str, rng: np.random.Generator, k: int, precision: str) -> None:
    X = rng.standard_normal((50, k)).astype(np.float32) * 2
    X[:, 0] *= 1e6  # far outside its range: saturated, not wrapped
    starts = rng.uniform(-2.5, -1.5, k).astype(np.float32)
    steps = (rng.uniform(3, 5, k) / 255).astype(np.float32)
    result = project(np.eye(k, dtype=np.float32), X, precision, starts=starts, steps=steps)
    levels = (X - starts) / steps
    if precision == "int8":
        expected = np.clip(np.trunc(levels - np.float32(128)), -128, 127)
    else:
        expected = np.clip(np.trunc(levels), 0, 255)
    assert np.array_equal(result, expected.astype(precision))


@pytest.mark.parametrize("k", WIDTHS)
def test_sign_bits(isa: str, rng: np.random.Generator, k: int) -> None:
    X = rng.standard_normal((21, k)).astype(np.float32)
    X[rng.random(X.shape) < 0.2] = 0
    result = project(np.eye(k, dtype=np.float32), X, "ubinary")
    assert np.array_equal(result, np.packbits(X > 0, axis=1))


# ---- rows that cannot be projected ------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "ubinary"])
@pytest.mark.parametrize("column", [0, 7, 8, 12])
def test_project_names_the_first_row_that_is_not_finite(
    isa: str, rng: np.random.Generator, dtype: str, precision: str, column: int
) -> None:
    C = rng.standard_normal((9, 13)).astype(np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        X = cast(rng.standard_normal((100, 13)), dtype)
        X[[70, 81], column] = bad
        with pytest.raises(ValueError, match="NaN or infinity") as raised:
            project(C, X, precision, n_threads=2)
        assert raised.value.args[1] == 70, bad


@pytest.mark.parametrize(
    ("value", "precision", "dtype"),
    [
        (65520.0, "float16", "float32"),
        (-1e9, "float16", "float32"),
        (3.4e38, "bfloat16", "float32"),
        (1e39, "float32", "float64"),
    ],
)
def test_what_does_not_fit_is_an_overflow(
    isa: str, value: float, precision: str, dtype: str
) -> None:
    X = np.ones((5, 30), dtype)
    X[3, 20] = value
    with pytest.raises(OverflowError) as raised:
        project(np.eye(30, dtype=np.float32), X, precision)
    assert raised.value.args[1] == 3


def test_the_largest_half_fits(isa: str) -> None:
    X = np.full((1, 8), 65519.9, np.float32)
    result = project(np.eye(8, dtype=np.float32), X, "float16")
    assert (result == np.float16(65504)).all()
