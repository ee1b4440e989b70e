"""Filtering embeddings side by side with the peers.

``python benchmarks/project.py [--short | --large]``

Peers project float32 rows on the same components and scale them to unit length:

numpy     X @ C.T, then a division by the norms
torch     torch.nn.functional.normalize(X @ C.T)
faiss     LinearTransform, then NormalizationTransform
sklearn   preprocessing.normalize(PCA.transform(X)) of a PCA that holds C
sgemm     the bare product into an array that is there already, to compare with

Half-precision input includes the peers' conversion to float32, or torch's own product in that
type where that is faster. int8 and binary output are compared with numpy's product followed by
sentence_transformers' quantize_embeddings. --large adds a million rows out of a memory map, a file
of 3.6 GB.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from typing import Any

from measure import N_THREADS, Limits, filter_of, interleaved, machine, write

import faiss
import ml_dtypes
import numpy as np
import sklearn.decomposition
import sklearn.preprocessing
import torch
from numpy.typing import NDArray

from embedfilter import EmbedFilter

ROWS = {(896, 448): (1, 8, 64, 1024, 65536), (4096, 2048): (1, 8, 64, 1024)}  # (d, k): n
HALF_ROWS = {896: (1024, 65536), 4096: (1024,)}
QUANTIZED_ROWS = {896: 65536, 4096: 8192}
LARGE_ROWS = 1_000_000
Peers = dict[str, Callable[[], object]]


def float32_peers(f: EmbedFilter, X: NDArray[np.float32]) -> Peers:
    """Return the peers for float32 rows; those that write into an array are given one."""
    C = f.components
    CT = np.ascontiguousarray(C.T)
    out = np.empty((len(X), len(C)), np.float32)
    tensor, weights = torch.from_numpy(X), torch.from_numpy(C.copy()).T.contiguous()
    linear = faiss.LinearTransform(C.shape[1], C.shape[0], False)
    faiss.copy_array_to_vector(C.ravel(), linear.A)
    linear.is_trained = True
    unit = faiss.NormalizationTransform(C.shape[0], 2.0)
    pca = sklearn.decomposition.PCA(C.shape[0])
    pca.components_, pca.mean_ = C, np.zeros(C.shape[1], np.float32)
    pca.explained_variance_ = np.ones(C.shape[0], np.float32)
    pca.n_features_in_ = C.shape[1]

    def numpy() -> NDArray[np.float32]:
        Y = X @ CT
        Y /= np.linalg.norm(Y, axis=1, keepdims=True)
        return Y

    return {
        "embedfilter": lambda: f.transform(X, n_threads=N_THREADS),
        "numpy": numpy,
        "torch": lambda: torch.nn.functional.normalize(tensor @ weights).numpy(),
        "faiss": lambda: unit.apply(linear.apply(X)),
        "sklearn": lambda: sklearn.preprocessing.normalize(pca.transform(X), copy=False),
        "sgemm": lambda: np.matmul(X, CT, out=out),
    }


def mapped_rows(folder: str, n: int, d: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return random rows in a file that is mapped into memory."""
    X = np.lib.format.open_memmap(f"{folder}/rows.npy", "w+", np.float32, (n, d))
    for start in range(0, n, 65536):
        rng.standard_normal(out=X[start : start + 65536], dtype=np.float32)
    X.flush()
    return X


def half_peers(f: EmbedFilter, X: NDArray[Any], torch_type: torch.dtype) -> Peers:
    """Return the peers for half-precision rows, their conversions included."""
    CT = np.ascontiguousarray(f.components.T)
    weights = torch.from_numpy(CT)
    bits = torch.from_numpy(X.view(np.int16)).view(torch_type)
    half_weights = weights.to(torch_type)

    def numpy() -> NDArray[np.float32]:
        Y = X.astype(np.float32) @ CT
        Y /= np.linalg.norm(Y, axis=1, keepdims=True)
        return Y

    peers: Peers = {
        "embedfilter": lambda: f.transform(X, n_threads=N_THREADS),
        "numpy": numpy,
        "torch": lambda: torch.nn.functional.normalize(bits.float() @ weights).numpy(),
    }
    if torch_type == torch.bfloat16:  # in float16 it is some 50 times slower than the others
        peers["torch in half"] = lambda: torch.nn.functional.normalize(
            (bits @ half_weights).float()
        )
    return peers


