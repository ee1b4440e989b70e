"""Matrices in .npy, .npz, .safetensors and torch files: every order and type, in parts."""

from __future__ import annotations

import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from embedfilter import EmbedFilterError
from embedfilter.files.tables.opening import open_table

FLOATS = ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"]


@pytest.fixture
def X(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.standard_normal((37, 5))


def read(path: Path, key: str | None = None, n_rows: int = 100) -> NDArray:
    with open_table([path], key) as table:
        assert table.embedding_column(None) is None
        assert table.width is not None
        parts = [part.array(None, "", 0, None) for part in table.parts(n_rows)]
        assert all(len(part) <= n_rows for part in parts)
        return np.concatenate(parts)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path: Path, X: NDArray, dtype: str, order: str) -> None:
    path = tmp_path / "x.npy"
    expected = X.astype(dtype)
    np.save(path, np.asarray(expected, order=order))
    for n_rows in (1, 5, 100):
        found = read(path, n_rows=n_rows)
        assert found.dtype.isnative
        assert np.array_equal(found, expected)


def test_bfloat16(tmp_path: Path, X: NDArray) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X.astype(ml_dtypes.bfloat16))
    assert np.array_equal(read(path), X.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, X: NDArray, save) -> None:
    path = tmp_path / "x.npz"
    save(path, a=X, b=2 * X[:2])
    assert np.array_equal(read(path, "b"), 2 * X[:2])
    with pytest.raises(EmbedFilterError, match=r"expected one array, or --key.*'a', 'b'"):
        read(path)
    with pytest.raises(EmbedFilterError, match="expected an array 'c', found 'a', 'b'"):
        read(path, "c")
    save(path, X)
    assert np.array_equal(read(path, n_rows=2), X)


def test_few_rows_of_many_dimensions(tmp_path: Path, X: NDArray) -> None:
    """They are embeddings, not an unembedding matrix that would be transposed."""
    path = tmp_path / "x.npz"
    np.savez(path, X.T)
    assert read(path).shape == (5, 37)


def test_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.empty((0, 5)))
    with open_table([path]) as table:
        assert (table.n_rows, table.width) == (0, 5)
        assert list(table.parts(100)) == []


def test_refused(tmp_path: Path, X: NDArray) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    with pytest.raises(EmbedFilterError, match=r"--key: expected none for .*x.npy, found 'a'"):
        read(path, "a")
    np.save(path, X.astype(np.int8))
    with pytest.raises(EmbedFilterError, match="found int8: quantised"):
        read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.npy")


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path, X: NDArray) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    with open_table([path]) as table:
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(EmbedFilterError, match="changed while it was read"):
            list(table.parts(2))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("suffix", [".pt", ".PTH", ".safetensors", ".SafeTensors"])
def test_tensors(tmp_path: Path, X: NDArray, dtype: str, suffix: str) -> None:
    tensor = torch.tensor(X).to(getattr(torch, dtype))
    expected = tensor.double().numpy()
    path = tmp_path / f"x{suffix}"
    if suffix.lower() == ".safetensors":
        save_file({"a": tensor, "b": 2 * tensor}, path)
        with pytest.raises(EmbedFilterError, match=r"expected one tensor, or --key.*'a', 'b'"):
            read(path)
        with pytest.raises(EmbedFilterError, match="expected a tensor 'c', found 'a', 'b'"):
            read(path, "c")
        assert np.array_equal(read(path, "b", 10).astype(np.float64), 2 * expected)
        save_file({"a": tensor}, path)
    else:
        torch.save({"a": tensor, "b": 2 * tensor, "name": "a model"}, path)
        assert np.array_equal(read(path, "b", 10).astype(np.float64), 2 * expected)
        torch.save(tensor.requires_grad_(), path)
    found = read(path, n_rows=10)
    assert found.dtype.name == dtype
    assert np.array_equal(found.astype(np.float64), expected)


def test_tensors_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps(Path))
    with pytest.raises(EmbedFilterError, match=r"x.pt: expected tensors alone"):
        read(path)
    torch.save((torch.ones(3),), path)
    with pytest.raises(EmbedFilterError, match="a list of tensors, found tuple"):
        read(path)
    torch.save(torch.ones(3, 4, dtype=torch.int8), path)
    with pytest.raises(EmbedFilterError, match="found int8: quantised"):
        read(path)
    save_file({"a": torch.ones(3, 4, dtype=torch.int8)}, tmp_path / "x.safetensors")
    with pytest.raises(EmbedFilterError, match="found I8: quantised"):
        read(tmp_path / "x.safetensors")
