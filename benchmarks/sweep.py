"""How the cost grows with each size: ``python benchmarks/sweep.py``.

The power p of the best fit seconds = c size^p is written beside the one that is expected: 1 for
the rows of the vocabulary and of embeddings, 2 for the hidden size. The eigenvectors, which take
the hidden size's third power, have a sweep of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from measure import N_THREADS, filter_of, machine, median_seconds, write

import numpy as np

from embedfilter import _core


def gram(V: int, d: int, rng: np.random.Generator) -> Callable[[], object]:
    """Return the Gram sum of a random bfloat16 matrix (V, d), in blocks."""
    basis = np.linalg.qr(rng.standard_normal((d, 1)))[0].T.astype(np.float32)
    basis = np.ascontiguousarray(basis)
    block = rng.standard_normal((4096, d), np.float32).view(np.uint16)[:, 1::2].copy()

    def run() -> None:
        total = _core.Gram(d, basis)
        for start in range(0, V, len(block)):
            total.add(block[: V - start], N_THREADS)
        total.finish(np.empty((d, d)), N_THREADS)

    return run


def eigenvectors(d: int, rng: np.random.Generator) -> Callable[[], object]:
    """Return the middle half of the eigenvectors of a random symmetric matrix (d, d)."""
    A = rng.standard_normal((d, d))
    A += A.T
    middle = np.arange(d // 4, d // 4 + d // 2)
    return lambda: _core.eigh(A.copy(), middle, N_THREADS)


def projection(n: int, rng: np.random.Generator) -> Callable[[], object]:
    """Return the filtering of n float32 rows of 896."""
    f, X = filter_of(896, 448, rng), rng.standard_normal((n, 896), np.float32)
    return lambda: f.transform(X, n_threads=N_THREADS)


def main() -> None:
    """Run the sweeps and write results/sweep.json."""
    rng = np.random.default_rng(0)
    sweeps: list[dict[str, Any]] = []

    def sweep(name: str, size: str, expected_power: int, runs: dict[int, Callable[[], object]]
              ) -> None:  # fmt: skip
        seconds = [median_seconds(run) for run in runs.values()]
        power = float(np.polyfit(np.log(list(runs)), np.log(seconds), 1)[0])
        sweeps.append(
            {"name": name, "size": size, "expected_power": expected_power, "power": power,
             "sizes": list(runs), "seconds": seconds}
        )  # fmt: skip
        print(f"{name:32} {size}: power {power:.2f}, expected {expected_power}")

    Vs, ds, ns = (16384, 32768, 65536, 131072, 262144), (512, 1024, 2048, 4096), range(10, 18, 2)
    sweep("Gram sum, d = 896", "V", 1, {V: gram(V, 896, rng) for V in Vs})
    sweep("Gram sum, V = 16384", "d", 2, {d: gram(16384, d, rng) for d in ds})
    sweep("eigenvectors, half of them", "d", 3, {d: eigenvectors(d, rng) for d in ds})
    sweep("projection, 896 to 448", "n", 1, {1 << p: projection(1 << p, rng) for p in ns})
    write("sweep", {"machine": machine(), "sweeps": sweeps})


if __name__ == "__main__":
    main()
