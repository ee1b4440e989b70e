"""NumPy's files, in every order, byte order and compression, against np.load."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from embedfilter import EmbedFilter
from embedfilter.checkpoints import open_unembedding
from embedfilter.errors import CheckpointError

V, D = 203, 12
DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16}


def matrix(dtype: str = "F32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((V, D)).astype(DTYPES[dtype])


def write(path: Path, W: np.ndarray, kind: str) -> None:
    save = {"npy": np.save, "stored": np.savez, "deflated": np.savez_compressed}[kind]
    with path.open("wb") as file:
        save(file, W)


SUFFIX = {"npy": ".npy", "stored": ".npz", "deflated": ".npz"}


@pytest.mark.parametrize("kind", SUFFIX)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_rows", [1, 64, None])
def test_rows_and_blocks_equal_the_array(tmp_path, kind, dtype, n_rows):
    path = tmp_path / f"head{SUFFIX[kind]}"
    write(path, matrix(dtype), kind)
    with open_unembedding(path) as W, open_unembedding(matrix(dtype)) as expected:
        name = "array" if kind == "npy" else "arr_0"
        assert (W.name, W.shape, W.dtype, W.tied) == (name, (V, D), dtype, False)
        assert (W.source, W.reason) == (str(path), "the only array in the file")
        rows = np.concatenate([rows for _, rows in W.blocks(n_rows)])
        assert rows.dtype == matrix(dtype).dtype
        np.testing.assert_array_equal(rows, matrix(dtype))
        np.testing.assert_array_equal(W.rows(100, 103), rows[100:103])
        np.testing.assert_array_equal(W.rows(3, 5), rows[3:5])  # backwards
        assert W.fingerprint() == expected.fingerprint()


@pytest.mark.parametrize("kind", ["npy", "stored"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("size", ["f2", "f4", "f8"])
def test_orders(tmp_path, kind, order, byte_order, size):
    W_given = np.asarray(matrix("F64"), byte_order + size, order=order)
    path = tmp_path / f"head{SUFFIX[kind]}"
    write(path, W_given, kind)
    with open_unembedding(path) as W:
        for n_rows in (1, 50, None):
            rows = np.concatenate([rows for _, rows in W.blocks(n_rows)])
            np.testing.assert_array_equal(rows, W_given)
            assert rows.dtype.isnative
        assert W.rows(3, 9).flags.c_contiguous
        with open_unembedding(np.ascontiguousarray(W_given)) as expected:
            assert W.fingerprint() == expected.fingerprint()


def test_compressed_in_big_endian(tmp_path):
    np.savez_compressed(tmp_path / "head.npz", matrix().astype(">f4"))
    with open_unembedding(tmp_path / "head.npz") as W:
        np.testing.assert_array_equal(W.rows(0, V), matrix())


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions(tmp_path, version):
    with (tmp_path / "head.npy").open("wb") as file:
        np.lib.format.write_array(file, matrix(), version=version)
    with open_unembedding(tmp_path / "head.npy") as W:
        np.testing.assert_array_equal(W.rows(0, V), matrix())


def test_npy_without_its_ending(tmp_path):
    with (tmp_path / "head").open("wb") as file:
        np.save(file, matrix())
    with open_unembedding(tmp_path / "head") as W:
        assert W.name == "array"


def test_the_filter_of_a_file_is_that_of_its_matrix(tmp_path):
    np.save(tmp_path / "head.npy", matrix())
    assert EmbedFilter.from_checkpoint(tmp_path / "head.npy") == EmbedFilter.from_matrix(matrix())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_head_of_an_archive_by_its_name(tmp_path, save):
    arrays = {
        "model.embed_tokens.weight": matrix(seed=1),
        "lm_head.weight": matrix(),
        "model.norm.weight": np.ones(D),
        "vocabulary": np.array(["a", "b"]),
        "steps": np.int64(3),
    }
    path = tmp_path / "model.npz"
    save(path, **arrays)
    with open_unembedding(path) as W:
        assert (W.name, W.tied) == ("lm_head.weight", False)
        np.testing.assert_array_equal(W.rows(0, V), matrix())
    with open_unembedding(path, tensor="model.embed_tokens.weight") as W:
        np.testing.assert_array_equal(W.rows(0, V), matrix(seed=1))
    for name, found in (("vocabulary", "<U1|str"), ("steps", "I64")):
        with pytest.raises(CheckpointError, match=f"{name}.*{found}"):
            open_unembedding(path, tensor=name)


def test_several_arrays_without_a_known_name(tmp_path):
    np.savez(tmp_path / "model.npz", a=matrix(), b=matrix(seed=1))
    with pytest.raises(CheckpointError, match="found neither; two-dimensional tensors: 'a'") as e:
        open_unembedding(tmp_path / "model.npz")
    assert "pass tensor= to name one" in str(e.value)
    with open_unembedding(tmp_path / "model.npz", tensor="b") as W:
        np.testing.assert_array_equal(W.rows(0, V), matrix(seed=1))


def test_memory_does_not_grow_with_a_compressed_array(tmp_path):
    rows = np.random.default_rng(0).standard_normal((1000, 256)).astype("f4")
    np.savez_compressed(tmp_path / "head.npz", np.tile(rows, (30, 1)))  # 30 MB
    with open_unembedding(tmp_path / "head.npz") as W:
        tracemalloc.start()
        try:
            for _, block in W.blocks(1000):
                np.testing.assert_array_equal(block, rows)
            assert tracemalloc.get_traced_memory()[1] < 12 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("kind", SUFFIX)
def test_file_cut_after_opening_is_an_error(tmp_path, kind):
    path = tmp_path / f"head{SUFFIX[kind]}"
    write(path, matrix(), kind)
    with open_unembedding(path) as W:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(CheckpointError, match="changed while it was read") as raised:
            W.rows(0, V)
    assert str(path) in str(raised.value)


def test_damage_in_the_compressed_numbers_is_found(tmp_path):
    path = tmp_path / "head.npz"
    write(path, matrix(), "deflated")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    message = r"head\.npz: entry 'arr_0\.npy': damaged: "
    with pytest.raises(CheckpointError, match=message) as raised, open_unembedding(path) as W:
        W.rows(0, V)
    assert "\n" not in str(raised.value)


def npy(W: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, W)
    return buffer.getvalue()


@pytest.mark.parametrize("part", ["a/b", "b"])
def test_names_with_folders_are_names(tmp_path, part):
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{part}.npy", npy(matrix()))
    with open_unembedding(path) as W:
        assert W.name == part
