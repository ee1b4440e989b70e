"""Long and large runs, one by name: ``python tests/endurance/endurance.py NAME [SIZE]``.

They are made by hand and their figures stand in docs/robustness.md; test_endurance.py here runs
each of them small. Callers in many threads for minutes are tests/core/threads_test.c.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import embedfilter
from embedfilter import EmbedFilter

# Prints the most memory that the command had, in KiB, where the system tells it.
COMMAND = """
import re, sys
from pathlib import Path
from embedfilter.commands.main import main
main(sys.argv[1:], standalone_mode=False)
status = Path("/proc/self/status")
print(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1] if status.exists() else 0)
"""


def out_of_core(n_rows: int = 20_000_000) -> str:
    """Apply a filter to a file of 128 float16 a row, and look at rows of the result."""
    rng = np.random.default_rng(1)
    f = EmbedFilter.from_matrix(rng.standard_normal((500, 128)), ratio=2)
    block = rng.standard_normal((100_003, 128)).astype(np.float16)
    expected = f.transform(block, precision="float16")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        f.save(folder / "f.safetensors")
        X = np.lib.format.open_memmap(
            folder / "x.npy", mode="w+", dtype=np.float16, shape=(n_rows, 128)
        )
        for start in range(0, n_rows, len(block)):
            X[start : start + len(block)] = block[: n_rows - start]
        del X
        start_time = time.perf_counter()
        arguments = ["apply", "f.safetensors", "x.npy", "y.npy", "--precision", "float16"]
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start_time
        Y = np.load(folder / "y.npy", mmap_mode="r")
        assert Y.shape == (n_rows, 64)
        for start in range(0, n_rows, len(block)):
            part = Y[start : start + len(block)]
            assert np.array_equal(part, expected[: len(part)]), start
    peak = int(done.stdout.split()[-1]) // 1000
    return f"{n_rows} rows of 128 float16 in {seconds:.1f} s, {peak} MB of memory at most"


def many_elements(n_elements: int = (1 << 31) + 640_000) -> str:
    """Transform an array of more elements than an int counts."""
    rng = np.random.default_rng(2)
    f = EmbedFilter.from_matrix(rng.standard_normal((300, 64)), n_components=8)
    block = rng.standard_normal((10_007, 64)).astype(np.float16)
    n = n_elements // 64
    X = np.empty((n, 64), np.float16)
    for start in range(0, n, len(block)):
        X[start : start + len(block)] = block[: n - start]
    Y, expected = f.transform(X), f.transform(block)
    for start in range(0, n, len(block)):
        part = Y[start : start + len(block)]
        assert np.array_equal(part, expected[: len(part)]), start
    X[-1, -1] = np.nan
    with pytest.raises(ValueError, match=str(n - 1)):
        f.transform(X)
    return f"{X.size} elements: every row as in a small batch, NaN in the last one found"


def wide(d: int = 16384) -> str:
    """Transform and fit with wide rows."""
    rng = np.random.default_rng(3)
    W = rng.standard_normal((d + 100, d), dtype=np.float32)
    start = time.perf_counter()
    f = EmbedFilter.from_matrix(W, n_components=32)
    seconds = time.perf_counter() - start
    X = W[:50]
    expected = X.astype(np.float64) @ f.components.astype(np.float64).T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(f.transform(X) - expected).max() < 1e-4
    gram = f.components.astype(np.float64) @ f.components.astype(np.float64).T
    assert np.abs(gram - np.eye(32)).max() < 1e-5
    # The components are singular directions: |W v| is the singular value.
    lengths = np.linalg.norm(W @ f.components[:4].T, axis=0)
    assert np.allclose(lengths, f.singular_values[f.component_indices[:4]], rtol=1e-3)
    return f"{d + 100} x {d} fitted in {seconds:.1f} s"


def tall(n_rows: int = 300_000) -> str:
    """Fit to a head of many rows."""
    rng = np.random.default_rng(4)
    W = rng.standard_normal((n_rows, 256), dtype=np.float32) * np.linspace(1, 3, 256, dtype="f4")
    start = time.perf_counter()
    f = EmbedFilter.from_matrix(W)
    seconds = time.perf_counter() - start
    expected = np.sqrt(np.linalg.eigvalsh(W.T.astype(np.float64) @ W)[::-1])
    assert np.allclose(f.singular_values, expected, rtol=1e-6)
    return f"{n_rows} x 256 fitted in {seconds:.2f} s, singular values within 1e-6"


UNPICKLE = """
import pickle, sys
import numpy as np
f = pickle.load(open(sys.argv[1], "rb"))
X = np.load(sys.argv[2])
sys.exit(not np.array_equal(f.transform(X), np.load(sys.argv[3])))
"""


def unpickled(n_processes: int = 1000) -> str:
    """Unpickle a filter in one process after another, each of which uses it."""
    rng = np.random.default_rng(5)
    f = EmbedFilter.from_matrix(rng.standard_normal((900, 256)))
    X = rng.standard_normal((200, 256)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "f.pickle").write_bytes(pickle.dumps(f))
        np.save(folder / "x.npy", X)
        np.save(folder / "y.npy", f.transform(X))
        command = [sys.executable, "-c", UNPICKLE, "f.pickle", "x.npy", "y.npy"]
        for number in range(n_processes):
            done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
            assert done.returncode == 0, (number, done)
            assert done.stderr == "", (number, done)
    return f"{n_processes} processes, each result to the bit"


SHUTDOWN = """
import sys, threading, time
import numpy as np
from embedfilter import EmbedFilter
rng = np.random.default_rng(6)
W = rng.standard_normal((3000, 300))
f = EmbedFilter.from_matrix(W)
X = rng.standard_normal((20000, 300)).astype(np.float32)
started = threading.Barrier(5)
def work(call):
    call()
    started.wait()
    while True:
        call()
