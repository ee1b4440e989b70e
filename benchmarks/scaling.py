"""How the work scales with threads: ``python benchmarks/scaling.py``, on a machine of many cores.

Medians of repeated runs with 1, 2, 4, ... threads: filtering float32 rows 896 -> 448, the Gram sum
of a head of 896 columns in bfloat16, and the ten largest logits of 256 vectors; beside each what
torch does with as many threads, in float32.
"""

from __future__ import annotations

from measure import filter_of, machine, median_seconds, write

import numpy as np
import torch

from embedfilter import _core
from embedfilter.threads import available_cpus

N_ROWS, D, V = 65536, 896, 65536


def main() -> None:
    """Measure and write results/scaling.json."""
    rng = np.random.default_rng(0)
    f, X = filter_of(D, D // 2, rng), rng.standard_normal((N_ROWS, D), np.float32)
    out = np.empty((N_ROWS, D // 2), np.float32)
    W = rng.standard_normal((V, D), np.float32).view(np.uint16)[:, 1::2].copy()
    basis = np.ascontiguousarray(np.linalg.qr(rng.standard_normal((D, 1)))[0].T.astype(np.float32))
    vectors = rng.standard_normal((256, D), np.float32)
    queries = torch.from_numpy(vectors)

    def gram(n_threads: int) -> None:
        total = _core.Gram(D, basis)
        total.add(W, n_threads)
        total.finish(np.empty((D, D)), n_threads)

    def lens(n_threads: int) -> None:
        _core.Lens(vectors, 10).add(W, n_threads)

    C = torch.from_numpy(f.components.copy())
    W_f32 = torch.from_numpy(W).view(torch.bfloat16).float()
    X_torch, X_out = torch.from_numpy(X), torch.from_numpy(out)

    def torch_filter(n_rows: int) -> None:
        torch.mm(X_torch[:n_rows], C.T, out=X_out[:n_rows])
        torch.nn.functional.normalize(X_out[:n_rows], out=X_out[:n_rows])

    most = available_cpus()
    rows = []
    for n_threads in sorted({1, 2, 4, 8, 16, 32, 64, most} & set(range(1, most + 1))):
        torch.set_num_threads(n_threads)
        row = {
            "threads": n_threads,
            "filter_s": median_seconds(lambda n=n_threads: f.transform(X, out=out, n_threads=n)),
            "torch_filter_s": median_seconds(lambda: torch_filter(N_ROWS)),
            "filter_64_rows_s": median_seconds(
                lambda n=n_threads: f.transform(X[:64], out=out[:64], n_threads=n), 101
            ),
            "torch_filter_64_rows_s": median_seconds(lambda: torch_filter(64), 101),
            "gram_s": median_seconds(lambda n=n_threads: gram(n)),
            "torch_gram_s": median_seconds(lambda: W_f32.T @ W_f32),
            "lens_s": median_seconds(lambda n=n_threads: lens(n)),
            "torch_lens_s": median_seconds(lambda: (queries @ W_f32.T).topk(10)),
        }
        rows.append(row)
        print(row)
    write("scaling", {"machine": machine() | {"threads": most}, "rows": rows})


if __name__ == "__main__":
    main()
