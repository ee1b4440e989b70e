"""The C module's own checks: each wrong argument has its exception, and short memory too."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import UNMEASURED

from embedfilter import _core

D, K = 30, 5
X = np.ones((40, D), np.float32)
OUT = np.empty((40, K), np.float32)
SQUARE = np.eye(D)
FIRST = np.arange(3)
STEPS = np.ones(K, np.float32)
BLOCKS = np.ones((20, 68), np.uint8)
FILTER = _core.PackedFilter(np.eye(K, D, dtype=np.float32))
SWAPPED = X.astype(X.dtype.newbyteorder())
UNALIGNED = np.frombuffer(b"\0" + X.tobytes(), np.float32, X.size, 1).reshape(X.shape)
READ_ONLY = np.zeros((D, D))
READ_ONLY.flags.writeable = False


def project(
    x: object = X,
    out: object = OUT,
    precision: str = "float32",
    starts: object = None,
    steps: object = None,
    n_threads: int = 1,
) -> None:
    FILTER.project(x, out, precision, True, starts, steps, n_threads)  # type: ignore[arg-type]


def finished_lens() -> _core.Lens:
    lens = _core.Lens(X, 2)
    lens.add(X, 1)
    lens.finish(np.empty((40, 2), np.int64), np.empty((40, 2), np.float32))
    return lens


def failed_lens() -> _core.Lens:
    lens = _core.Lens(X, 2)
    with pytest.raises(ValueError, match="NaN or infinity"):
        lens.add(np.full((3, D), np.nan), 1)
    return lens


I8 = np.empty((40, K), np.int8)
IDS, LOGITS = np.empty((40, 2), np.int64), np.empty((40, 2), np.float32)

REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: _core.set_isa(1), TypeError, "name: expected str, found int"),
    (lambda: _core.set_isa("scalar\0"), ValueError, "name: expected one of"),
    (lambda: _core.set_isa("\udc80"), UnicodeEncodeError, "surrogates"),
    (lambda: _core.Gram(), TypeError, "required argument 'd'"),
    (lambda: _core.Gram("3"), TypeError, "str"),
    (lambda: _core.Gram(0), ValueError, "too large"),
    (lambda: _core.Gram(-1), ValueError, "too large"),
    (lambda: _core.Gram(32767), ValueError, "too large"),
    (lambda: _core.Gram(D, np.eye(9, D, dtype=np.float32)), ValueError, "too large"),
    (lambda: _core.Gram(D, SQUARE), ValueError, "basis: expected a C-contiguous array"),
    (lambda: _core.Gram(D, X[:2, :7].copy()), ValueError, "basis: expected 30 columns, found 7"),
    (lambda: _core.Gram(D).add(), TypeError, "2 arguments"),
    (lambda: _core.Gram(D).add(X, 0), ValueError, "n_threads: expected at least 1, found 0"),
    (lambda: _core.Gram(D).add([1], 1), TypeError, "w: expected a 2-D array"),
    (lambda: _core.Gram(D).add(X[0], 1), TypeError, "w: expected a 2-D array"),
    (lambda: _core.Gram(D).add(X.astype(int), 1), TypeError, "w: expected float16, float32"),
    (lambda: _core.Gram(D).add(X[:, ::2], 1), ValueError, "w: the elements of a row"),
    (lambda: _core.Gram(D).add(SWAPPED, 1), ValueError, "native byte order"),
    (lambda: _core.Gram(D).add(UNALIGNED, 1), ValueError, "aligned"),
    (lambda: _core.Gram(D).add(X[:, :7], 1), ValueError, "w: expected 30 columns, found 7"),
    (lambda: _core.Gram(D).finish(SQUARE), TypeError, "2 arguments"),
    (lambda: _core.Gram(D).finish(SQUARE, 0), ValueError, "n_threads"),
    (lambda: _core.Gram(D).finish(X, 1), ValueError, "out: expected a writeable C-contiguous"),
    (lambda: _core.Gram(D).finish(READ_ONLY, 1), ValueError, "out: expected a writeable"),
    (lambda: _core.Gram(D).finish(SQUARE[:7].copy(), 1), ValueError, r"found \(7, 30\)"),
    (lambda: _core.Gram(D).finish(np.empty((D, 7)), 1), ValueError, r"found \(30, 7\)"),
    (lambda: _core.eigh(SQUARE), TypeError, "3 arguments"),
    (lambda: _core.eigh([1], FIRST, 1), TypeError, "matrix: expected an array, found list"),
    (lambda: _core.eigh(SQUARE, [1], 1), TypeError, "wanted: expected an array, found list"),
    (lambda: _core.eigh(SQUARE, FIRST[None], 1), ValueError, "wanted: expected a C-contiguous"),
    (lambda: _core.eigh(SQUARE, FIRST, 0), ValueError, "n_threads"),
    (lambda: _core.eigh(np.empty((3, 4)), FIRST, 1), ValueError, r"a square, found \(3, 4\)"),
    (lambda: _core.eigh(SQUARE, FIRST - 1, 1), ValueError, "wanted: expected from 0 to 29"),
    (lambda: _core.eigh(SQUARE, FIRST + D, 1), ValueError, "found 30"),
    (lambda: _core.eigh(np.full((D, D), np.inf), FIRST, 1), ValueError, "NaN or infinity"),
    (lambda: _core.PackedFilter(), TypeError, "required argument 'components'"),
    (lambda: _core.PackedFilter(X.T), ValueError, "components: expected a C-contiguous"),
    (lambda: _core.PackedFilter(X[:0]), ValueError, r"k, d >= 1, found \(0, 30\)"),
    (lambda: _core.PackedFilter(X[:, :0].copy()), ValueError, r"k, d >= 1, found \(40, 0\)"),
    (lambda: _core.PackedFilter(X, 1.0), TypeError, "mean: expected an array, found float"),
    (lambda: _core.PackedFilter(X, STEPS), ValueError, "mean: expected 30 values, found 5"),
    (lambda: FILTER.project(X), TypeError, "7 arguments"),
    (lambda: project(precision="int4"), ValueError, "precision: 'int4' is unknown"),
    (lambda: project(n_threads=-3), ValueError, "n_threads: expected at least 1, found -3"),
    (lambda: project([1]), TypeError, "x: expected a 2-D array"),
    (lambda: project(out=None), TypeError, "out: expected an array, found NoneType"),
    (lambda: project(out=I8), ValueError, "out: expected a writeable"),
    (lambda: project(X[:, :7]), ValueError, "x, out: expected"),
    (lambda: project(X[:7]), ValueError, "x, out: expected"),
    (lambda: project(out=LOGITS), ValueError, "x, out: expected"),
    (lambda: project(out=I8, precision="int8"), TypeError, "starts: expected an array"),
    (lambda: project(out=I8, precision="int8", starts=STEPS), TypeError, "steps: expected an"),
    (
        lambda: project(out=I8, precision="int8", starts=STEPS[:3], steps=STEPS),
        ValueError,
        "starts, steps: expected 5 values, found 3 and 5",
    ),
    (
        lambda: project(out=I8, precision="int8", starts=STEPS, steps=STEPS[:3]),
        ValueError,
        "starts, steps: expected 5 values, found 5 and 3",
    ),
    (lambda: _core.Lens(X), TypeError, "required argument 'k'"),
    (lambda: _core.Lens(X[:0], 1), ValueError, "x, k: expected n, d, k >= 1"),
    (lambda: _core.Lens(X[:, :0], 1), ValueError, "x, k: expected n, d, k >= 1"),
    (lambda: _core.Lens(X, 0), ValueError, "x, k: expected n, d, k >= 1"),
    (lambda: _core.Lens(X, 1 << 32), ValueError, "too large"),
    (lambda: _core.Lens(X, 1).add(X), TypeError, "2 arguments"),
    (lambda: _core.Lens(X, 1).add(X, 0), ValueError, "n_threads"),
    (lambda: _core.Lens(X, 1).add(1, 1), TypeError, "w: expected a 2-D array"),
    (lambda: _core.Lens(X, 1).add(X[:, :7], 1), ValueError, "w: expected 30 columns, found 7"),
    (lambda: _core.Lens(X, 2).finish(IDS), TypeError, "2 arguments"),
    (lambda: _core.Lens(X, 2).finish(LOGITS, LOGITS), ValueError, "ids: expected a writeable"),
    (lambda: _core.Lens(X, 2).finish(IDS, IDS), ValueError, "logits: expected a writeable"),
    (lambda: _core.Lens(X, 2).finish(IDS[:7], LOGITS), ValueError, r"expected \(40, 2\)"),
    (lambda: _core.Lens(X, 1).finish(IDS, LOGITS), ValueError, r"expected \(40, 1\)"),
    (lambda: _core.Lens(X, 2).finish(IDS, LOGITS[:7]), ValueError, r"expected \(40, 2\)"),
    (
        lambda: _core.Lens(X, 2).finish(IDS, np.empty((40, 1), np.float32)),
        ValueError,
        r"expected \(40, 2\)",
    ),
    (lambda: _core.Lens(X, 2).finish(IDS, LOGITS), ValueError, "at least 2 rows, found 0"),
    (lambda: finished_lens().add(X, 1), ValueError, "finished, or had an error"),
    (lambda: failed_lens().finish(IDS, LOGITS), ValueError, "finished, or had an error"),
    (lambda: _core.dequantize("Q8_0"), TypeError, "2 arguments"),
    (lambda: _core.dequantize("Q9_0", BLOCKS), ValueError, "dtype: 'Q9_0' is unknown"),
    (lambda: _core.dequantize("Q8_0", X), ValueError, "blocks: expected a C-contiguous"),
    (lambda: _core.dequantize("Q6_K", BLOCKS), ValueError, "whole Q6_K blocks of 210 bytes"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("kind", ["gram", "lens"])
def test_one_thread_at_a_time(kind: str) -> None:
    """A sum that another thread adds to is refused at once, and still right afterwards."""
    d, n = 600, 4000
    W = np.random.default_rng(1).standard_normal((n, d)).astype(np.float32)
    gram = kind == "gram"
    shared = _core.Gram(d, np.eye(2, d, dtype=np.float32)) if gram else _core.Lens(W[:200], 1)
    refused = threading.Event()
    n_added = 0

    def add() -> None:
        nonlocal n_added
        while not refused.is_set():
            try:
                shared.add(W, 1)
            except RuntimeError as error:
                assert "in use by another thread" in str(error)  # noqa: PT017 - in a thread
                refused.set()
            else:
                n_added += 1

    callers = [threading.Thread(target=add) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert refused.is_set()
    shared.add(W, 1)
    if isinstance(shared, _core.Gram):
        total = np.empty((d, d))
        shared.finish(total, 1)
        # What two callers add of one block may be there twice; no block is there in part.
        times = total[0, 0] / (W[:, 0].astype(float) ** 2).sum()
        assert times == pytest.approx(round(times), abs=1e-4)
        assert round(times) == n_added + 1


def test_python_s_own_memory_runs_short(tmp_path: Path) -> None:
    """Each allocation of the interpreter fails in turn: MemoryError, then the call works."""
    pytest.importorskip("_testcapi", reason="this Python has no test hooks")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("no_memory.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=UNMEASURED,
    )
    assert done.returncode == 0, done.stderr
    lines = {name: (int(n), rest) for name, n, rest in map(_parts, done.stdout.splitlines())}
    assert len(lines) == 10
    assert all(n > 0 for n, _ in lines.values()), lines
    refused = {name for name, (_, rest) in lines.items() if rest != "None"}
    assert refused == {"set_isa", "Gram.add", "project"}  # which are wrong calls to begin with


def _parts(line: str) -> tuple[str, str, str]:
    name, n, rest = line.split(" ", 2)
    return name, n, rest
