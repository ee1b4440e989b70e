"""Every form of arrays, frames and columns beside NumPy's, and what is refused with its row."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse

from embedfilter import EmbedFilter, LogitLens, diagnose, evaluate
from embedfilter.arrays.columns import as_array

D, N = 16, 7
X: NDArray = np.random.default_rng(0).standard_normal((N, D)).astype("f4")
LISTS: list[list[Any]] = X.tolist()


@pytest.fixture(scope="module")
def W() -> NDArray:
    return np.random.default_rng(1).standard_normal((400, D)) * np.geomspace(3, 1, D)


@pytest.fixture(scope="module")
def f(W: NDArray) -> EmbedFilter:
    return EmbedFilter.from_matrix(W)


class OnlyDlpack:
    """An array of a library that offers DLPack and nothing else."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.tensor.__dlpack_device__()


class OnlyToNumpy:
    """A vector of a library that has `to_numpy` and nothing else, as pgvector's HalfVector."""

    def __init__(self, row: NDArray) -> None:
        self.row = row

    def to_numpy(self) -> NDArray:
        return self.row


def arrow() -> dict[str, pa.Array]:
    flat, starts = pa.array(X.reshape(-1)), np.arange(0, X.size + 1, D)
    short, sizes = pa.array(starts[:-1], pa.int32()), pa.array(np.full(N, D), pa.int32())
    wide, wide_sizes = pa.array(starts[:-1]), pa.array(np.full(N, D))
    return {
        "list": pa.ListArray.from_arrays(pa.array(starts, pa.int32()), flat),
        "large list": pa.LargeListArray.from_arrays(pa.array(starts), flat),
        "fixed-size list": pa.FixedSizeListArray.from_arrays(flat, D),
        "list view": pa.ListViewArray.from_arrays(short, sizes, flat),
        "large list view": pa.LargeListViewArray.from_arrays(wide, wide_sizes, flat),
        "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(X),
    }


FORMS: dict[str, Any] = {
    "lists": LISTS,
    "tuple of arrays": tuple(X),
    "array of arrays": pd.Series(list(X)).to_numpy(),
    "tensor": torch.tensor(X),
    "tensor with gradients": torch.tensor(X, requires_grad=True),
    "list of tensors": [torch.tensor(x, requires_grad=True) for x in X],
    "list of both": [LISTS[0], *map(torch.tensor, X[1:])],
    "DLPack": OnlyDlpack(torch.tensor(X)),
    "old DLPack": SimpleNamespace(
        __dlpack__=lambda: torch.tensor(X).__dlpack__(), __dlpack_device__=lambda: (1, 0)
    ),
    "to_numpy": OnlyToNumpy(X),
    "list of to_numpy": [OnlyToNumpy(x) for x in X],
    "Parameter": torch.nn.Parameter(torch.tensor(X)),
    "tensor, negated": torch._neg_view(torch.tensor(-X)),
    "array of Python's numbers": X.astype(object),
    "masked, nothing": np.ma.masked_array(X),
    "matrix": np.asmatrix(X),
    "big-endian": X.astype(">f8"),
    "read-only": np.broadcast_to(X, X.shape),
    "dict's values": dict(enumerate(LISTS)).values(),
    "deque": deque(LISTS),
    "list of memoryviews": [memoryview(x) for x in X],
    "buffer": memoryview(X),
    "pandas, tuples": pd.Series([tuple(x) for x in LISTS]),
    "pandas, tensors": pd.Series([torch.tensor(x) for x in X]),
    "pandas, pandas": pd.Series([pd.array(x) for x in X]),
    "pandas' array": pd.Series(LISTS).array,
    "pandas' Arrow array": pd.arrays.ArrowExtensionArray(pa.chunked_array([arrow()["list"]])),
    "pandas frame of objects": pd.DataFrame(X).astype(object),
    "pandas frame, sparse": pd.DataFrame(X).astype(pd.SparseDtype("float32")),
    "pandas frame of several": pd.DataFrame({"id": range(N), "words": [["a"]] * N, "e": LISTS}),
    "pandas frame of several, Arrow": pa.table({"id": range(N), "e": LISTS}).to_pandas(
        types_mapper=pd.ArrowDtype
    ),
    "pandas, arrays": pd.Series(list(X), index=list("gfedcba")),
    "pandas, lists": pd.Series(LISTS),
    "pandas, Arrow": pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array([arrow()["list"]]))),
    "pandas frame": pd.DataFrame(X, columns=[f"e{i}" for i in range(D)]),
    "pandas frame of one column": pd.DataFrame({"e": list(X)}),
    "pandas frame, nullable": pd.DataFrame(X).astype("Float32"),
    "pandas frame, Arrow": pd.DataFrame(X).astype("float[pyarrow]"),
    "polars, lists": pl.Series(LISTS, dtype=pl.List(pl.Float32)),
    "polars, arrays": pl.Series(X, dtype=pl.Array(pl.Float32, D)),
    "polars frame": pl.DataFrame(X),
    "polars frame of one column": pl.DataFrame({"e": X}),
    "polars frame of several": pl.DataFrame({"id": range(N), "words": [["a"]] * N, "e": X}),
    "polars, chunks": pl.concat([pl.Series(LISTS[:3]), pl.Series(LISTS[3:])], rechunk=False),
    "polars, objects": pl.Series("e", list(X), dtype=pl.Object),
    "Arrow table of several": pa.table({"id": range(N), "tokens": [[1]] * N, "e": list(X)}),
    "Arrow batch": pa.record_batch({"e": list(X)}),
    "Arrow batches": pa.table({"e": list(X)}).to_reader(),
    "Arrow Tensor": pa.Tensor.from_numpy(X),
    "list of Arrow's values": list(pa.array(list(X))),
    "list of Arrow's tensors": list(pa.FixedShapeTensorArray.from_numpy_ndarray(X)),
    "Arrow table": pa.table({"e": arrow()["list"]}),
    "Arrow table, wide": pa.table({str(i): X[:, i] for i in range(D)}),
    **{f"Arrow {kind}": array for kind, array in arrow().items()},
    **{f"Arrow {k}, chunks": pa.chunked_array([a[:3], a[3:]]) for k, a in arrow().items()},
    **{f"Arrow {k}, a slice": pa.concat_arrays([a[:2], a])[2:] for k, a in arrow().items()},
}


