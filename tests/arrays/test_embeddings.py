"""Bad arguments and files: one clear error each that names what was expected and found."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracle import head_with_spectrum, model_like_spectrum

import embedfilter
from embedfilter import CheckpointError, EmbedFilter, EmbedFilterError, FilterFileError

D, K = 48, 24


@pytest.fixture(scope="module")
def W() -> NDArray:
    return head_with_spectrum(np.random.default_rng(1), 200, model_like_spectrum(D, 25))


@pytest.fixture(scope="module")
def f(W: NDArray) -> EmbedFilter:
    return EmbedFilter.from_matrix(W)


# ---- fitting ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ratio": 0}, ValueError, "ratio: expected from 1 to the hidden size 48, found 0"),
        ({"ratio": -2}, ValueError, "ratio: expected from 1 to the hidden size 48, found -2"),
        ({"ratio": 0.5}, ValueError, "ratio: expected from 1 to the hidden size 48, found 0.5"),
        ({"ratio": 49}, ValueError, "ratio: expected from 1 to the hidden size 48, found 49"),
        ({"ratio": float("nan")}, ValueError, "ratio: .*found nan"),
        ({"ratio": float("inf")}, ValueError, "ratio: .*found inf"),
        (
            {"ratio": 10**400},
            ValueError,
            "ratio: expected from 1 to the hidden size 48, found 1000",
        ),
        ({"ratio": True}, TypeError, "ratio: expected a number, found True"),
        ({"ratio": "2"}, TypeError, "ratio: expected a number, found '2'"),
        (
            {"ratio": 2, "n_components": 3},
            ValueError,
            "ratio, n_components: expected one of the two, found ratio=2",
        ),
        ({"n_components": 0}, ValueError, "n_components: expected from 1 to 48, found 0"),
        ({"n_components": -1}, ValueError, "n_components: expected from 1 to 48, found -1"),
        ({"n_components": 49}, ValueError, "n_components: expected from 1 to 48, found 49"),
        ({"n_components": 2.5}, TypeError, "n_components: expected an integer, found 2.5"),
        ({"n_components": True}, TypeError, "n_components: expected an integer, found True"),
        ({"n_components": float("nan")}, TypeError, "n_components: expected an integer, found nan"),
        ({"kind": "middle"}, ValueError, "kind: expected one of edge, .*found 'middle'"),
        ({"kind": "identity", "ratio": 2}, ValueError, "kind: 'identity' keeps all 48 components"),
        ({"n_threads": 0}, ValueError, "n_threads: expected at least 1, found 0"),
        ({"n_threads": 1.0}, TypeError, "n_threads: expected an int or None, found 1.0"),
    ],
)
def test_options(W: NDArray, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        EmbedFilter.from_matrix(W, **options)


def test_options_are_not_blamed_on_the_checkpoint(smollm2: Path) -> None:
    with pytest.raises(ValueError, match="^n_threads: expected at least 1, found 0"):
        EmbedFilter.from_checkpoint(smollm2, n_threads=0)
    with pytest.raises(ValueError, match="^source: expected finite numbers"):
        EmbedFilter.from_checkpoint(np.full((20, 6), np.nan))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(0, 0), (199, 47), (100, 13)])
def test_weights_that_are_not_finite(W: NDArray, bad: float, where: tuple[int, int]) -> None:
    W = W.copy()
    W[where] = bad
    message = rf"W: expected finite numbers, found NaN or infinity in row {where[0]} \(1 such"
    with pytest.raises(ValueError, match=message):
        EmbedFilter.from_matrix(W)


@pytest.mark.parametrize(
    ("W", "error", "message"),
    [
        (np.zeros((20, 6)), ValueError, "W: .*found only zeros"),
        (np.ones((20, 6), int), TypeError, "W: .*found dtype int64"),
        (np.ones((20, 6), bool), TypeError, "W: .*found dtype bool"),
        (np.ones((20, 6), complex), TypeError, "W: .*found dtype complex128"),
        (np.full((20, 6), None), TypeError, "W: .*found dtype object"),
        (np.full((20, 6), "a"), TypeError, "W: .*found dtype <U1"),
        (np.ma.masked_array(np.ones((20, 6))), TypeError, "W: .*mask"),
        ([[1.0, 2.0], [3.0]], ValueError, "W: expected rows of equal length"),
        (np.ones(6), ValueError, r"W: .*found shape \(6,\)"),
        (np.ones((2, 3, 4)), ValueError, r"W: .*found shape \(2, 3, 4\)"),
        (np.ones((0, 6)), ValueError, r"W: .*found shape \(0, 6\)"),
        (np.full((20, 6), 1e200), ValueError, "W: .*squares.*float64's range, found .*inf"),
        (np.full((20, 6), 1e150), ValueError, "W: .*squares.*float64's range, found .*e.301"),
        (np.full((20, 6), 1e-160), ValueError, "W: .*squares.*float64's range, found .*e-31"),
        (np.broadcast_to(np.float32(1), (2, 32767)), ValueError, "W: .*at most 32766, found 32767"),
        (torch.ones(20, 6, dtype=torch.int8), TypeError, "W: .*int8"),
        (torch.empty(20, 6, device="meta"), TypeError, "W: .*meta"),
        (torch.nn.Linear(3, 3), TypeError, "W: .*found a model .Linear.; pass it to from_ch"),
    ],
)
def test_weights_of_the_wrong_kind(W: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        EmbedFilter.from_matrix(W)


def test_rank_too_low_for_what_is_kept(rng: np.random.Generator) -> None:
    W = rng.standard_normal((10, D))  # rank 10 of 48: the middle is arbitrary
    with pytest.raises(ValueError, match="W: expected a matrix of rank over 36.*found rank 10"):
        EmbedFilter.from_matrix(W)
    # Where the cut lies among directions that W determines, there is nothing to refuse.
    assert EmbedFilter.from_matrix(W, n_components=5, kind="tail").n_components == 5


def test_equal_singular_values_at_the_cut_warn() -> None:
    with pytest.warns(UserWarning, match="singular values 23 and 24 of 48 are too near each other"):
        EmbedFilter.from_matrix(np.eye(D), kind="tail")


# ---- applying ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.ones((3, 47)), ValueError, r"X: expected \(n, 48\), found shape \(3, 47\)"),
        (np.ones(47), ValueError, r"X: expected \(n, 48\), found shape \(47,\)"),
        (np.float64(1), ValueError, r"X: .*found shape \(\)"),
        (np.ones((1, 3, 47)), ValueError, r"X: .*found shape \(1, 3, 47\)"),
        (np.ones((3, 48), np.int8), TypeError, "X: .*found int8: quantised embeddings"),
        (np.ones((3, 48), np.uint8), TypeError, "X: .*found uint8: quantised embeddings"),
        (np.ones((3, 48), bool), TypeError, "X: .*found bool"),
        (np.ones((3, 48), complex), TypeError, "X: .*found complex128"),
        (np.full((3, 48), None), TypeError, "X: .*found None in row 0"),
        (["a text"], ValueError, "X: .*found 'a text' in row 0"),
        ([[1.0, 2.0], [3.0]], ValueError, "X: expected rows of equal length"),
        (None, TypeError, "X: .*found None"),
        (np.ma.masked_greater(np.ones((3, 48)), 0), TypeError, "X: .*masked array"),
        (torch.ones(3, 48, device="meta"), TypeError, "X: .*meta tensor"),
        (torch.ones(3, 48).to_sparse(), TypeError, "X: .*sparse"),
        (torch.nn.Linear(3, 3), TypeError, "X: expected a tensor, found Linear"),
    ],
)
def test_embeddings(f: EmbedFilter, X: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        f.transform(X)


def test_the_message_names_the_model(smollm2: Path) -> None:
    f = EmbedFilter.from_checkpoint(smollm2)
    with pytest.raises(
        ValueError, match=r"expected \(n, 576\), the hidden size of .*\.gguf, found"
    ):
        f.transform(np.ones((3, 384)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_embeddings_that_are_not_finite(f: EmbedFilter, bad: float, dtype: str) -> None:
    X = np.ones((20, D), dtype)
    X[[3, 5, 6, 8, 9, 11], [0, 47, 1, 2, 3, 4]] = bad
    message = (
        "X: expected finite numbers, found NaN or infinity in 6 of 20 rows: 3, 5, 6, 8, 9, ..."
    )
    with pytest.raises(ValueError, match=message):
        f.transform(X)
    with pytest.raises(ValueError, match="Y: expected finite numbers"):
        f.inverse_transform(X[:, :K])


def test_values_too_large(f: EmbedFilter) -> None:
    X = np.ones((5, D))
    X[4, 3] = 1e300
    with pytest.raises(ValueError, match="X: .*fits float32, found larger ones in row 4"):
        f.transform(X)
    with pytest.raises(ValueError, match="X: .*fits float16, found larger ones in row 0"):
        f.transform(np.full((5, D), 1e6), precision="float16", normalize=False)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.empty((3, 23), np.float32), ValueError, r"out: expected shape \(3, 24\).*\(3, 23\)"),
        (np.empty((4, 24), np.float32), ValueError, r"out: expected shape \(3, 24\).*\(4, 24\)"),
        (np.empty((3, 24)), ValueError, "out: .*float32, found .*float64"),
        (np.empty((24, 3), np.float32).T, ValueError, "out: expected a C-contiguous"),
        (np.empty((3, 48), np.float32)[:, ::2], ValueError, "out: expected a C-contiguous"),
        (np.frombuffer(bytes(288), np.float32).reshape(3, 24), ValueError, "writeable"),
        ([[0.0]], TypeError, "out: expected an array, found list"),
    ],
)
def test_outputs(f: EmbedFilter, out: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        f.transform(np.ones((3, D), np.float32), out=out)


@pytest.mark.parametrize(
    "view",
    [
        lambda memory: memory[: 3 * D].reshape(3, D),
        lambda memory: memory.reshape(3, 2 * D)[:, ::2],
        lambda memory: memory[: 3 * D].view(">f4").reshape(3, D),
        lambda memory: memory[: 3 * D].reshape(D, 3).T,
    ],
    ids=["as it is", "strided", "big-endian", "transposed"],
)
def test_output_over_the_input(f: EmbedFilter, view) -> None:
    """Also where the input has to be copied first."""
    memory = np.ones(6 * D, np.float32)
    out = memory[: 3 * K].reshape(3, K)
    with pytest.raises(ValueError, match="out: .*overlap with X"):
        f.transform(view(memory), out=out)
    assert (memory == 1).all()


@pytest.mark.parametrize(("value", "dtype"), [(1e300, "f8"), (3e38, "f4")])
def test_inverse_of_values_too_large(f: EmbedFilter, value: float, dtype: str) -> None:
    Y = np.ones((5, K), dtype)
    Y[2] = value
    with pytest.raises(ValueError, match="Y: expected numbers that fit float32.*in row 2"):
        f.inverse_transform(Y)


def test_truncating_to_what_the_matrix_does_not_determine(rng: np.random.Generator) -> None:
    whole = EmbedFilter.from_matrix(rng.standard_normal((10, D)), kind="identity")
    with pytest.raises(ValueError, match="n_components: expected a matrix of rank over 36"):
        whole.truncate(24)
    assert whole.truncate(48) == whole


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precision": "float8"}, ValueError, "precision: expected one of .*found 'float8'"),
        ({"precision": None}, ValueError, "precision: .*found None"),
        (
            {"precision": "int8"},
            ValueError,
            r"ranges: .*\(2, 24\), for precision 'int8', found None",
        ),
        ({"precision": "int8", "ranges": np.ones((2, 23))}, ValueError, r"found \(2, 23\)"),
        ({"precision": "int8", "ranges": "wide"}, TypeError, "ranges: expected numbers"),
        ({"precision": "uint8", "ranges": np.ones((2, K))}, ValueError, "found 1.0 and 1.0 in dim"),
        ({"precision": "uint8", "ranges": [[0.0] * K, [np.inf] * K]}, ValueError, "0.0 and inf"),
        ({"precision": "uint8", "ranges": [[1.0] * K, [0.0] * K]}, ValueError, "1.0 and 0.0"),
        ({"precision": "float16", "ranges": [[0.0] * K, [1.0] * K]}, ValueError, "expected None"),
        ({"precision": np.array(["int8"])}, ValueError, "precision: expected one of"),
        ({"n_threads": 0}, ValueError, "n_threads"),
    ],
)
def test_transform_options(f: EmbedFilter, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        f.transform(np.ones((3, D)), **options)


@pytest.mark.parametrize("n", [0, 25, -1])
def test_truncating_to_an_impossible_size(f: EmbedFilter, n: int) -> None:
    with pytest.raises(ValueError, match=f"n_components: expected from 1 to 24, found {n}"):
        f.truncate(n)


def test_isa() -> None:
    with pytest.raises(ValueError, match="name: expected one of .*'scalar'.*found 'avx1024'"):
        embedfilter.set_isa("avx1024")
    with pytest.raises(TypeError, match="name: expected str"):
        embedfilter.set_isa(2)


# ---- errors ----------------------------------------------------------------


def test_errors_have_one_base() -> None:
    assert issubclass(CheckpointError, EmbedFilterError)
    assert issubclass(FilterFileError, EmbedFilterError)


def test_a_pickle_of_another_shape_is_refused(f: EmbedFilter) -> None:
    state = f.__getstate__()
    del state["kind"]
    with pytest.raises(TypeError, match="kind"):
        f.__setstate__(state)
    assert pickle.loads(pickle.dumps(f)) == f
