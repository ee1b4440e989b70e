"""Fitting, file to filter, side by side with the peers: ``python benchmarks/fit.py [--short]``.

The heads are random bfloat16 matrices with a model-like spectrum, in safetensors files:

embedfilter       EmbedFilter.from_checkpoint
torch svd         the reference: torch.linalg.svd of the float32 matrix (arXiv 2606.07502's code)
numpy gram        W.T @ W in float64, then numpy.linalg.eigh

Each method runs in a process of its own, which reports its time, its memory at the peak above
an idle import, and the angle of its bulk to that of numpy gram, the most exact. The largest shape
takes minutes and some 10 GB for each peer: --large adds it.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import multiprocessing
import re
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from measure import N_THREADS, Limits, interleaved, machine, write

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import embedfilter

SHAPES = {"SmolLM2-135M": (49152, 576), "Qwen2.5-0.5B": (151936, 896)}
LARGE = {"Llama-3-8B": (128256, 4096)}
METHODS = ("embedfilter", "torch svd", "numpy gram")


def write_head(path: Path, V: int, d: int) -> None:
    """Write a head with one dominant direction (25 times the bulk) to a safetensors file."""
    rng = np.random.default_rng(0)
    scale = np.geomspace(2.0, 0.5, d, dtype=np.float32)
    mean = rng.standard_normal(d, np.float32) * np.float32(25 / np.sqrt(d))
    Q = np.linalg.qr(rng.standard_normal((d, d)).astype(np.float32))[0]
    header = json.dumps(
        {"lm_head.weight": {"dtype": "BF16", "shape": [V, d], "data_offsets": [0, 2 * V * d]}}
    ).encode()
    header += b" " * (-len(header) % 8)  # the peers map the numbers, which must be aligned
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, V, 8192):
            n = min(8192, V - start)
            rows = (rng.standard_normal((n, d), np.float32) * scale) @ Q + mean
            file.write(rows.astype(ml_dtypes.bfloat16).tobytes())


def peak_bytes() -> int:
    """Return this process's peak of resident memory, mapped file pages aside."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    high, mapped = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmHWM", "RssFile"))
    return 1024 * (high - mapped)


