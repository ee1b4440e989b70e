"""The lens of the C core on each instruction set, against float64 and bit for bit the scalar one.

Up to FEW vectors go one way, more another, in panels of 16; either must give the same.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_inputs import FLOATS, WIDTHS, cast, on_scalar
from numpy.typing import NDArray
from oracle import largest_logits

from embedfilter import _core
from embedfilter.arrays.embeddings import core_view

FEW = 4


def find(
    X: NDArray, W: NDArray, k: int, n_threads: int = 1, cuts: tuple[int, ...] = ()
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    lens = _core.Lens(core_view(X), k)
    for block in np.split(W, cuts):
        lens.add(core_view(block), n_threads)
    ids, logits = np.full((len(X), k), -7, np.int64), np.full((len(X), k), np.nan, np.float32)
    lens.finish(ids, logits)
    return ids, logits


def same(a: tuple[NDArray, NDArray], b: tuple[NDArray, NDArray]) -> bool:
    return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


def one_by_one(X: NDArray, W: NDArray, k: int) -> tuple[NDArray, NDArray]:
    rows = [find(X[i : i + 1], W, k) for i in range(len(X))]
    return np.vstack([ids for ids, _ in rows]), np.vstack([logits for _, logits in rows])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("d", WIDTHS)
def test_each_depth(isa: str, rng: np.random.Generator, d: int, dtype: str) -> None:
    for n in (FEW, 19):
        W, X = cast(rng.standard_normal((150, d)), dtype), cast(rng.standard_normal((n, d)), dtype)
        wide, vectors = W.astype(np.float32), X.astype(np.float32)
        exact, largest = largest_logits(wide, vectors, 7)
        ids, logits = find(X, W, 7)
        bound = (d + 1) * 2.0**-24 * np.abs(vectors).astype(np.float64) @ np.abs(wide.T)
        assert (np.abs(logits - largest) <= bound.max(axis=1, keepdims=True)).all()
        assert (ids == exact).mean() > 0.99  # but for logits that rounding makes equal
        assert same((ids, logits), on_scalar(find, X, W, 7))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 15, 16, 17, 31, 32, 33, 40])
def test_a_vector_does_not_depend_on_its_batch(isa: str, rng: np.random.Generator, n: int) -> None:
    W = rng.standard_normal((700, 50)).astype(np.float32)
    X = rng.standard_normal((n, 50)).astype(np.float32)
    assert same(find(X, W, 10), one_by_one(X, W, 10))


@pytest.mark.parametrize("n", [1, 20])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_blocks_and_threads_do_not_show(isa: str, rng: np.random.Generator, n: int, k: int) -> None:
    W = rng.standard_normal((3000, 24)).astype(np.float32)
    X = rng.standard_normal((n, 24)).astype(np.float32)
    expected = find(X, W, k)
    for n_threads in (2, 3, 8):
        assert same(find(X, W, k, n_threads), expected)
    assert same(find(X, W, k, cuts=(1, 5, 127, 128, 129, 1000)), expected)
    assert same(find(X, W, k, 2, cuts=(0, 257, 257, 2999)), expected)


@pytest.mark.parametrize("n", [2, 18])
@pytest.mark.parametrize("k", [1, 2, 9, 99, 200])
def test_equal_logits_are_in_order_of_their_ids(
    isa: str, rng: np.random.Generator, n: int, k: int
) -> None:
    """Small integers: every product is exact, and most logits occur many times."""
    W = rng.integers(-2, 3, (200, 6)).astype(np.float32)
    X = rng.integers(-2, 3, (n, 6)).astype(np.float32)
    X[1] = 0  # all logits equal
    ids, logits = find(X, W, k, n_threads=3)
    expected, largest = largest_logits(W, X, k)
    assert np.array_equal(ids, expected)
    assert np.array_equal(logits, largest)


@pytest.mark.parametrize("n", [1, 30])
def test_all_tokens(isa: str, rng: np.random.Generator, n: int) -> None:
    W = rng.standard_normal((500, 16)).astype(np.float32)
    X = rng.standard_normal((n, 16)).astype(np.float32)
    ids, logits = find(X, W, 500, n_threads=2)
    assert (np.sort(ids, axis=1) == np.arange(500)).all()
    assert (np.diff(logits, axis=1) <= 0).all()


def test_logits_that_nearly_tie_are_not_lost(isa: str, rng: np.random.Generator) -> None:
    """Rows that differ by a millionth of their length, a thousandth of what rounding hides."""
    W = (rng.standard_normal(64) + 1e-6 * rng.standard_normal((2000, 64))).astype(np.float32)
    X = (rng.standard_normal((24, 64)) + 3).astype(np.float32)
    assert same(find(X, W, 10, 2), one_by_one(X, W, 10))


def test_one_dominant_direction(isa: str, rng: np.random.Generator) -> None:
    """As in a language model: a part that all tokens share, and vectors with huge elements."""
    W = (rng.standard_normal((3000, 128)) + 25 * rng.standard_normal(128)).astype(np.float32)
    X = rng.standard_normal((20, 128)).astype(np.float32)
    X[:, 5] = 3000
    assert same(find(X, W, 10, 2), one_by_one(X, W, 10))


SCALES = [0.0, 1e-44, 1e-38, 1e-30, 1e-16, 1e-3, 1.0, 1e3, 1e14, 1e16]


@pytest.mark.parametrize("row", SCALES)
def test_lengths_that_are_not_scaled(isa: str, rng: np.random.Generator, row: float) -> None:
    W = rng.standard_normal((400, 20)).astype(np.float32)
    W[::3] *= np.float32(row)
    for vector in SCALES:
        X = rng.standard_normal((20, 20)).astype(np.float32)
        X[::2] *= np.float32(vector)
        result = find(X, W, 12)
        assert same(result, one_by_one(X, W, 12)), vector
        assert same(result, on_scalar(find, X, W, 12)), vector


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_many_vectors_are_as_one(data: st.DataObject) -> None:
    """Whatever the sizes, the values and the lengths of rows and vectors."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    V, d = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 70))
    n, k = data.draw(st.integers(FEW + 1, 40)), data.draw(st.integers(1, V))
    spread = data.draw(st.sampled_from([0.0, 0.1, 3.0, 12.0]))
    shift = data.draw(st.sampled_from([0.0, 1.0, 30.0]))
    W = (rng.standard_normal((V, d)) + shift) * np.exp(spread * rng.standard_normal((V, 1)))
    X = (rng.standard_normal((n, d)) + shift) * np.exp(spread * rng.standard_normal((n, 1)))
    W, X = W.astype(np.float32), X.astype(np.float32)
    try:
        expected = one_by_one(X, W, k)
    except OverflowError:
        with pytest.raises(OverflowError):
            find(X, W, k)
        return
    assert same(find(X, W, k, n_threads=2), expected)