def datasets_forms() -> dict[str, Any]:
    import datasets  # mteb brings it

    data = datasets.Dataset.from_dict({"text": ["a"] * N, "e": X})
    matrices = datasets.Features({"e": datasets.Array2D((1, D), "float32")})
    doubled = datasets.Dataset.from_dict({"e": (X / 2).tolist()})
    return {
        "column": data["e"],
        "columns": data,
        "shuffled": data.select(range(N - 1, -1, -1)).select(range(N - 1, -1, -1))["e"],
        "numpy": data.with_format("numpy")["e"],
        "torch": data.with_format("torch")["e"],
        "transform": doubled.with_transform(lambda rows: {"e": 2 * np.array(rows["e"])})["e"],
        "streamed": data.to_iterable_dataset()["e"],
        "Array2D": datasets.Dataset.from_dict({"e": X[:, None].tolist()}, features=matrices)["e"],
    }


@pytest.mark.long
@pytest.mark.parametrize(
    "form",
    ["column", "columns", "shuffled", "numpy", "torch", "transform", "streamed", "Array2D"],
)
def test_hugging_face_datasets(f: EmbedFilter, form: str) -> None:
    found = f.transform(datasets_forms()[form])
    np.testing.assert_array_equal(found.reshape(N, -1), f.transform(X))


@pytest.mark.parametrize(
    "given",
    [
        [],
        np.empty((0, D)),
        pd.Series([], dtype=object),
        pd.DataFrame({"e": []}, dtype=object),
        pl.Series([], dtype=pl.List(pl.Float32)),
        pa.array([], pa.list_(pa.float32())),
        pa.chunked_array([], pa.list_view(pa.float32())),
        pa.chunked_array([], pa.list_(pa.float32(), D)),
        pa.table({"e": pa.array([], pa.large_list(pa.float64()))}),
    ],
)
def test_no_rows(f: EmbedFilter, given: Any) -> None:
    assert f.transform(given).shape == (0, D // 2)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_array(f: EmbedFilter, form: str) -> None:
    np.testing.assert_array_equal(f.transform(FORMS[form]), f.transform(X))


def test_bfloat16_tensors(f: EmbedFilter) -> None:
    half = torch.tensor(X).bfloat16().requires_grad_()
    expected = f.transform(half.detach().float().numpy())
    np.testing.assert_array_equal(f.transform(half), expected)
    np.testing.assert_array_equal(f.transform(list(half)), expected)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 3), (2, 1, 3)])
