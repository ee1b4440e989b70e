"""EmbedFilter as users call it: every input and output type, saving, loading, pickling."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray
from oracle import assert_same_directions, head_with_spectrum, model_like_spectrum, unit_rows

import embedfilter
from embedfilter import EmbedFilter

D, K = 48, 24
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype("float16"), BFLOAT16, np.dtype("float32"), np.dtype("float64")]


@pytest.fixture(scope="module")
def W() -> NDArray:
    rng = np.random.default_rng(1)
    return head_with_spectrum(rng, 500, model_like_spectrum(D, 25))


@pytest.fixture(scope="module")
def f(W: NDArray) -> EmbedFilter:
    return EmbedFilter.from_matrix(W)


@pytest.fixture
def X(rng: np.random.Generator) -> NDArray:
    return rng.standard_normal((20, D))


def expected(f: EmbedFilter, X: NDArray, normalize: bool = True) -> NDArray:
    Y = np.asarray(X, np.float64) @ f.components.T.astype(np.float64)
    return unit_rows(Y) if normalize else Y


# ---- what a filter is -------------------------------------------------------


def test_attributes(f: EmbedFilter, W: NDArray) -> None:
    assert (f.n_features_in, f.n_components, f.kind) == (D, K, "edge")
    assert f.components.shape == (K, D)
    assert f.components.dtype == np.float32
    assert f.component_indices.dtype == np.int64
    assert f.singular_values.shape == (D,)
    assert (np.diff(f.singular_values) <= 0).all()
    assert not f.components.flags.writeable
    assert f.metadata["tensor"] == "array"
    assert f.metadata["rows"] == "500"
    assert f.metadata["dtype"] == "F64"
    assert f.metadata["version"] == embedfilter.__version__
    assert len(f.metadata["fingerprint"]) == 64
    assert repr(f) == "EmbedFilter(48 -> 24, kind='edge', source='array')"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_weights_of_each_type(W: NDArray, dtype: np.dtype) -> None:
    stored = W.astype(dtype)
    exact = np.linalg.svd(stored.astype(np.float64), full_matrices=False)[2][12:36]
    C = EmbedFilter.from_matrix(stored).components
    np.testing.assert_allclose(C.T @ C, exact.T @ exact, atol=1e-6)


def test_weights_in_a_torch_tensor(W: NDArray) -> None:
    tensor = torch.from_numpy(W).to(torch.bfloat16)
    same = EmbedFilter.from_matrix(tensor.float().numpy().astype(BFLOAT16))
    assert EmbedFilter.from_matrix(tensor) == same


@pytest.mark.parametrize(
    ("options", "k"),
    [
        ({}, 24),
        ({"ratio": 2}, 24),
        ({"ratio": 5}, 9),  # the floor, as in the reference
        ({"ratio": 1.5}, 32),
        ({"ratio": 48}, 1),
        ({"n_components": 7}, 7),
        ({"n_components": np.int64(7)}, 7),
        ({"kind": "identity"}, 48),
    ],
)
def test_how_many_components(W: NDArray, options: dict, k: int) -> None:
    assert EmbedFilter.from_matrix(W, **options).n_components == k


# ---- transform --------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("normalize", [True, False])
def test_input_types(f: EmbedFilter, X: NDArray, dtype: np.dtype, normalize: bool) -> None:
    Y = f.transform(X.astype(dtype), normalize=normalize)
    assert Y.dtype == np.float32
    np.testing.assert_allclose(Y, expected(f, X.astype(dtype), normalize), atol=2e-6)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("normalize", [True, False])
def test_output_types(f: EmbedFilter, X: NDArray, precision: str, normalize: bool) -> None:
    Y = f.transform(X, precision=precision, normalize=normalize)
    dtype = BFLOAT16 if precision == "bfloat16" else np.dtype(precision)
    assert Y.dtype == dtype
    assert np.array_equal(Y, f.transform(X, normalize=normalize).astype(dtype))


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_integer_output_has_sentence_transformers_levels(
    f: EmbedFilter, X: NDArray, precision: str
) -> None:
    Y = f.transform(X)
    ranges = np.vstack([Y.min(axis=0), Y.max(axis=0)])
    # sentence_transformers.util.quantize_embeddings, as of version 6.2
    levels = (Y - ranges[0]) / ((ranges[1] - ranges[0]) / np.float32(255))
    if precision == "int8":
        levels = levels - 128
    result = f.transform(X, precision=precision, ranges=ranges)
    assert result.dtype == precision
    assert np.array_equal(result, np.trunc(levels).astype(precision))


def test_ubinary_output(f: EmbedFilter, X: NDArray) -> None:
    result = f.transform(X, precision="ubinary")
    assert result.dtype == np.uint8
    assert np.array_equal(result, np.packbits(f.transform(X) > 0, axis=1))
    odd = f.truncate(13)
    assert np.array_equal(
        odd.transform(X, precision="ubinary"), np.packbits(odd.transform(X) > 0, axis=1)
    )


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8", "ubinary"])
def test_shapes(f: EmbedFilter, X: NDArray, precision: str) -> None:
    options: dict = {"precision": precision}
    if precision == "int8":
        options["ranges"] = [[-1] * K, [1] * K]
    many = f.transform(X, **options)
    width = 3 if precision == "ubinary" else K
    assert many.shape == (20, width)
    one = f.transform(X[3], **options)
    assert one.shape == (width,)
    assert np.array_equal(one, many[3])
    assert f.transform(X[3:4], **options).shape == (1, width)
    for empty in (np.empty((0, D)), np.empty(0), []):
        result = f.transform(empty, **options)
        assert (result.shape, result.dtype) == ((0, width), many.dtype)


def unaligned(X: NDArray) -> NDArray:
    """Return a read-only copy that begins one byte off its alignment."""
    memory = np.frombuffer(b"\0" + X.tobytes(), np.uint8)
    return memory[1:].view(X.dtype).reshape(X.shape)


@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda X: X[::-1],
        lambda X: X[:, ::-1][:, ::-1],
        lambda X: np.repeat(X, 2, axis=1)[:, ::2],
        lambda X: np.repeat(X, 3, axis=0)[::3],
        lambda X: X.astype(">f8"),
        lambda X: X.tolist(),
        unaligned,
    ],
    ids=["fortran", "rows reversed", "columns reversed", "every other column", "every third row",
         "big-endian", "lists", "unaligned and read-only"],
)  # fmt: skip
def test_any_memory_layout(f: EmbedFilter, X: NDArray, view) -> None:
    viewed = view(X)
    assert np.array_equal(f.transform(viewed), f.transform(np.array(viewed, np.float64, order="C")))


def test_input_is_not_written(f: EmbedFilter, X: NDArray) -> None:
    X.flags.writeable = False
    before = X.copy()
    f.transform(X)
    assert np.array_equal(X, before)


def test_one_row_for_many(f: EmbedFilter, X: NDArray) -> None:
    """Rows that are all the same memory, as broadcasting makes them."""
    Y = f.transform(np.broadcast_to(X[0], (9, D)))
    assert np.array_equal(Y, np.tile(f.transform(X[0]), (9, 1)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_tensors(f: EmbedFilter, X: NDArray, dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(X).to(dtype)
    Y = f.transform(tensor)
    assert isinstance(Y, np.ndarray)
    np.testing.assert_allclose(Y, expected(f, tensor.double().numpy()), atol=1e-6)
    assert np.array_equal(f.transform(tensor[2]), Y[2])


def test_zero_rows_stay_zero(f: EmbedFilter, X: NDArray) -> None:
    X[[0, 7]] = 0
    Y = f.transform(X)
    assert (Y[[0, 7]] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(np.delete(Y, [0, 7], axis=0), axis=1), 1, atol=1e-6)


def test_out(f: EmbedFilter, X: NDArray) -> None:
    out = np.empty((20, K), np.float32)
    assert f.transform(X, out=out) is out
    assert np.array_equal(out, f.transform(X))
    one = np.empty(K, np.float16)
    assert f.transform(X[2], precision="float16", out=one) is one
    assert np.array_equal(one, f.transform(X[2], precision="float16"))
    brain = np.empty((20, K), BFLOAT16)
    assert f.transform(X, precision="bfloat16", out=brain) is brain
    bits = np.empty((20, 3), np.uint8)
    assert f.transform(X, precision="ubinary", out=bits) is bits


def test_calling_is_transforming(f: EmbedFilter, X: NDArray) -> None:
    assert np.array_equal(f(X), f.transform(X))


def test_inverse_transform(f: EmbedFilter, X: NDArray) -> None:
    Y = f.transform(X, normalize=False)
    back = f.inverse_transform(Y)
    assert (back.shape, back.dtype) == ((20, D), np.float32)
    np.testing.assert_allclose(f.transform(back, normalize=False), Y, atol=1e-5)
    assert f.inverse_transform(Y[0]).shape == (D,)
    assert f.inverse_transform([]).shape == (0, D)


def test_inner_products_inside_the_bulk_are_preserved(f: EmbedFilter, X: NDArray) -> None:
    inside = f.inverse_transform(f.transform(X, normalize=False))
    Y = f.transform(inside, normalize=False)
    np.testing.assert_allclose(Y @ Y.T, inside @ inside.T, atol=1e-4)


def test_truncating(W: NDArray, f: EmbedFilter, X: NDArray) -> None:
    g = f.truncate(10)
    assert g.n_components == 10
    assert_same_directions(g, EmbedFilter.from_matrix(W, n_components=10))
    np.testing.assert_allclose(g.transform(X), unit_rows(f.transform(X)[:, :10]), atol=1e-6)
    whole = EmbedFilter.from_matrix(W, kind="identity")
    assert whole.truncate(48).kind == "identity"
    assert_same_directions(whole.truncate(24), f)


# ---- keeping ----------------------------------------------------------------


def test_saved_and_loaded(f: EmbedFilter, X: NDArray, tmp_path: Path) -> None:
    path = tmp_path / "filter.safetensors"
    f.save(path)
    g = EmbedFilter.load(path)
    assert g == f
    assert g.metadata == f.metadata
    assert np.array_equal(g.transform(X), f.transform(X))
    assert [entry.name for entry in tmp_path.iterdir()] == ["filter.safetensors"]
    f.truncate(5).save(str(path))  # over the old one
    assert EmbedFilter.load(str(path)) == f.truncate(5)


@pytest.mark.parametrize("kind", ["edge", "late", "head", "tail", "mid", "random", "identity"])
def test_every_kind_is_saved(W: NDArray, kind: str, tmp_path: Path) -> None:
    f = EmbedFilter.from_matrix(W, kind=kind)
    f.save(tmp_path / "f")
    assert EmbedFilter.load(tmp_path / "f") == f


def test_plain_safetensors_reads_the_file(f: EmbedFilter, X: NDArray, tmp_path: Path) -> None:
    path = tmp_path / "filter.safetensors"
    f.save(path)
    tensors = safetensors.numpy.load_file(path)
    Y = X @ tensors["components"].T
    np.testing.assert_allclose(unit_rows(Y), f.transform(X), atol=1e-6)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    assert metadata["format_version"] == "1"
    assert (metadata["kind"], metadata["d"], metadata["k"]) == ("edge", "48", "24")
    assert metadata["fingerprint"] == f.metadata["fingerprint"]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickled(f: EmbedFilter, X: NDArray, protocol: int) -> None:
    f.transform(X)  # the packed matrix must not go along
    data = pickle.dumps(f, protocol)
    assert len(data) < 2 * f.components.nbytes
    g = pickle.loads(data)
    assert g == f
    assert g.metadata == f.metadata
    assert np.array_equal(g.transform(X), f.transform(X))


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_copied(f: EmbedFilter, X: NDArray, copier) -> None:
    assert copier(f) == f
    assert np.array_equal(copier(f).transform(X), f.transform(X))


def test_fingerprint_is_of_the_stored_bytes(W: NDArray) -> None:
    f = EmbedFilter.from_matrix(W)
    same = EmbedFilter.from_matrix(np.asfortranarray(W))
    other = EmbedFilter.from_matrix(W.astype(np.float32))
    assert f.metadata["fingerprint"] == same.metadata["fingerprint"]
    assert f.metadata["fingerprint"] != other.metadata["fingerprint"]


def test_importing_is_light(tmp_path: Path) -> None:
    code = (
        "import sys, numpy; before = set(sys.modules); import embedfilter;"
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    heavy = {"torch", "scipy", "gguf", "safetensors", "tqdm", "click", "ml_dtypes", "sklearn"}
    assert not heavy & set(output.stdout.split())