calls = [lambda: f.transform(X), lambda: f.transform(X[:3]), lambda: EmbedFilter.from_matrix(W)]
for call in [*calls, calls[0]]:
    threading.Thread(target=work, args=(call,), daemon=True).start()
started.wait()
time.sleep(float(sys.argv[1]))
"""


def shutdown(n_processes: int = 100) -> str:
    """End the interpreter while threads are inside the C core."""
    for number in range(n_processes):
        command = [sys.executable, "-c", SHUTDOWN, str(number % 10 * 0.004)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, (number, done)
        assert done.stderr == "", (number, done)
    return f"{n_processes} interpreters ended in the middle of calls, none crashed or hung"


FORKS = """
import os, signal, sys, threading, time
import numpy as np
from embedfilter import EmbedFilter
rng = np.random.default_rng(7)
W = rng.standard_normal((2000, 400)).astype(np.float32)
f = EmbedFilter.from_matrix(W)
X = rng.standard_normal((3000, 400)).astype(np.float32)
expected = f.transform(X)
wrong, counts = [], [0, 0, 0]
end = time.monotonic() + float(sys.argv[1])
def work(kind):
    while time.monotonic() < end:
        if kind == 0:
            same = np.array_equal(f.transform(X, n_threads=2), expected)
        elif kind == 1:
            same = np.array_equal(f.transform(X[:5], n_threads=2), expected[:5])
        else:
            same = np.array_equal(EmbedFilter.from_matrix(W).components, f.components)
        counts[kind] += 1
        if not same:
            wrong.append(kind)
threads = [threading.Thread(target=work, args=(kind,)) for kind in (0, 1, 2, 2)]
for thread in threads:
    thread.start()
n_forks, longest = 0, 0.0
while time.monotonic() < end:
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        signal.alarm(120)  # a child that hangs is killed and found out
        same = np.array_equal(f.transform(X, n_threads=2), expected)
        if n_forks % 4 == 0:
            same &= np.array_equal(EmbedFilter.from_matrix(W).components, f.components)
        os._exit(0 if same else 1)
    longest = max(longest, time.perf_counter() - start)
    status = os.waitpid(child, 0)[1]
    if status:
        wrong.append(f"child: {status}")
    n_forks += 1
    time.sleep(0.01)
for thread in threads:
    thread.join()
print(n_forks, *counts, f"{longest:.2f}", wrong)
"""


def forks(seconds: int = 600) -> str:
    """Fork while threads transform and fit; each child does too."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS, str(seconds)],
        check=False, capture_output=True, text=True, timeout=seconds + 600,
    )  # fmt: skip
    assert done.returncode == 0, done
    n_forks, many, few, fits, longest, wrong = done.stdout.split(maxsplit=5)
    assert wrong.strip() == "[]", wrong
    return (
        f"{n_forks} forks in {seconds} s, the longest {longest} s, during {many} transforms of"
        f" many rows, {few} of few and {fits} fits, none wrong, none hung"
    )


RUNS = {
    run.__name__: run
    for run in (out_of_core, many_elements, wide, tall, unpickled, shutdown, forks)
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in RUNS:
        sys.exit(f"expected one of {', '.join(RUNS)}")
    sizes = [int(size) for size in sys.argv[2:]]
    print(f"{sys.argv[1]}: {RUNS[sys.argv[1]](*sizes)} ({embedfilter.get_isa()})")
