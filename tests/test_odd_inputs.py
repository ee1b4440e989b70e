"""Everything that takes embeddings, with what people hand over by accident.

It is taken for what it means, or refused in one line that names the argument: never a wrong
result, a warning alone, or an error from inside.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from command_line import failure, run
from numpy.typing import NDArray

from embedfilter import EmbedFilter, LogitLens, evaluate, plots
from embedfilter.evaluation.inputs import as_task
from embedfilter.integrations.sklearn import EmbedFilterTransformer

N, D = 24, 16
X: NDArray = np.random.default_rng(0).standard_normal((N, D)).astype("f4")
W: NDArray = np.random.default_rng(1).standard_normal((300, D)).astype("f4")
LISTS = X.tolist()
NAN, MASK = X.copy(), np.zeros((N, D), bool)
NAN[3, 2], MASK[3, 2] = np.nan, True
READ_ONLY = X.copy()
READ_ONLY.flags.writeable = False

mpl.use("Agg")


class OnlyArray:
    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray:
        return X


TAKEN: dict[str, Any] = {
    "lists": LISTS,
    "float64": X.astype("f8"),
    "big-endian": X.astype(">f4"),
    "read-only": READ_ONLY,
    "negative strides": np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "Fortran": np.asfortranarray(X),
    "array of arrays": pd.Series(list(X)).to_numpy(),
    "array of numbers": X.astype(object),
    "masked, nothing": np.ma.masked_array(X),
    "__array__": OnlyArray(),
    "tensor with gradients": torch.tensor(X, requires_grad=True),
    "tensor, negated": torch._neg_view(torch.tensor(-X)),
    "list of tensors": list(torch.tensor(X)),
    "pandas": pd.DataFrame(X, index=range(N, 0, -1)),
    "pandas, nullable": pd.DataFrame(X).astype("Float32"),
    "pandas, Arrow": pd.DataFrame(X).astype("float[pyarrow]"),
    "pandas, lists": pd.Series(LISTS, index=range(N, 0, -1)),
    "pandas, ids and lists": pd.DataFrame({"id": range(N), "e": list(X)}),
    "pandas, two indices": pd.DataFrame(X, columns=pd.MultiIndex.from_product([["e"], range(D)])),
    "polars": pl.DataFrame(X),
    "polars, lists": pl.Series(LISTS, dtype=pl.List(pl.Float32)),
    "polars, arrays": pl.Series(X, dtype=pl.Array(pl.Float32, D)),
    "polars, ids and arrays": pl.DataFrame({"id": range(N), "e": X}),
    "Arrow": pa.array(list(X)),
    "Arrow, a slice": pa.array([*X[:2], *X])[2:],
    "Arrow, chunks": pa.chunked_array([pa.array(list(X[:5])), pa.array(list(X[5:]))]),
    "Arrow, a dictionary": pa.DictionaryArray.from_arrays(range(N), pa.array(list(X))),
    "Arrow table": pa.table({"id": range(N), "e": list(X)}),
}
REFUSED: dict[str, Any] = {
    "int8": (X * 20).astype("i1"),
    "float8": X.astype(ml_dtypes.float8_e4m3fn),
    "complex": X.astype("c8"),
    "texts": X.astype(str),
    "texts of lists": [str(row) for row in LISTS],
    "times": np.zeros((3, D), "M8[s]"),
    "fields": np.zeros(3, [("a", "f4"), ("b", "f4")]),
    "huge integers": [[10**400] * D] * 3,
    "a number": np.float32(1),
    "narrow": X[:, :5],
    "NaN": NAN,
    "infinity": np.where(MASK, np.inf, X),
    "masked": np.ma.masked_array(X, MASK),
    "None": None,
    "a text": "x.npy",
    "bytes": b"x.npy",
    "a path": Path("x.npy"),
    "a dictionary": {"a": X},
    "a set": {1.0, 2.0},
    "sparse": scipy.sparse.csr_array(X),
    "ragged": [*LISTS[:4], LISTS[4][:-1]],
    "a function": len,
    "meta tensor": torch.empty(3, D, device="meta"),
    "sparse tensor": torch.tensor(X).to_sparse(),
    "complex tensor": torch.tensor(X, dtype=torch.complex64),
    "a module": torch.nn.Linear(2, 2),
    "pandas, missing": pd.DataFrame(NAN).convert_dtypes(),
    "pandas, None": pd.Series([*LISTS[:3], None]),
    "pandas, texts": pd.Series(["[1, 2]"]),
    "pandas, categories": pd.Series(pd.Categorical([1, 2])),
    "polars, null": pl.Series([LISTS[0], None]),
    "polars, lazy": pl.DataFrame(X).lazy(),
    "polars, texts": pl.Series(["a"]),
    "Arrow, null": pa.array([LISTS[0], None]),
    "Arrow, a dictionary with null": pa.DictionaryArray.from_arrays([0, None], pa.array(LISTS[:1])),
    "Arrow, texts": pa.array(["a"]),
    "Arrow, a map": pa.array([[("a", 1.0)]], pa.map_(pa.string(), pa.float32())),
    "Arrow, structures": pa.array([{"a": 1.0}]),
}
# Made anew for each call: what can be gone through once.
ONCE: dict[str, Callable[[], Any]] = {
    "a generator": lambda: (row for row in X),
    "an iterator": lambda: iter(LISTS),
    "a map": lambda: map(list, X),
}
F = EmbedFilter.from_matrix(W)
LENS = LogitLens(W, tokenizer=())
USES: dict[str, Callable[[Any], Any]] = {
    "transform": F.transform,
    "calibrate": lambda X: F.calibrate(X).components,
    "statistics": lambda X: F.calibrate(F.statistics().add(X)).components,
    "scikit-learn": lambda X: EmbedFilterTransformer(F).fit(X).transform(X),
    "calibrated in scikit-learn": lambda X: (
        EmbedFilterTransformer(F, calibrate=True).fit(X).transform(X)
    ),
    "top tokens": lambda X: LENS.top_tokens(X, 2).ids,
    "spectroscopy": lambda X: LENS.spectroscopy(X, bands=3).energy,
}


def _quick(form: str) -> Any:
    return ONCE[form]() if form in ONCE else REFUSED[form]


@pytest.mark.parametrize("form", TAKEN)
def test_what_is_taken_is_taken_everywhere(form: str) -> None:
    for name, use in USES.items():
        np.testing.assert_array_equal(use(TAKEN[form]), use(X), err_msg=name)


@pytest.mark.parametrize("form", [*REFUSED, *ONCE])
def test_what_is_refused_is_refused_everywhere(form: str) -> None:
    uses = USES | {
        "evaluate": lambda X: evaluate(X, F, labels=[0, 1] * (N // 2)),
    }
    if form != "None":
        uses["queries"] = lambda Q: evaluate(X, F, queries=Q, qrels=[(0, 0)])
    if form != "narrow":
        uses["similarities"] = plots.similarities
    for name, use in uses.items():
        with pytest.raises((TypeError, ValueError)) as raised:
            use(_quick(form))
        if "scikit-learn" not in name:  # which has its own messages
            message = str(raised.value)
            assert re.match(r"(X|X_sample|queries): ", message), (name, message)
            assert "expected" in message, (name, message)
            assert "\n" not in message, (name, message)


# ---- Labels, scores, judgements -----------------------------------------------------------------

TWO = [i % 2 for i in range(N)]
WORDS = [f"label {i}" for i in TWO]


def _judge(**given: Any) -> Any:
    """Return the task that `evaluate` would score."""
    usual = dict.fromkeys(("pairs", "scores", "labels", "queries", "qrels"))
    return as_task(X, **{**usual, **given}, k=3)


@pytest.mark.parametrize(
    "labels",
    [
        tuple(WORDS),
        np.array(WORDS, object),
        pd.Series(WORDS, index=range(N, 0, -1)),
        pd.Series(WORDS, dtype="category"),
        pd.Series(TWO, dtype="Int64"),
        pl.Series(WORDS, dtype=pl.Categorical),
        pa.array(WORDS).dictionary_encode(),
        pa.chunked_array([pa.array(WORDS)]),
        torch.tensor(TWO),
        torch.tensor(TWO, dtype=torch.bfloat16),
        np.ma.masked_array(TWO),
    ],
    ids=lambda labels: f"{type(labels).__module__} {getattr(labels, 'dtype', '')}",
)
def test_labels_are_what_they_are_in_lists(labels: Any) -> None:
    np.testing.assert_array_equal(_judge(labels=labels).labels, TWO)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(("labels", x) for x in ("ab" * (N // 2), 5, set(WORDS), dict(enumerate(WORDS)))),
        ("labels", (word for word in WORDS)),
        ("labels", np.array(TWO)[:, None]),
        ("labels", [[1], [2, 3]] * (N // 2)),
        ("labels", np.ma.masked_array(TWO, np.arange(N) == 3)),
        ("labels", np.array(["2020", "NaT"] * (N // 2), "M8[Y]")),
        ("labels", [*WORDS[:-1], None]),
        ("scores", np.ma.masked_array(TWO[: N // 2], np.arange(N // 2) == 3)),
        ("scores", np.arange(N // 2).astype("M8[D]")),
        ("scores", [10**400] * (N // 2)),
        ("scores", [*range(N // 2 - 1), None]),
        ("scores", (i for i in range(N // 2))),
        ("scores", ["a"] * (N // 2)),
        ("scores", [1j] * (N // 2)),
        ("qrels", np.ma.masked_array([[0, 1]], [[True, False]])),
        ("qrels", zip([0], [1], strict=True)),
        ("qrels", {0: {1: 1}}),
        ("qrels", [(-1, 0)]),
        ("qrels", [(2**70, 0)]),
        ("qrels", [(0.5, 0)]),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_judgements_that_are_none(name: str, values: Any) -> None:
    given = {name: values} | ({"queries": X[:3]} if name == "qrels" else {})
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected") as raised:
        _judge(**given)
    assert "\n" not in str(raised.value)


def test_scores_of_a_tensor_with_gradients() -> None:
    scores = torch.arange(N / 2, requires_grad=True)
    np.testing.assert_array_equal(_judge(scores=scores).scores, np.arange(N // 2))


# ---- Files --------------------------------------------------------------------------------------

GARBAGE = np.random.default_rng(2).bytes(600)
FILES: dict[str, bytes] = {
    "empty.npy": b"",
    "empty.jsonl": b"",
    "empty.csv": b"",
    "empty.parquet": b"",
    "empty": b"",
    "lines.jsonl": b"\n\n\n",
    "header.csv": b"a,b\n",
    "text": b"hello\nworld\n",
    "garbage": GARBAGE,
    "garbage.npy": GARBAGE,
    "garbage.parquet": b"PAR1" + GARBAGE + b"PAR1",
    "garbage.arrow": b"ARROW1\0\0" + GARBAGE,
    "stream.arrow": b"\xff\xff\xff\xff" + GARBAGE,
    "negative.arrow": b"\xff\xff\xff\xff" + b"\xff" * 9,
    "garbage.jsonl.gz": b"\x1f\x8b\x08" + GARBAGE,
    "garbage.zst": b"\x28\xb5\x2f\xfd" + GARBAGE,
    "garbage.npz": b"PK\x03\x04" + GARBAGE,
    "garbage.pt": b"PK\x03\x04" + GARBAGE,
    "pickle.pt": b"\x80\x02.",
    "cut.jsonl": b'{"a": [1,2\n',
    "list.jsonl": b"[1,2]\n[3,4]\n",
    "number.jsonl": b"5\n",
    "whole.json": b"[[1.0,\n2.0]]",
    "deep.jsonl": b"[" * 100_000,
    "digits.jsonl": b'{"e": [' + b"1" * 5000 + b", 1.0]}\n",
    "latin1.csv": b"\xe9,1\n",
    "utf16.csv": "a,b\n1,2\n".encode("utf-16"),
    "twice.csv": b"a,a\n1,2\n",
    "quote.csv": b'a,"b\n1,2\n',
    "long.safetensors": (1 << 60).to_bytes(8, "little") + b"{",
    "nothing.safetensors": (2).to_bytes(8, "little") + b"{}",
    "garbage.gguf": b"GGUF" + GARBAGE,
    "picture.png": b"\x89PNG\r\n\x1a\n" + GARBAGE,
    "形, with spaces é.csv": b"a,b\nc,d\n",
}


@pytest.mark.parametrize("name", [*FILES, "missing", "no/folder", "folder", "n" * 300])
def test_files_that_are_none_of_it(name: str, tmp_path: Path) -> None:
    """One line that names the file, from each command that reads it, and nothing is written."""
    path, out = tmp_path / name, tmp_path / "out.npy"
    if name in FILES:
        path.write_bytes(FILES[name])
    if name == "folder":
        path.mkdir()
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "W.npy", W)
    F.save(tmp_path / "f.safetensors")
    x, w, f = (tmp_path / name for name in ("X.npy", "W.npy", "f.safetensors"))
    there = sorted(tmp_path.iterdir())
    for arguments in (
        ("apply", f, path, out),
        ("apply", path, x, out),
        ("apply", f, x, out, "--precision", "int8", "--ranges", path),
        ("calibrate", f, path, "-o", tmp_path / "c.safetensors"),
        ("calibrate", path, x, "-o", tmp_path / "c.safetensors"),
        ("fit", path, "-o", tmp_path / "c.safetensors"),
        ("inspect", path),
        ("lens", w, path),
        ("lens", path, x),
        ("lens", w, x, "--filter", path),
        ("evaluate", path, "--filter", f),
        ("evaluate", x, "--filter", path),
        ("evaluate", x, "--queries", path, "--qrels", path),
        ("plot", "similarities", path, "-o", tmp_path / "p.png"),
    ):
        line = failure(*arguments)
        assert f"{path}" in line or path.name in line, line
        assert len(line) < 700 + 2 * len(str(path)), line
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.long
def test_an_array_in_place_of_texts_or_labels(tmp_path: Path) -> None:
    x, w = tmp_path / "x.npz", tmp_path / "W.npy"
    np.savez(x, X)
    np.save(w, W)
    for arguments, column in (
        (("encode", w, x, "-o", tmp_path / "o.npy"), "text"),
        (("encode", w, x, "-o", tmp_path / "o.npy", "--column", "a"), "a"),
        (("evaluate", x, "--labels", x), "label"),
    ):
        told = f"{x}: expected a line for each item, or a table with a column '{column}', found an"
        assert told in failure(*arguments)


def test_a_damaged_model_beside_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + GARBAGE)
    (tmp_path / "x.txt").write_bytes(b"hello")
    np.save(tmp_path / "x.npy", X)
    assert "x.txt: not a checkpoint" in failure("lens", tmp_path / "x.txt", tmp_path / "x.npy")


def test_a_path_that_is_empty(tmp_path: Path) -> None:
    """As an unset variable of the shell gives it: pathlib's would be the folder one is in."""
    F.save(tmp_path / "f.safetensors")
    for arguments in (
        ("apply", tmp_path / "f.safetensors", "", tmp_path / "o.npy"),
        ("apply", "", "x.npy", tmp_path / "o.npy"),
        ("apply", tmp_path / "f.safetensors", "x.npy", ""),
        ("fit", "", "-o", tmp_path / "f.safetensors"),
        ("fit", "x", "-o", ""),
        ("evaluate", "", "--filter", tmp_path / "f.safetensors"),
        ("lens", "", ""),
    ):
        done = run(*arguments, status=2)
        assert "expected a path, found an empty one" in done.stderr


def test_paths_of_each_kind(tmp_path: Path) -> None:
    """Text, pathlib's, and what the system's own functions take."""

    class Given(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(tmp_path / "形 ü.safetensors")

    for path in (Given(), Path(Given()), str(Path(Given()))):
        F.save(path)
        assert EmbedFilter.load(path) == F
        assert EmbedFilterTransformer(path).fit(X).filter_ == F