@pytest.mark.parametrize("precision", ["float32", "ubinary"])
def test_leading_dimensions(f: EmbedFilter, shape: tuple[int, ...], precision: str) -> None:
    states = np.random.default_rng(2).standard_normal((*shape, D))
    found = f.transform(states, precision=precision)
    width = 1 if precision == "ubinary" else D // 2
    assert found.shape == (*shape, width)
    flat = f.transform(states.reshape(-1, D), precision=precision)
    np.testing.assert_array_equal(found.reshape(-1, width), flat)
    out = np.empty_like(found)
    assert f.transform(states, precision=precision, out=out) is out
    np.testing.assert_array_equal(out, found)
    if precision == "float32":
        back = f.inverse_transform(found)
        assert back.shape == states.shape
        np.testing.assert_allclose(back.reshape(-1, D), flat @ f.components, atol=1e-6)


def test_arrays_of_arrays(f: EmbedFilter) -> None:
    states = np.random.default_rng(2).standard_normal((3, 4, D))
    nested = np.empty((3, 4), object)
    for place in np.ndindex(3, 4):
        nested[place] = states[place]
    np.testing.assert_array_equal(f.transform(nested), f.transform(states))
    np.testing.assert_array_equal(f.transform([*states]), f.transform(states))
    np.testing.assert_array_equal(
        f.transform(states[0, 0].astype(object)), f.transform(states)[0, 0]
    )


def test_strides_of_leading_dimensions(f: EmbedFilter) -> None:
    states = np.random.default_rng(2).standard_normal((D, 3, 4)).astype("f4").transpose(1, 2, 0)
    np.testing.assert_array_equal(f.transform(states), f.transform(states.copy()))
    swapped = states.copy().transpose(1, 0, 2)
    np.testing.assert_array_equal(f.transform(swapped), f.transform(swapped.copy()))


def test_the_row_of_what_is_not_finite(f: EmbedFilter) -> None:
    states = np.zeros((2, 3, D))
    states[1, 2, 5] = np.inf
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of 6 rows: \(1, 2\)"):
        f.transform(states)


def test_other_functions_take_them(f: EmbedFilter, W: NDArray) -> None:
    series = pd.Series(LISTS)
    np.testing.assert_array_equal(f.calibrate(series).components, f.calibrate(X).components)
    assert str(diagnose(series, f)) == str(diagnose(X, f))
    with LogitLens(W.astype("f4")) as lens:
        expected = lens.top_tokens(X, 3, filter=f).ids
        np.testing.assert_array_equal(lens.top_tokens(series, 3, filter=f).ids, expected)
        np.testing.assert_array_equal(lens.top_tokens(arrow()["list"], 3, filter=f).ids, expected)
    many = np.random.default_rng(3).standard_normal((60, D))
    labels = ["a", "b", "c"] * 20
    found = evaluate(pl.DataFrame(many), labels=labels, dimensions=[D])
    assert found.to_json() == evaluate(many, labels=labels, dimensions=[D]).to_json()


def without(row: int, value: Any) -> list[Any]:
    return [*LISTS[:row], value, *LISTS[row + 1 :]]


