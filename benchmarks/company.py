"""Filtering as a user meets it: in one process, right after a product of another library.

``python benchmarks/company.py [--short]``

After each product of torch or NumPy, of two matrices 512 x 512, one call is timed; `alone`, a call
right after another of the same kind. Each case has a process of its own, which no other library's
threads disturb: torch's and OpenBLAS's spin on the processors for a while after a product, and
whoever comes then must share them. The float32 rows are projected on the components and scaled to
unit length with one thread of ours, with all of them, by torch and by NumPy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from measure import N_THREADS, filter_of, machine, write

import numpy as np

ROWS = (1, 8, 64, 1024)
COMPANY = ("alone", "torch", "numpy")
SIZES = {768: 384, 1024: 512}  # d: k
OURS = "embedfilter, 1 thread", f"embedfilter, {N_THREADS} threads"
WARM_SECONDS = 0.3


def predecessor(name: str) -> Callable[[], object]:
    """Return what runs before each call that is timed."""
    A = np.random.default_rng(1).standard_normal((512, 512), np.float32)
    if name == "torch":
        import torch

        torch.set_num_threads(N_THREADS)
        tensor = torch.from_numpy(A)
        return lambda: torch.mm(tensor, tensor)
    return lambda: A @ A


def functions(n: int, d: int, company: str) -> dict[str, Callable[[], object]]:
    """Return what is timed in company: ours, and the library that has just been at work."""
    rng = np.random.default_rng(0)
    f = filter_of(d, SIZES[d], rng)
    X = rng.standard_normal((n, d), np.float32)
    result: dict[str, Callable[[], object]] = {
        OURS[0]: lambda: f.transform(X, n_threads=1),
        OURS[1]: lambda: f.transform(X, n_threads=N_THREADS),
    }
    if company != "numpy":
        import torch

        torch.set_num_threads(N_THREADS)
        tensor, weights = torch.from_numpy(X), torch.from_numpy(f.components.T.copy())
        result["torch"] = lambda: torch.nn.functional.normalize(tensor @ weights).numpy()
    if company != "torch":
        CT = np.ascontiguousarray(f.components.T)

        def numpy() -> np.ndarray:
            Y = X @ CT
            Y /= np.linalg.norm(Y, axis=1, keepdims=True)
            return Y

        result["numpy"] = numpy
    return result


def times_of(company: str, n: int, d: int, repeats: int) -> dict[str, float]:
    """Return the median seconds of each function in this company, round after round."""
    before = None if company == "alone" else predecessor(company)
    timed = functions(n, d, company)
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(5):
        for name, function in timed.items():
            if before is None:  # no other library's threads spin any more, and ours are awake
                time.sleep(WARM_SECONDS / 2)
                end = time.perf_counter() + WARM_SECONDS / 10
                while time.perf_counter() < end:
                    function()
            for _ in range(repeats // 5):
                if before is not None:
                    before()
                start = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Run each case in a process of its own and write results/company.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="fewer sizes and repeats")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    repeats = 100 if options.short else 400
    if options.case is not None:
        company, n, d = options.case[0], int(options.case[1]), int(options.case[2])
        print(json.dumps(times_of(company, n, d, repeats)))
        return
    rows = []
    for d in list(SIZES)[:1] if options.short else SIZES:
        for company in COMPANY:
            for n in ROWS:
                command = [sys.executable, __file__, "--case", company, str(n), str(d)]
                if options.short:
                    command.append("--short")
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                seconds = json.loads(done.stdout)
                rows.append({"company": company, "n": n, "d": d, "k": SIZES[d], "seconds": seconds})
                print(
                    f"{company:6} {d:5} -> {SIZES[d]:4} n {n:5}:",
                    ", ".join(f"{name} {s * 1e6:.0f}" for name, s in seconds.items()),
                    f"us; {seconds[OURS[1]] / seconds[OURS[0]]:.2f} of one thread's",
                    flush=True,
                )
    write("company-short" if options.short else "company", {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