@pytest.mark.parametrize("view", ["reversed", "every other", "columns"])
def test_views(isa: str, rng: np.random.Generator, view: str) -> None:
    base = rng.standard_normal((400, 41)).astype(np.float32)
    W = {"reversed": base[::-1], "every other": base[::2], "columns": base[:, 3:20]}[view]
    X = rng.standard_normal((20, 41)).astype(np.float32)[::-1, : W.shape[1]]
    assert same(find(X, W, 5), find(X.copy(), W.copy(), 5))


# ---- what cannot be done ----------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1, 20])
@pytest.mark.parametrize("column", [0, 7, 32, 36])
def test_rows_that_are_not_finite(isa: str, dtype: str, n: int, column: int) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        W, X = cast(np.ones((300, 37)), dtype), np.zeros((n, 37), np.float32)
        W[[170, 290], column] = bad
        with pytest.raises(ValueError, match="NaN or infinity") as raised:
            find(X, W, 3, n_threads=2)
        assert raised.value.args[1] == 170, bad


@pytest.mark.parametrize("n", [1, 20])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite(isa: str, n: int, bad: float) -> None:
    X = np.ones((n, 5), np.float32)
    X[n // 2, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinity") as raised:
        _core.Lens(X, 1)
    assert raised.value.args[1] == n // 2


@pytest.mark.parametrize("n", [1, 20])
@pytest.mark.parametrize("sign", [1, -1])
def test_logits_that_float32_does_not_hold(isa: str, n: int, sign: int) -> None:
    W, X = np.ones((300, 3), np.float32), np.ones((n, 3), np.float32)
    W[200] = sign * 3e38
    with pytest.raises(OverflowError) as raised:
        find(X, W, 2)
    assert raised.value.args[1] == 200
    with pytest.raises(OverflowError):
        _core.Lens(np.full((n, 3), 1e39), 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: _core.Lens(np.ones((0, 3)), 1), ValueError, "n, d, k >= 1"),
        (lambda: _core.Lens(np.ones((3, 0)), 1), ValueError, "n, d, k >= 1"),
        (lambda: _core.Lens(np.ones((3, 3)), 0), ValueError, "n, d, k >= 1"),
        (lambda: _core.Lens(np.ones((3, 3)), -1), ValueError, "n, d, k >= 1"),
        (lambda: _core.Lens(np.ones((3, 3)), 2**32), ValueError, "too large"),
        (lambda: _core.Lens(np.ones((3, 3)), 2**60), ValueError, "too large"),
        (lambda: _core.Lens(np.ones(3), 1), TypeError, "2-D array"),
        (lambda: find(np.ones((2, 3)), np.ones((9, 4)), 1), ValueError, "expected 3 columns"),
        (lambda: find(np.ones((2, 3)), np.ones((9, 3)), 10), ValueError, "at least 10 rows"),
    ],
)
def test_refuses(call, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_lens_has_an_end() -> None:
    lens = _core.Lens(np.ones((1, 2), np.float32), 1)
    lens.add(np.ones((3, 2)), 1)
    ids, logits = np.empty((1, 1), np.int64), np.empty((1, 1), np.float32)
    with pytest.raises(ValueError, match="ids, logits"):
        lens.finish(ids, np.empty((1, 2), np.float32))
    lens.finish(ids, logits)
    with pytest.raises(ValueError, match="finished"):
        lens.add(np.ones((3, 2)), 1)
    failed = _core.Lens(np.ones((1, 2), np.float32), 1)
    with pytest.raises(ValueError, match="NaN"):
        failed.add(np.full((3, 2), np.nan), 1)
    with pytest.raises(ValueError, match="error"):
        failed.finish(ids, logits)
