"""Embeddings in .npy and .npz files: every order and type, in blocks and as a whole."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from embedfilter import EmbedFilterError
from embedfilter.files.embeddings import EmbeddingsFile

FLOATS = ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"]


@pytest.fixture
def X(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.standard_normal((37, 5))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path: Path, X: NDArray, dtype: str, order: str) -> None:
    path = tmp_path / "x.npy"
    expected = X.astype(dtype)
    np.save(path, np.asarray(expected, order=order))
    for n_bytes in (1, 100, 10_000):
        with EmbeddingsFile(path) as file:
            assert file.shape == (37, 5)
            assert file.dtype.isnative
            blocks = [block.copy() for block in file.blocks(n_bytes)]
            assert np.array_equal(np.concatenate(blocks), expected)
            assert np.array_equal(file.rows(), expected)
            assert np.array_equal(file.rows(3), expected[:3])


def test_bfloat16(tmp_path: Path, X: NDArray) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X.astype(ml_dtypes.bfloat16))
    with EmbeddingsFile(path) as file:
        assert np.array_equal(file.rows(), X.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, X: NDArray, save) -> None:
    path = tmp_path / "x.npz"
    save(path, a=X, b=2 * X[:2])
    with EmbeddingsFile(path, "b") as file:
        assert np.array_equal(file.rows(), 2 * X[:2])
    with pytest.raises(EmbedFilterError, match=r"expected one array, or --key.*'a', 'b'"):
        EmbeddingsFile(path)
    with pytest.raises(EmbedFilterError, match="expected an array 'c', found 'a', 'b'"):
        EmbeddingsFile(path, "c")
    save(path, X)
    with EmbeddingsFile(path) as file:
        blocks = [block.copy() for block in file.blocks(80)]
        assert np.array_equal(np.concatenate(blocks), X)


def test_few_rows_of_many_dimensions(tmp_path: Path, X: NDArray) -> None:
    """They are embeddings, not an unembedding matrix that would be transposed."""
    path = tmp_path / "x.npz"
    np.savez(path, X.T)
    with EmbeddingsFile(path) as file:
        assert file.shape == (5, 37)


def test_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.empty((0, 5)))
    with EmbeddingsFile(path) as file:
        assert file.rows().shape == (0, 5)
        assert list(file.blocks(100)) == []


def test_refused(tmp_path: Path, X: NDArray) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    with pytest.raises(EmbedFilterError, match="expected no --key"):
        EmbeddingsFile(path, "a")
    np.save(path, X.astype(np.int8))
    with pytest.raises(EmbedFilterError, match="found int8: quantised"):
        EmbeddingsFile(path)
    with pytest.raises(FileNotFoundError):
        EmbeddingsFile(tmp_path / "none.npy")


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path, X: NDArray) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    with EmbeddingsFile(path) as file:
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(EmbedFilterError, match="changed while it was read"):
            list(file.blocks(100))