def quantized_peers(f: EmbedFilter, X: NDArray[np.float32], precision: str) -> Peers:
    """Return ours and the usual three steps: product, normalisation, quantize_embeddings."""
    from sentence_transformers.util.quantization import quantize_embeddings

    CT = np.ascontiguousarray(f.components.T)
    sample = f.transform(X[:1000])
    ranges = (
        np.vstack([sample.min(axis=0), sample.max(axis=0)]) * 2 if precision == "int8" else None
    )

    def steps() -> NDArray[Any]:
        Y = X @ CT
        Y /= np.linalg.norm(Y, axis=1, keepdims=True)
        result: NDArray[Any] = quantize_embeddings(Y, precision=precision, ranges=ranges)
        return result

    return {
        "embedfilter": lambda: f.transform(
            X, precision=precision, ranges=ranges, n_threads=N_THREADS
        ),
        "numpy + quantize_embeddings": steps,
    }


def check(peers: Peers, tolerance: float) -> None:
    """Raise if a peer does not compute what numpy computes in float64 within a tolerance."""
    results = {name: np.asarray(peer(), np.float32) for name, peer in peers.items()}
    reference = results["embedfilter"]
    for name, result in results.items():
        if name == "sgemm":
            result = result / np.linalg.norm(result, axis=1, keepdims=True)  # noqa: PLW2901
        difference = np.abs(result - reference)
        # Levels of int8 and bits may fall on either side of a boundary now and then.
        if tolerance >= 1:
            assert (difference > tolerance).mean() < 1e-4, (name, difference.max())
        else:
            assert difference.max() < tolerance, (name, difference.max())


def main() -> None:
    """Run the benchmark and write results/project.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="fewer sizes and repeats")
    parser.add_argument("--large", action="store_true", help="a million rows too")
    options = parser.parse_args()
    short = options.short
    torch.set_num_threads(N_THREADS)
    faiss.omp_set_num_threads(N_THREADS)
    rng = np.random.default_rng(0)
    limits = Limits()
    report: dict[str, Any] = {"machine": machine(), "rows": []}

    def record(case: str, d: int, k: int, n: int, peers: Peers, tolerance: float) -> None:
        check(peers, tolerance)
        repeats = 3 if n == LARGE_ROWS else 5 if n * d * k > 1 << 33 else 7 if short else 11
        most: dict[str, Callable[[], float]] = {"fma": limits.flops}
        if n == 1:
            most["read, 1 thread"] = lambda: limits.read(4 * d * k, 1)
            most["read"] = lambda: limits.read(4 * d * k)
        medians, rates = interleaved(peers, repeats=repeats, limits=most)
        ours = medians["embedfilter"]
        best = min((name for name in medians if name not in ("embedfilter", "sgemm")),
                   key=medians.__getitem__)  # fmt: skip
        row = {
            "case": case, "d": d, "k": k, "n": n, "seconds": medians, "fastest_peer": best,
            "times_faster": medians[best] / ours, "limits": rates,
            "share_of_fma_peak": {
                name: 2 * n * d * k / seconds / rates["fma"] for name, seconds in medians.items()
            },
        }  # fmt: skip
        if n == 1:
            bandwidth = max(rates["read"], rates["read, 1 thread"])
            row["share_of_bandwidth"] = 4 * d * k / ours / bandwidth
        report["rows"].append(row)
        print(
            f"{case:9} {d:5} -> {k:4} n {n:6}: {ours * 1e6:10.1f} us, {medians[best] / ours:5.2f} x"
            f" {best}, {row['share_of_fma_peak']['embedfilter']:.0%} of the FMA peak,"
            f" {best} {row['share_of_fma_peak'][best]:.0%}"
            + (f", {row['share_of_bandwidth']:.0%} of the bandwidth" if n == 1 else "")
        )

    for d, k in list(ROWS)[:1] if short else ROWS:
        f = filter_of(d, k, rng)
        for n in ROWS[d, k][:4] if short else ROWS[d, k]:
            X = rng.standard_normal((n, d), np.float32)
            record("float32", d, k, n, float32_peers(f, X), 1e-5)
        if options.large and d == 896:
            with tempfile.TemporaryDirectory() as folder:
                X = mapped_rows(folder, LARGE_ROWS, d, rng)
                record("float32", d, k, LARGE_ROWS, float32_peers(f, X), 1e-5)
                del X
        for n in HALF_ROWS[d][:1] if short else HALF_ROWS[d]:
            X = rng.standard_normal((n, d), np.float32)
            record("float16", d, k, n, half_peers(f, X.astype(np.float16), torch.float16), 0.01)
            brain = X.astype(ml_dtypes.bfloat16)
            record("bfloat16", d, k, n, half_peers(f, brain, torch.bfloat16), 0.03)
        X = rng.standard_normal((4096 if short else QUANTIZED_ROWS[d], d), np.float32)
        record("int8", d, k, len(X), quantized_peers(f, X, "int8"), 1)
        record("ubinary", d, k, len(X), quantized_peers(f, X, "ubinary"), 1)
    write("project-short" if short else "project", report)


if __name__ == "__main__":
    main()
