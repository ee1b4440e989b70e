"""Matrices in memory: NumPy arrays, array-likes and torch tensors."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import safetensors.torch
import torch

from embedfilter import EmbedFilter
from embedfilter.checkpoints import open_unembedding
from embedfilter.checkpoints.formats.array import open_array

V, D = 101, 7
DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16}
BLOCK_SIZES = [1, 10, V, None]


def matrix(dtype: str = "F32") -> np.ndarray:
    return np.random.default_rng(0).standard_normal((V, D)).astype(DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_rows", BLOCK_SIZES)
def test_array(dtype, n_rows):
    W_given = matrix(dtype)
    with open_unembedding(W_given) as W:
        assert (W.source, W.name, W.shape, W.dtype) == ("array", "array", (V, D), dtype)
        assert (W.tied, W.reason) == (False, "an array was given")
        rows = W.rows(3, 90)
        assert rows.dtype == W_given.dtype
        np.testing.assert_array_equal(rows, W_given[3:90])
        blocks = list(W.blocks(n_rows))
        assert [start for start, _ in blocks] == list(range(0, V, n_rows or V))
        np.testing.assert_array_equal(np.concatenate([rows for _, rows in blocks]), W_given)
        assert W.fingerprint() == hashlib.sha256(W_given.tobytes()).hexdigest()


def layouts() -> dict[str, np.ndarray]:
    W = matrix()
    wide = np.zeros((V, 2 * D), "f4")
    wide[:, ::2] = W
    unaligned = np.frombuffer(b"\0" + W.tobytes(), "u1")[1:].view("f4").reshape(V, D)
    read_only = W.copy()
    read_only.flags.writeable = False
    return {
        "fortran": np.asfortranarray(W),
        "strided": wide[:, ::2],
        "reversed": W[::-1].copy()[::-1],
        "big-endian": W.astype(">f4"),
        "little-endian": W.astype("<f4"),
        "unaligned": unaligned,
        "read-only": read_only,
        "matrix-class": W.view(type("Sub", (np.ndarray,), {})),
        "broadcast": np.broadcast_to(W, (V, D)),
    }


@pytest.mark.parametrize("layout", layouts())
def test_layouts(layout):
    given = layouts()[layout]
    with open_unembedding(given) as W:
        for rows in (W.rows(0, V), W.rows(5, 6), *(rows for _, rows in W.blocks(30))):
            assert type(rows) is np.ndarray
            assert rows.flags.c_contiguous
            assert rows.flags.aligned
            assert rows.dtype == np.float32
            assert rows.dtype.isnative
        np.testing.assert_array_equal(W.rows(0, V), matrix())
        assert W.fingerprint() == hashlib.sha256(matrix().tobytes()).hexdigest()


def test_the_array_is_neither_copied_nor_open_to_writing():
    given = matrix()
    with open_unembedding(given) as W:
        rows = W.rows(0, V)
        assert np.shares_memory(rows, given)
        assert not rows.flags.writeable
    assert given.flags.writeable


def test_fingerprint_equals_that_of_a_file(tmp_path):
    for dtype in (torch.float32, torch.bfloat16):
        tensor = torch.randn(V, D, generator=torch.Generator().manual_seed(0)).to(dtype)
        safetensors.torch.save_file({"lm_head.weight": tensor}, tmp_path / "a.safetensors")
        with open_unembedding(tensor) as W, open_unembedding(tmp_path / "a.safetensors") as file:
            assert W.fingerprint() == file.fingerprint()


class ArrayLike:
    def __array__(self, dtype=None, copy=None):
        return matrix()


@pytest.mark.parametrize("given", [ArrayLike(), matrix("F64").tolist(), memoryview(matrix())])
def test_array_likes(given):
    with open_unembedding(given) as W:
        np.testing.assert_allclose(W.rows(0, V), matrix(), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["tensor", "parameter", "transposed", "part"])
def test_torch(dtype, kind):
    tensor = torch.randn(V, D, generator=torch.Generator().manual_seed(0)).to(dtype)
    given = {
        "tensor": tensor,
        "parameter": torch.nn.Parameter(tensor),
        "transposed": tensor.T.contiguous().T,
        "part": torch.cat([tensor, tensor], dim=1)[:, :D],
    }[kind]
    with open_unembedding(given) as W:
        assert (W.name, W.shape) == ("array", (V, D))
        rows = W.rows(0, V)
        assert rows.flags.c_contiguous
        np.testing.assert_array_equal(rows.astype("f8"), tensor.double().numpy())
        assert W.dtype == {8: "F64", 4: "F32"}.get(
            tensor.element_size(), "BF16" if dtype == torch.bfloat16 else "F16"
        )


@pytest.mark.parametrize(
    "given",
    [
        matrix().astype(int),
        matrix().astype(bool),
        matrix().astype(complex),
        matrix().astype(np.longdouble),
        np.full((V, D), "a", object),
        matrix().astype(str),
        matrix().astype(ml_dtypes.float8_e4m3fn),
        np.zeros((V, D), "datetime64[s]"),
        np.zeros((V, D), [("a", "f4")]),
        np.ma.masked_array(matrix(), matrix() > 0),
        None,
        3,
        object(),
        {"lm_head.weight": matrix()},
        torch.zeros(V, D, dtype=torch.int64),
        torch.zeros(V, D, dtype=torch.float8_e4m3fn),
        torch.zeros(V, D, device="meta"),
        torch.zeros(V, D).to_sparse(),
    ],
    ids=lambda given: f"{type(given).__name__} {getattr(given, 'dtype', '')}",
)
def test_what_is_not_an_array_of_floats(given):
    with pytest.raises(TypeError, match=r"^source: "):
        open_unembedding(given)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (0, 4), (4, 0)])
def test_what_is_not_a_matrix(shape):
    with pytest.raises(ValueError, match=r"^source: expected an array of shape .*found shape"):
        open_unembedding(np.zeros(shape, "f4"))
    with pytest.raises(ValueError, match=r"^W: expected an array of shape"):
        open_array(np.zeros(shape, "f4"), argument="W")


def test_ragged_rows():
    with pytest.raises(ValueError, match=r"^source: expected .* in row 1"):
        open_unembedding([[1.0, 2.0], [1.0]])


@pytest.mark.parametrize("options", [{"tensor": "lm_head.weight"}, {"revision": "main"}])
def test_options_of_files(options):
    with pytest.raises(ValueError, match="^(tensor|revision): expected None for .*in memory"):
        open_unembedding(matrix(), **options)


def test_closed():
    W = open_unembedding(matrix())
    W.close()
    with pytest.raises(ValueError, match="array: the checkpoint is closed"):
        W.rows(0, 1)


def test_torch_is_not_imported(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from embedfilter.checkpoints import open_unembedding\n"
        "open_unembedding(np.ones((4, 2), 'f4')).rows(0, 2)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_array_too_wide_to_decompose():
    wide = np.broadcast_to(np.float32(0), (32767, 32767))  # takes four bytes
    with pytest.raises(ValueError, match="W: expected a hidden size of at most 32766, found 32767"):
        open_array(wide, argument="W")


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {"requires_grad": True}])
def test_torch_tensors_in_a_list(options):
    with open_array([torch.ones(3, **options)] * 4, argument="W") as W:
        np.testing.assert_array_equal(W.rows(0, 4), np.ones((4, 3)))
    with pytest.raises(TypeError, match="W: .*no data"):
        open_array([torch.ones(3, device="meta")] * 4, argument="W")


@pytest.mark.parametrize(
    "make",
    [
        pd.DataFrame,
        lambda W: pd.Series(list(W)),
        lambda W: pd.DataFrame({"token": range(len(W)), "row": list(W)}),
        lambda W: pl.DataFrame({"row": W}),
        lambda W: pa.FixedSizeListArray.from_arrays(W.ravel(), W.shape[1]),
        lambda W: pa.table({"row": list(W)}),
        lambda W: list(torch.from_numpy(W)),
    ],
)
def test_matrices_of_other_libraries(make: Any) -> None:
    """What `transform` takes."""
    W = np.random.default_rng(4).standard_normal((60, 8)).astype(np.float32)
    assert EmbedFilter.from_matrix(make(W)) == EmbedFilter.from_matrix(W)