def read_float32(path: Path, V: int, d: int) -> NDArray[np.float32]:
    """Read the head as the reference does: all of it, as float32."""
    import torch

    raw = torch.from_file(str(path), size=path.stat().st_size // 2, dtype=torch.bfloat16)
    return raw[-V * d :].reshape(V, d).float().numpy()


def bulk(method: str, path: Path, V: int, d: int) -> NDArray[np.float64]:
    """Return the components of the ratio-2 filter by one method."""
    first, k = d // 4, d // 2
    if method == "embedfilter":
        f = embedfilter.EmbedFilter.from_checkpoint(path, n_threads=N_THREADS)
        return f.components[np.argsort(f.component_indices)]
    W = read_float32(path, V, d)
    if method == "torch svd":
        import torch

        torch.set_num_threads(N_THREADS)
        Vh = torch.linalg.svd(torch.from_numpy(W), full_matrices=False)[2]
        return Vh[first : first + k].numpy()
    wide = W.astype(np.float64)
    del W
    vectors = np.linalg.eigh(wide.T @ wide)[1]
    return vectors.T[::-1][first : first + k]


def run(method: str, path: Path, V: int, d: int) -> tuple[float, int, NDArray[Any]]:
    """Time one method in this process."""
    if method == "torch svd":
        import torch  # noqa: F401 - not part of the time
    else:
        import embedfilter.checkpoints.opening  # noqa: F401
    idle = peak_bytes()
    start = time.perf_counter()
    components = bulk(method, path, V, d)
    seconds = time.perf_counter() - start
    return seconds, peak_bytes() - idle, components


def measured(method: str, path: Path, V: int, d: int) -> tuple[float, int, NDArray[Any]]:
    """Run one method in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as process:
        return process.submit(run, method, path, V, d).result()


def gram_alone(d: int, limits: Limits) -> dict[str, Any]:
    """Return the operations a second of the Gram sum alone, 2 for each multiply-add it needs."""
    n = 65536 if d < 2048 else 16384
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n, d), np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
    basis = np.linalg.qr(rng.standard_normal((d, 2)))[0].T.astype(np.float32)
    total = embedfilter._core.Gram(d, np.ascontiguousarray(basis))
    seconds, most = interleaved(
        {"gram": lambda: total.add(rows, N_THREADS)}, repeats=9, limits={"fma": limits.flops}
    )
    flops = n * d * (d + 1) / seconds["gram"]
    return {"d": d, "flops": flops, "limits": most, "share_of_fma_peak": flops / most["fma"]}


def parts_of_fit(path: Path) -> dict[str, float]:
    """Return the seconds of the parts of one fit, in this process.

    sum      rows widened, peeled, laid out and multiplied
    check    some columns summed once more in float64
    eigen    the eigen-decomposition
    rest     waiting for the file's rows, finding what is peeled, all else
    """
    import embedfilter.checkpoints.opening  # not part of the time

    profile = cProfile.Profile()
    start = time.perf_counter()
    profile.runcall(embedfilter.EmbedFilter.from_checkpoint, path, n_threads=N_THREADS)
    seconds = time.perf_counter() - start
    parts = dict.fromkeys(("sum", "check", "eigen"), 0.0)
    for call in profile.getstats():
        name = str(call.code)  # of Python's functions "<code object add at 0x…, file …>"
        if "object add" in name and "spectrum.py" in name:
            parts["check"] += call.totaltime
        elif "'add' of 'embedfilter._core.Gram'" in name:
            parts["sum"] += call.totaltime
        elif "embedfilter._core.eigh" in name:
            parts["eigen"] += call.totaltime
    parts["sum"] -= parts["check"]
    return {**parts, "rest": seconds - sum(parts.values()), "all": seconds}


def main() -> None:
    """Run the benchmark and write results/fit.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="the smallest shape only")
    parser.add_argument("--large", action="store_true", help="128256 x 4096 too")
    options = parser.parse_args()
    shapes = dict(list(SHAPES.items())[:1] if options.short else SHAPES)
    if options.large:
        shapes |= LARGE
    limits = Limits()
    report: dict[str, Any] = {"machine": machine(), "fits": [], "gram": []}
    for d in (896,) if options.short else (896, 4096):
        alone = gram_alone(d, limits)
        report["gram"].append(alone)
        print(
            f"gram alone, d = {d}: {alone['flops'] / 1e9:.0f} Gflop/s,"
            f" {alone['share_of_fma_peak']:.0%} of the FMA peak"
        )
    with tempfile.TemporaryDirectory() as folder:
        for name, (V, d) in shapes.items():
            path = Path(folder) / f"{V}x{d}.safetensors"
            write_head(path, V, d)
            repeats = 1 if V * d > 1 << 28 else 3
            runs: dict[str, list[Any]] = {method: [] for method in METHODS}
            for _ in range(repeats):
                for method in METHODS:
                    runs[method].append(measured(method, path, V, d))
            exact = runs["numpy gram"][0][2]
            row: dict[str, Any] = {"model": name, "V": V, "d": d, "methods": {}}
            for method, measurements in runs.items():
                seconds = statistics.median(m[0] for m in measurements)
                components = np.asarray(measurements[0][2], np.float64)
                outside = components - (components @ exact.T) @ exact
                angle = float(np.linalg.norm(outside, 2)) if method != "numpy gram" else 0.0
                row["methods"][method] = {
                    "seconds": seconds,
                    "peak_bytes": max(m[1] for m in measurements),
                    "sine_of_angle": angle,
                }
            ours = row["methods"]["embedfilter"]
            for method, figures in row["methods"].items():
                figures["times_slower"] = figures["seconds"] / ours["seconds"]
                print(
                    f"{V} x {d} {method:12} {figures['seconds']:8.2f} s"
                    f" ({figures['times_slower']:.1f} x), {figures['peak_bytes'] / 1e9:.2f} GB,"
                    f" angle {figures['sine_of_angle']:.1e}"
                )
            row["parts"] = parts_of_fit(path)
            print(", ".join(f"{part} {seconds:.2f} s" for part, seconds in row["parts"].items()))
            report["fits"].append(row)
            path.unlink()
    write("fit-short" if options.short else "fit", report)


if __name__ == "__main__":
    main()
