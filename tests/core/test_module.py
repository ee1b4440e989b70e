"""The C module itself: its stub, its documentation, its references, its environment variable."""

from __future__ import annotations

import ast
import contextlib
import gc
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import embedfilter
from embedfilter import _core

PUBLIC = [name for name in dir(_core) if not name.startswith("_")]


def stub() -> dict[str, ast.AST]:
    source = (Path(embedfilter.__file__).parent / "_core.pyi").read_text(encoding="utf-8")
    nodes = ast.parse(source).body
    names = {n.name: n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    return names | {n.target.id: n for n in nodes if isinstance(n, ast.AnnAssign)}


def test_the_stub_has_every_name() -> None:
    assert sorted(stub()) == sorted(PUBLIC)
    for name, node in stub().items():
        if isinstance(node, ast.ClassDef):
            methods = {n.name for n in node.body if isinstance(n, ast.FunctionDef)} - {"__new__"}
            assert methods == {m for m in vars(getattr(_core, name)) if not m.startswith("_")}


def test_everything_is_documented() -> None:
    for name in PUBLIC:
        thing = getattr(_core, name)
        assert thing.__doc__, name
        if isinstance(thing, type):
            assert all(m.__doc__ for n, m in vars(thing).items() if not n.startswith("_")), name


X = np.ones((40, 30), np.float32)
BAD = np.full((40, 30), np.nan, np.float32)
BLOCKS = np.ones((20, 68), np.uint8)
FILTER = _core.PackedFilter(np.eye(5, 30, dtype=np.float32))


def gram(rows: np.ndarray) -> None:
    total = _core.Gram(30, np.eye(2, 30, dtype=np.float32))
    total.add(rows, 1)
    total.finish(np.empty((30, 30)), 1)


def look(vectors: np.ndarray, rows: np.ndarray) -> None:
    lens = _core.Lens(vectors, 3)
    lens.add(rows, 1)
    lens.finish(np.empty((40, 3), np.int64), np.empty((40, 3), np.float32))


def project(rows: np.ndarray, precision: str, out: np.ndarray) -> None:
    FILTER.project(rows, out, precision, True, None, None, 1)


@pytest.mark.parametrize(
    "call",
    [
        _core.available_isas,
        _core.get_isa,
        lambda: _core.set_isa(_core.get_isa()),
        lambda: _core.set_isa("none"),
        lambda: _core.set_isa(None),
        lambda: gram(X),
        lambda: gram(BAD),
        lambda: _core.Gram(0),
        lambda: _core.Gram(30, X),
        lambda: _core.Gram(30).add(X[:, :7], 1),
        lambda: _core.Gram(30).add([1], 1),
        lambda: _core.Gram(30).finish(X, 1),
        lambda: _core.eigh(np.eye(30), np.arange(5), 1),
        lambda: _core.eigh(np.full((30, 30), np.inf), np.arange(30), 1),
        lambda: _core.eigh(X, np.arange(30), 1),
        lambda: _core.eigh(np.eye(30), np.arange(31), 1),
        lambda: look(X, X),
        lambda: look(X, BAD),
        lambda: look(BAD, X),
        lambda: look(X, X[:, :7]),
        lambda: look(X[:0], X),
        lambda: _core.Lens(X, 1).finish(X, X),
        lambda: _core.PackedFilter(X),
        lambda: _core.PackedFilter(X.T),
        lambda: _core.PackedFilter(X[:0]),
        lambda: _core.PackedFilter(X, X[0, :7].copy()),
        lambda: _core.PackedFilter(X, np.ones(40, np.float32)),
        lambda: _core.PackedFilter(X, [1.0]),
        lambda: project(X, "float32", np.empty((40, 5), np.float32)),
        lambda: project(BAD, "float32", np.empty((40, 5), np.float32)),
        lambda: project(X, "int8", np.empty((40, 5), np.int8)),
        lambda: project(X, "none", np.empty((40, 5), np.int8)),
        lambda: project(X, "float32", np.empty((40, 6), np.float32)),
        lambda: project(X, "float32", X),
        lambda: _core.dequantize("Q8_0", BLOCKS),
        lambda: _core.dequantize("Q6_K", BLOCKS),
        lambda: _core.dequantize("none", BLOCKS),
        lambda: _core.dequantize("Q8_0", X),
    ],
)
def test_repeating_a_call_does_not_grow_memory(call: Callable[[], object]) -> None:
    """Of each entry point, its errors included."""

    def quietly() -> None:
        with contextlib.suppress(TypeError, ValueError):
            call()

    for _ in range(20):
        quietly()
    references = sys.getrefcount(X), sys.getrefcount(FILTER)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(300):
            quietly()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 3000
    assert (sys.getrefcount(X), sys.getrefcount(FILTER)) == references


@pytest.mark.parametrize(
    ("name", "prints", "status"),
    [("scalar", "scalar", 0), ("", embedfilter.available_isas()[0], 0), ("mmx", "", 1)],
)
def test_environment_variable(tmp_path: Path, name: str, prints: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import embedfilter; print(embedfilter.get_isa())"],
        env=os.environ | {"EMBEDFILTER_ISA": name},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == status
    assert done.stdout.strip() == prints
    if status:
        assert "EMBEDFILTER_ISA: expected one of" in done.stderr
        assert "found 'mmx'" in done.stderr
