"""What the benchmarks share: equal threads, the machine's limits, interleaved medians, JSON.

Import it before NumPy: it sets the number of threads that BLAS libraries read when they are
loaded, from ``BENCHMARK_THREADS`` (2 if it is not set).
"""

from __future__ import annotations

import os

N_THREADS = int(os.environ.get("BENCHMARK_THREADS", "2"))
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = str(N_THREADS)

import ctypes
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import embedfilter
from embedfilter import EmbedFilter

RESULTS = Path(__file__).parent / "results"
REST_SECONDS = 0.15  # OpenBLAS's threads spin for 2^28 cycles after a product, then sleep
WARM_SECONDS = 0.03
PACKAGES = ("numpy", "torch", "faiss-cpu", "scikit-learn", "scipy", "sentence-transformers")


def machine() -> dict[str, Any]:
    """Return what a figure depends on: processor, instruction set, threads, versions."""
    versions = {"python": platform.python_version(), "embedfilter": embedfilter.__version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "system": platform.platform(),
        "isa": embedfilter.get_isa(),
        "threads": N_THREADS,
        "versions": versions,
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


class Limits:
    """What the machine can do at most, measured by machine_limits.c, which is built for it.

    A measurement takes some 30 ms. On a virtual machine what others leave of the processors changes
    from second to second: give the methods to `interleaved`.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        library = Path(self._folder.name) / "machine_limits.so"
        source = Path(__file__).with_name("machine_limits.c")
        widest = ["-DAVX512"] if "avx512" in embedfilter.available_isas() else []
        command = ["cc", "-O2", "-shared", "-fPIC", "-pthread", *widest, source, "-o", library]
        subprocess.run(command, check=True)
        self._library = ctypes.CDLL(str(library))
        self._library.fma_rate.restype = self._library.read_rate.restype = ctypes.c_double

    def flops(self, n_threads: int = N_THREADS) -> float:
        """Return float32 operations a second, a fused multiply-add being two."""
        return self._positive(self._library.fma_rate(n_threads))

    def read(self, n_bytes: int, n_threads: int = N_THREADS) -> float:
        """Return bytes a second read from a buffer of this size, again and again."""
        return self._positive(self._library.read_rate(n_threads, ctypes.c_size_t(n_bytes)))

    @staticmethod
    def _positive(rate: float) -> float:
        if rate <= 0:
            raise RuntimeError("the machine's limit could not be measured: 1 to 64 threads")
        return rate


def interleaved(
    functions: dict[str, Callable[[], object]],
    *,
    repeats: int,
    seconds: float = 0.02,
    limits: dict[str, Callable[[], float]] | None = None,
) -> tuple[dict[str, float], dict[str, float]]:
    """Time functions in turn, round after round.

    Parameters
    ----------
    functions : dict of callables
    repeats : int
        Rounds. What disturbs the machine for a while disturbs all alike.
    seconds : float
        In each round a fast function is called often enough to take so long.
    limits : dict of callables, optional
        Methods of `Limits`, measured once in each round.

    Returns
    -------
    seconds : dict
        The median of each function.
    limits : dict
        The median of each limit.

    Before a function's turn comes a rest, in which the threads of the library whose turn it was
    stop spinning on the processors, and calls that are not timed: on a virtual machine a processor
    that sleeps takes up to 10 ms to wake for a second thread.
    """
    calls = {}
    for name, function in functions.items():
        function()  # warm
        start = time.perf_counter()
        function()
        calls[name] = max(1, int(seconds / max(time.perf_counter() - start, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in functions}
    rates: dict[str, list[float]] = {name: [] for name in limits or {}}
    for _ in range(repeats):
        time.sleep(REST_SECONDS)
        for name, limit in (limits or {}).items():
            rates[name].append(max(limit() for _ in range(3)))  # the first ones wake processors
        for name, function in functions.items():
            time.sleep(REST_SECONDS)
            end = time.perf_counter() + WARM_SECONDS
            while time.perf_counter() < end:
                function()
            start = time.perf_counter()
            for _ in range(calls[name]):
                function()
            times[name].append((time.perf_counter() - start) / calls[name])
    return _medians(times), _medians(rates)


def _medians(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(several) for name, several in values.items()}


def median_seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Return the median time of a function, after one call that is not timed."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def filter_of(d: int, k: int, rng: np.random.Generator) -> EmbedFilter:
    """Return a filter (k, d) with random directions: what it holds does not change its speed."""
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return EmbedFilter(Q[:k].astype(np.float32), np.arange(k), np.ones(d), kind="edge", metadata={})


def write(name: str, report: dict[str, Any]) -> Path:
    """Write a report as JSON into results/ and return its path; one thread's has its own."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{'-1-thread' if N_THREADS == 1 else ''}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)
    return path
