"""Top tokens side by side with the peers: ``python benchmarks/lens.py [--short]``.

The ten tokens with the largest logits of 256 vectors and of one, over a head of the shape of
Qwen2.5-0.5B's (151936 x 896) that lies in memory, random with a model-like spectrum:

embedfilter      LogitLens.top_tokens
torch float32    torch.topk(X @ W.T), W converted to float32 beforehand
torch in half    the same in the type of W, logits too
numpy            X @ W.T in float32, argpartition, then a sort of the ten

The peers hold all logits. Extra memory is what a call adds at its peak to the resident memory.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import N_THREADS, Limits, interleaved, machine, write

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from embedfilter import LogitLens

SHAPE, SHORT_SHAPE = (151936, 896), (16384, 896)
K = 10
DTYPES = {
    "float32": (np.dtype(np.float32), torch.float32),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), torch.bfloat16),
    "float16": (np.dtype(np.float16), torch.float16),
}
# How far from the right logit at its place a token's may be, of the largest of its vector.
TOLERANCES = {"torch in half": 0.02}
EXACT = 1e-4
Peers = dict[str, Callable[[], NDArray[np.int64]]]


def head(V: int, d: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a head (V, d) with one dominant direction, 25 times the bulk."""
    scale = np.geomspace(2.0, 0.5, d, dtype=np.float32)
    mean = rng.standard_normal(d, np.float32) * np.float32(25 / np.sqrt(d))
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0].astype(np.float32)
    return (rng.standard_normal((V, d), np.float32) * scale) @ Q + mean


def torch_ids(X: torch.Tensor, W: torch.Tensor) -> NDArray[np.int64]:
    """Return the ids of the K largest logits by torch."""
    ids: NDArray[np.int64] = torch.topk(X @ W.T, K).indices.numpy()
    return ids


def peers_of(W: NDArray[Any], X: NDArray[np.float32], torch_type: torch.dtype) -> Peers:
    """Return ours and the peers; each returns the tokens' ids (n, K)."""
    wide = W.astype(np.float32)
    weights, vectors = torch.from_numpy(wide), torch.from_numpy(X)
    lens = LogitLens(W, n_threads=N_THREADS)

    def numpy() -> NDArray[np.int64]:
        logits = X @ wide.T
        some = np.argpartition(logits, -K, axis=1)[:, -K:]
        order = np.argsort(-np.take_along_axis(logits, some, axis=1), axis=1, kind="stable")
        return np.take_along_axis(some, order, axis=1)

    peers: Peers = {
        "embedfilter": lambda: lens.top_tokens(X, K).ids,
        "torch float32": lambda: torch_ids(vectors, weights),
        "numpy": numpy,
    }
    if torch_type != torch.float32:
        half = torch.from_numpy(W.view(np.int16)).view(torch_type)
        half_vectors = vectors.to(torch_type)
        peers["torch in half"] = lambda: torch_ids(half_vectors, half)
    return peers


def check(peers: Peers, W: NDArray[Any], X: NDArray[np.float32]) -> None:
    """Raise if the tokens are not those of a float64 product, as nearly as a peer's type allows."""
    exact = np.empty((len(X), len(W)))
    for start in range(0, len(W), 8192):
        rows = W[start : start + 8192].astype(np.float64)
        exact[:, start : start + len(rows)] = X.astype(np.float64) @ rows.T
    right = np.argsort(-exact, axis=1, kind="stable")[:, : K + 1]
    logits = np.take_along_axis(exact, right, axis=1)
    for name, peer in peers.items():
        ids = peer()
        lost = np.abs(np.take_along_axis(exact, ids, axis=1) - logits[:, :K]) / logits[:, :1]
        assert lost.max() < TOLERANCES.get(name, EXACT), (name, lost.max())
        if name == "embedfilter":
            gaps = -np.diff(logits, axis=1) > EXACT * np.abs(logits[:, :K])
            apart = gaps & np.hstack([np.ones((len(X), 1), bool), gaps[:, :-1]])
            assert (ids == right[:, :K])[apart].all(), name


def extra_bytes(function: Callable[[], object]) -> int:
    """Return what a call adds at its peak to the resident memory of this process; Linux only."""
    status = Path("/proc/self/status")

    def resident(name: str) -> int:
        found = re.search(rf"{name}:\s*(\d+) kB", status.read_text(encoding="ascii"))
        assert found is not None
        return int(found[1]) * 1024

    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before


def main() -> None:
    """Run the benchmark and write results/lens.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="a smaller head")
    short = parser.parse_args().short
    V, d = SHORT_SHAPE if short else SHAPE
    torch.set_num_threads(N_THREADS)
    rng = np.random.default_rng(0)
    limits = Limits()
    report: dict[str, Any] = {"machine": machine(), "rows": []}
    W32 = head(V, d, rng)
    vectors = rng.standard_normal((256, d), np.float32)
    for name, (dtype, torch_type) in DTYPES.items():
        W = W32.astype(dtype)
        for n in (256, 1):
            X = vectors[:n]
            peers = peers_of(W, X, torch_type)
            memory = {peer: extra_bytes(function) for peer, function in peers.items()}
            check(peers, W, X)
            most: dict[str, Callable[[], float]] = {"fma": limits.flops}
            if n == 1:
                most["read, 1 thread"] = lambda b=W.nbytes: limits.read(b, 1)
                most["read"] = lambda b=W.nbytes: limits.read(b)
            medians, rates = interleaved(peers, repeats=5 if n > 1 else 9, limits=most)
            ours = medians["embedfilter"]
            best = min(medians.keys() - {"embedfilter"}, key=medians.__getitem__)
            row = {
                "dtype": name, "V": V, "d": d, "n": n, "k": K, "seconds": medians,
                "fastest_peer": best, "times_faster": medians[best] / ours,
                "times_torch_float32": medians["torch float32"] / ours,
                "limits": rates, "share_of_fma_peak": 2 * n * V * d / ours / rates["fma"],
                "extra_bytes": memory, "extra_share_of_logits": memory["embedfilter"] / (4 * n * V),
            }  # fmt: skip
            if n == 1:
                bandwidth = max(rates["read"], rates["read, 1 thread"])
                row["share_of_bandwidth"] = W.nbytes / ours / bandwidth
            report["rows"].append(row)
            print(
                f"{name:9} n {n:4}: {ours * 1e3:8.2f} ms, {medians[best] / ours:5.2f} x {best},"
                f" {row['times_torch_float32']:5.2f} x torch float32,"
                f" {row['share_of_fma_peak']:.0%} of the FMA peak, extra memory"
                f" {row['extra_share_of_logits']:.1%} of the logits"
                + (f", {row['share_of_bandwidth']:.0%} of the bandwidth" if n == 1 else ""),
                {peer: f"{seconds * 1e3:.2f}" for peer, seconds in medians.items()},
            )
            del peers
    write("lens-short" if short else "lens", report)


if __name__ == "__main__":
    main()
