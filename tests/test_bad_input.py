"""Bad arguments and files: one clear error each that names what was expected and found."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
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
        ({"ratio": True}, TypeError, "ratio: expected a number, found True"),
        ({"ratio": "2"}, TypeError, "ratio: expected a number, found '2'"),
        ({"ratio": 2, "n_components": 3}, ValueError, "expected one of the two, found ratio=2 and"),
        ({"n_components": 0}, ValueError, "n_components: expected from 1 to 48, found 0"),
        ({"n_components": -1}, ValueError, "n_components: expected from 1 to 48, found -1"),
        ({"n_components": 49}, ValueError, "n_components: expected from 1 to 48, found 49"),
        ({"n_components": 2.5}, TypeError, "n_components: expected an integer, found 2.5"),
        ({"n_components": True}, TypeError, "n_components: expected an integer, found True"),
        ({"n_components": float("nan")}, TypeError, "n_components: expected an integer, found nan"),
        ({"kind": "middle"}, ValueError, "kind: expected one of edge, .*found 'middle'"),
        ({"kind": "identity", "ratio": 2}, ValueError, "'identity' keeps all 48 components"),
        ({"n_threads": 0}, ValueError, "n_threads: expected at least 1, found 0"),
        ({"n_threads": 1.0}, TypeError, "n_threads: expected an int or None, found 1.0"),
    ],
)
def test_options(W: NDArray, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        EmbedFilter.from_matrix(W, **options)


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
        ([[1.0, 2.0], [3.0]], ValueError, "W: expected an array of two dimensions"),
        (np.ones(6), ValueError, r"W: .*found shape \(6,\)"),
        (np.ones((2, 3, 4)), ValueError, r"W: .*found shape \(2, 3, 4\)"),
        (np.ones((0, 6)), ValueError, r"W: .*found shape \(0, 6\)"),
        (np.full((20, 6), 1e200), ValueError, "W: .*squares fit float64"),
        (torch.ones(20, 6, dtype=torch.int8), TypeError, "W: .*int8"),
        (torch.empty(20, 6, device="meta"), TypeError, "W: .*meta"),
        (torch.nn.Linear(3, 3), TypeError, "W: a model .Linear. is not supported"),
    ],
)
def test_weights_of_the_wrong_kind(W: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        EmbedFilter.from_matrix(W)


def test_rank_too_low_for_what_is_kept(rng: np.random.Generator) -> None:
    W = rng.standard_normal((10, D))  # rank 10 of 48: the middle is arbitrary
    with pytest.raises(ValueError, match="W: expected a matrix of rank over 12.*found rank 10"):
        EmbedFilter.from_matrix(W)
    # Where the cut lies among directions that W determines, there is nothing to refuse.
    assert EmbedFilter.from_matrix(W, n_components=5, kind="tail").n_components == 5


def test_equal_singular_values_at_the_cut_warn() -> None:
    with pytest.warns(UserWarning, match="singular values 23 and 24 of 48 are equal to rounding"):
        EmbedFilter.from_matrix(np.eye(D), kind="tail")


# ---- applying ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.ones((3, 47)), ValueError, r"X: expected \(n, 48\), found shape \(3, 47\)"),
        (np.ones(47), ValueError, r"X: expected \(n, 48\), found shape \(47,\)"),
        (np.float64(1), ValueError, r"X: .*found shape \(\)"),
        (np.ones((1, 3, 48)), ValueError, r"X: .*found shape \(1, 3, 48\)"),
        (np.ones((3, 48), np.int8), TypeError, "X: .*found int8: quantised embeddings"),
        (np.ones((3, 48), np.uint8), TypeError, "X: .*found uint8: quantised embeddings"),
        (np.ones((3, 48), bool), TypeError, "X: .*found bool"),
        (np.ones((3, 48), complex), TypeError, "X: .*found complex128"),
        (np.full((3, 48), None), TypeError, "X: .*found object"),
        (["a text"], TypeError, "X: .*found <U6"),
        ([[1.0, 2.0], [3.0]], ValueError, "X: expected rows of equal length"),
        (None, TypeError, "X: .*found object"),
        (np.ma.masked_array(np.ones((3, 48))), TypeError, "X: .*masked array"),
        (torch.ones(3, 48, requires_grad=True), TypeError, r"X: .*detach.*requires_grad"),
        (torch.ones(3, 48, device="meta"), TypeError, r"X: .*on the CPU.*found meta"),
        (torch.ones(3, 48).to_sparse(), TypeError, "X: .*sparse"),
        (torch.nn.Linear(3, 3), TypeError, "X: expected a tensor on the CPU.*found Linear"),
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
    with pytest.raises(OverflowError, match="X: .*fits float32, found larger ones in row 4"):
        f.transform(X)
    with pytest.raises(OverflowError, match="X: .*fits float16, found larger ones in row 0"):
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


def test_output_over_the_input(f: EmbedFilter) -> None:
    memory = np.ones(3 * D, np.float32)
    with pytest.raises(ValueError, match="out: .*overlap with X"):
        f.transform(memory.reshape(3, D), out=memory[: 3 * K].reshape(3, K))


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


# ---- filter files -----------------------------------------------------------


@pytest.fixture
def saved(f: EmbedFilter, tmp_path: Path) -> Path:
    path = tmp_path / "filter.safetensors"
    f.save(path)
    return path


def rewrite(path: Path, change) -> None:
    """Write the filter again after `change` has edited its tensors and metadata."""
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = safetensors.numpy.load_file(path)
    change(tensors, metadata)
    safetensors.numpy.save_file(tensors, path, metadata)


def set_metadata(key: str, value: str):
    def change(tensors: dict, metadata: dict) -> None:
        metadata[key] = value

    return change


def set_tensor(key: str, edit):
    def change(tensors: dict, metadata: dict) -> None:
        tensors[key] = edit(tensors[key])

    return change


def with_value(row: int, value: float):
    def edit(tensor: NDArray) -> NDArray:
        tensor = tensor.copy()
        tensor[row] = value
        return tensor

    return edit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.clear() or m.update(a="b"), "format version 1, found another safetensors"),
        (set_metadata("format_version", "2"), "format version 1, found version '2'"),
        (set_metadata("kind", "evil"), "a kind of edge.*found 'evil'"),
        (set_metadata("d", "-48"), "a positive integer as metadata 'd', found '-48'"),
        (set_metadata("k", "9" * 5000), "a positive integer as metadata 'k'"),
        (set_metadata("k", "23"), r"shape \(23, 48\), found F32 and \(24, 48\)"),
        (
            lambda t, m: t.pop("singular_values"),
            "the tensors .*found component_indices, components",
        ),
        (lambda t, m: t.update(more=np.ones(3)), "the tensors .*found .*more"),
        (set_tensor("components", lambda t: t.astype("f8")), "type F32 .*found F64"),
        (set_tensor("components", lambda t: t * 1.01), "orthonormal components"),
        (set_tensor("components", with_value(3, np.nan)), "finite components, found NaN"),
        (set_tensor("singular_values", with_value(0, -1.0)), "finite and descending"),
        (set_tensor("singular_values", with_value(0, np.nan)), "finite and descending"),
        (set_tensor("component_indices", with_value(0, 48)), "from 0 to 47"),
        (set_tensor("component_indices", with_value(0, 12)), "component_indices that differ"),
    ],
)
def test_filter_files(saved: Path, change, message: str) -> None:
    rewrite(saved, change)
    with pytest.raises(FilterFileError, match=message) as raised:
        EmbedFilter.load(saved)
    assert str(saved) in str(raised.value)


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_truncated_filter_files(saved: Path, size: int) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[:size])
    with pytest.raises(FilterFileError, match="filter.safetensors"):
        EmbedFilter.load(saved)


def test_other_files(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(FilterFileError, match="missing.safetensors"):
        EmbedFilter.load(tmp_path / "missing.safetensors")
    with pytest.raises(FilterFileError, match=str(tmp_path)):
        EmbedFilter.load(tmp_path)
    header = json.dumps({"__metadata__": {"format_version": 1}}).encode()
    saved.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(FilterFileError, match="__metadata__: expected an object of strings"):
        EmbedFilter.load(saved)


def test_errors_have_one_base() -> None:
    assert issubclass(CheckpointError, EmbedFilterError)
    assert issubclass(FilterFileError, EmbedFilterError)


@pytest.mark.parametrize("place", ["missing/filter", ""])
def test_places_that_cannot_be_written(f: EmbedFilter, tmp_path: Path, place: str) -> None:
    with pytest.raises(OSError, match="missing" if place else "folder"):
        f.save(tmp_path / place)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(
    f: EmbedFilter, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        f.truncate(3).save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_pickle_of_another_shape_is_refused(f: EmbedFilter) -> None:
    state = f.__getstate__()
    del state["kind"]
    with pytest.raises(TypeError, match="kind"):
        f.__setstate__(state)
    assert pickle.loads(pickle.dumps(f)) == f