RAGGED = without(4, LISTS[4][:-1])
INSIDE = without(5, [None, *LISTS[5][1:]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pd.Series(without(3, None)), "found None in row 3"),
        (pd.Series(without(3, float("nan"))), "found nan in row 3"),
        (pd.Series(without(3, pd.NA)), "found <NA> in row 3"),
        (pd.Series(RAGGED), r"found shape \(16,\) in row 0 and \(15,\) in row 4"),
        (pd.Series(INSIDE), "expected numbers, found None in row 5"),
        (pd.Series(["a", "b"]), "expected numbers, or lists of them, found str"),
        (pd.DataFrame({"t": ["a"], "x": [1.0]}), "expected columns of numbers, found others: 't'"),
        (pd.DataFrame(X).astype("Float32").mask(np.eye(N, D, 2) > 0), "missing ones in row 0"),
        (without(3, None), "found None in row 3"),
        (RAGGED, r"\(15,\) in row 4"),
        (INSIDE, "expected numbers, found None in row 5"),
        (pa.array(without(3, None)), "found null in row 3"),
        (pa.array(RAGGED), "expected lists of 16 numbers, found 15 in row 4"),
        (pa.array(INSIDE), "expected numbers, found null in row 5"),
        (pa.array(["a"]), "expected lists of numbers, found string"),
        (pl.Series(without(3, None)), "found null in row 3"),
        (pl.Series(without(3, None), dtype=pl.Array(pl.Float64, D)), "found null in row 3"),
        (pl.Series(RAGGED), "expected lists of 16 numbers, found 15 in row 4"),
        (pl.Series(INSIDE), "found null in row 5"),
        (pl.DataFrame({"t": ["a"], "x": [1.0]}), "expected columns of numbers, found others: 't'"),
        (pl.DataFrame(X).lazy(), "a DataFrame of polars, found LazyFrame: collect it first"),
        (pl.DataFrame({"a": X, "b": X}), "one column of lists of numbers, found 'a', 'b'"),
        (pa.table({"a": list(X), "b": list(X)}), "column of lists of numbers, found 'a', 'b'"),
        (pd.DataFrame({"a": list(X), "b": list(X)}), "of lists of numbers, found 'a', 'b'"),
        (pd.Series([str(row) for row in LISTS]), "found str: json.loads makes a list of a text"),
        ([str(row) for row in LISTS], "in row 0, a text: json.loads makes a list of it"),
        ([X[:3], X[3:]], r"and \(4, 16\) in row 1: join them with np.concatenate, and split"),
        ((x for x in LISTS), "expected an array or lists of numbers, found generator: make a list"),
        (dict(enumerate(LISTS)), "expected an array or lists of numbers, found dict"),
        (None, "expected an array or lists of numbers, found None"),
        ("x.npy", "expected an array or lists of numbers, found str"),
        (X.view([("a", "f4", D)]), "expected one of float16, .*, found named fields"),
        (torch.nested.as_nested_tensor([torch.tensor(X)], layout=torch.jagged), "a nested one"),
        (torch.tensor(X).to_sparse(), "expected a dense tensor of a float type"),
        (torch.empty(3, D, device="meta"), "no data"),
        (sparse.csr_matrix(X), r"found csr_matrix: X.toarray\(\) is an array"),
        (pa.array([None], pa.list_(pa.float32()))[0], "a table of pyarrow, found null"),
        (pa.scalar(1.0), "expected an array or a table of pyarrow, found DoubleScalar"),
        (pd.DataFrame(np.ones((2, D), int)), "found int64: quantised"),
        (torch.nn.Linear(2, 2), "expected a tensor, found Linear"),
    ],
)
def test_refused(f: EmbedFilter, given: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^X: .*{message}"):
        f.transform(given)


@pytest.mark.parametrize(
    "labels",
    [
        ["a", None, "b"] * 10,
        [1.0, float("nan"), 2.0] * 10,
        pd.Series(["a", pd.NA, "b"] * 10),
        pd.Series(["a", None, "b"] * 10, dtype="string"),
        pd.Series(["a", None, "b"] * 10, dtype="category"),
        pa.array(["a", None, "b"] * 10),
    ],
)
def test_missing_labels(labels: Any) -> None:
    with pytest.raises(ValueError, match="labels: expected a label for each row, .* in row 1"):
        evaluate(np.random.default_rng(0).standard_normal((30, D)), labels=labels)


@pytest.mark.parametrize("path", ["x.npy", Path("x.npy")])
def test_a_path_is_no_array(path: object) -> None:
    with pytest.raises(TypeError, match=r"X: expected an array .*np.load reads a .npy file"):
        as_array(path, "X")
