"""Threads: how many, several callers at once, fork."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from children import transforms_alike

from embedfilter import EmbedFilter, _core, threads
from embedfilter.threads import available_cpus, resolve_n_threads


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("EMBEDFILTER_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    threads._from_environment.cache_clear()
    yield
    threads._from_environment.cache_clear()


@pytest.fixture
def many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cpus", lambda: 8)


@pytest.mark.usefixtures("no_variables", "many_cpus")
@pytest.mark.parametrize(
    ("variables", "n"),
    [
        ({}, 8),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "3,2"}, 3),
        ({"OMP_NUM_THREADS": "64"}, 8),
        ({"OMP_NUM_THREADS": "0"}, 8),
        ({"OMP_NUM_THREADS": "many"}, 8),
        ({"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "3", "EMBEDFILTER_NUM_THREADS": "5"}, 5),
    ],
)
def test_default(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], n: int) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert resolve_n_threads(None) == n


@pytest.mark.usefixtures("no_variables")
def test_default_follows_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (2, 1, 4):
        monkeypatch.setattr(threads, "available_cpus", lambda n=n: n)
        assert resolve_n_threads(None) == n


@pytest.mark.usefixtures("many_cpus")
def test_asked_for() -> None:
    assert resolve_n_threads(1) == 1
    assert resolve_n_threads(3) == 3
    assert resolve_n_threads(1000) == 8


@pytest.mark.parametrize("n", [0, -1])
def test_too_few(n: int) -> None:
    with pytest.raises(ValueError, match=f"n_threads: expected at least 1, found {n}"):
        resolve_n_threads(n)


@pytest.mark.parametrize("n", [True, 1.5, "2"])
def test_not_a_number(n: object) -> None:
    with pytest.raises(TypeError, match="n_threads: expected an int or None"):
        resolve_n_threads(n)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_affinity_counts() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    threads._allowed.cache_clear()
    elsewhere = []
    try:
        assert available_cpus() == 1
        thread = threading.Thread(
            target=lambda: elsewhere.append((os.sched_setaffinity(0, before), available_cpus())[1])
        )
        thread.start()
        thread.join()
    finally:
        os.sched_setaffinity(0, before)
        threads._allowed.cache_clear()
    quota = threads._cgroup_quota(0)
    assert elsewhere == [min(len(before), quota)]


def test_affinity_and_quota_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(threads.time, "monotonic", lambda: now)
    monkeypatch.setattr(threads, "_quota", lambda *_: 1)
    threads._cgroup_quota.cache_clear()
    try:
        before = available_cpus()
        monkeypatch.setattr(threads, "_quota", lambda *_: 1 << 30)
        assert available_cpus() == before
        now += 60.0
        assert available_cpus() == len(os.sched_getaffinity(0))
    finally:
        threads._cgroup_quota.cache_clear()


def test_cgroup_quota(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert threads._quota(tmp_path / "cpu.max", None) == 2
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert threads._quota(tmp_path / "cpu.max", None) > 1 << 20
    (tmp_path / "quota").write_text("-1\n")
    (tmp_path / "period").write_text("100000\n")
    assert threads._quota(tmp_path / "quota", tmp_path / "period") > 1 << 20
    assert threads._quota(tmp_path / "missing", None) > 1 << 20


@pytest.fixture(scope="module")
def work() -> tuple[EmbedFilter, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    f = EmbedFilter.from_matrix(rng.standard_normal((600, 200)))
    X = rng.standard_normal((3000, 200)).astype(np.float32)
    return f, X, f.transform(X, n_threads=1)


def test_many_callers_at_once(work: tuple) -> None:
    f, X, expected = work
    wrong = []

    def call() -> None:
        for _ in range(20):
            if not np.array_equal(f.transform(X, n_threads=2), expected):
                wrong.append(threading.get_ident())

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_any_number_of_tasks(work: tuple) -> None:
    """Whatever the threads' shares leave over is done too."""
    f, X, expected = work
    for n in range(100, 3000, 61):
        assert np.array_equal(f.transform(X[:n], n_threads=2), expected[:n]), n


@pytest.mark.parametrize("call", ["transform", "clearing of large memory"])
def test_other_python_threads_run_meanwhile(work: tuple, call: str) -> None:
    """The interpreter is released: a Python thread makes progress inside one long call."""
    f, X, _ = work
    X = np.tile(X, (40, 1))
    times: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            times.append(time.perf_counter())
            time.sleep(0)

    def ticks_in_the_middle() -> bool:
        times.clear()
        start = time.perf_counter()
        if call == "transform":
            f.transform(X, n_threads=1)
        else:
            _core.Gram(6000)
        end = time.perf_counter()
        return any(start + (end - start) / 4 < t < end - (end - start) / 4 for t in times)

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        # Held for the whole call, the interpreter would let the other thread run before and
        # after it only. A busy machine may not let it run in one call, but does in one of many.
        assert any(ticks_in_the_middle() for _ in range(50))
    finally:
        stop.set()
        ticker.join()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes(work: tuple, method: str) -> None:
    f, X, expected = work
    f.transform(X, n_threads=2)  # the pool's threads exist here and not in the child
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = pool.map_async(transforms_alike, [(f, X, expected)] * 4, chunksize=1)
        assert results.get(240) == [True] * 4  # children that cannot start are started for ever
    assert np.array_equal(f.transform(X, n_threads=2), expected)


FORKS = """
import os
import numpy as np
from embedfilter import EmbedFilter

f = EmbedFilter(np.eye(64, dtype=np.float32)[:32], np.arange(32), np.ones(64), kind="edge",
                metadata={})
X = np.ones((3000, 64), np.float32)
f.transform(X, n_threads=2)
child = os.fork()
if child == 0:
    before = len(os.listdir("/proc/self/task"))
    f.transform(X, n_threads=2)
    os._exit(len(os.listdir("/proc/self/task")) - before)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads cannot be counted")
@pytest.mark.skipif(threads.available_cpus() < 2, reason="one thread is all there is")
def test_a_child_starts_threads_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("meanwhile", ["transforms", "fits"])
def test_fork_while_another_thread(work: tuple, meanwhile: str) -> None:
    f, X, expected = work
    stop = threading.Event()
    W = X[:600].astype(np.float64)

    def keep_busy() -> None:
        while not stop.is_set():
            if meanwhile == "transforms":
                f.transform(X, n_threads=2)
            else:
                EmbedFilter.from_matrix(W, n_threads=2)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                signal.alarm(240)  # a child that hangs is killed and found out
                same = np.array_equal(f.transform(X, n_threads=2), expected)
                same = same and np.isfinite(_core.eigh(np.eye(50), np.arange(50), 2)[1]).all()
                os._exit(0 if same else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        busy.join()


FORKS_DURING_A_FIT = """
import os, signal, threading, time
import numpy as np
from embedfilter import EmbedFilter

signal.alarm(240)  # found out if it hangs
W = np.random.default_rng(0).standard_normal((1500, 1200)).astype(np.float32)
fit = threading.Thread(target=lambda: EmbedFilter.from_matrix(W, n_threads=2))
fit.start()
while fit.is_alive():
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    time.sleep(0.03)
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fit_ends_while_its_process_forks(tmp_path: Path) -> None:
    """In OpenBLAS, whose threads a fork stops, it would wait for ever."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS_DURING_A_FIT],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "done\n"


WORKERS_AFFINITY = """
import os, time
import numpy as np
from embedfilter import _core

before = set(os.listdir("/proc/self/task"))
packed = _core.PackedFilter(np.eye(64, dtype=np.float32))
out = np.empty((3000, 64), np.float32)
project = lambda: packed.project(
    np.ones((3000, 64), np.float32), out, "float32", False, None, None, 2
)
project()
[worker] = set(os.listdir("/proc/self/task")) - before
everywhere = os.sched_getaffinity(0)
for cpus in ({min(everywhere)}, everywhere):
    os.sched_setaffinity(0, cpus)
    # A thread that is not called, as it was of no use, has no need to know. It has all
    # processors but that of its caller, if there are others.
    while len(os.sched_getaffinity(int(worker)) & cpus) < max(1, len(cpus) - 1) or (
        os.sched_getaffinity(int(worker)) - cpus
    ):
        project()
        time.sleep(0.002)
    print("followed")
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no affinity")
def test_workers_follow_the_affinity(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORKERS_AFFINITY],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "followed\nfollowed\n"


WORKERS = """
import os
from pathlib import Path
import numpy as np
from embedfilter import _core

before = set(os.listdir("/proc/self/task"))
packed = _core.PackedFilter(np.eye(64, dtype=np.float32))
out = np.empty((3000, 64), np.float32)
packed.project(np.ones((3000, 64), np.float32), out, "float32", False, None, None, 2)
[worker] = set(os.listdir("/proc/self/task")) - before
status = dict(line.split(":\\t", 1) for line in Path(f"/proc/self/task/{worker}/status").open())
print(int(status["SigBlk"], 16) & (1 << 9 | 1 << 11 | 1 << 14) == 1 << 9 | 1 << 11 | 1 << 14)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads cannot be looked at")
def test_workers_block_signals(tmp_path: Path) -> None:
    """SIGUSR1, SIGUSR2 and SIGTERM: a process may block them in its threads and wait for them."""
    done = subprocess.run(
        [sys.executable, "-c", WORKERS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"
