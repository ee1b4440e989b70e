"""Decoding quantised heads beside gguf, and fits of them: ``python benchmarks/dequantize.py``.

embedfilter  the C core's decoding of a block of rows, on one thread
gguf         gguf.quants.dequantize, which is NumPy

Each is also told as a share of the time that the Gram sum takes for the same rows on all threads,
beside which it runs: what is under 100 % does not hold it up. Blocks are random; Q4_K and Q6_K have
small scales. --short leaves out the fits, of GGUF files with a head of 128256 x 4096.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import N_THREADS, interleaved, machine, write

import fit
import gguf
import numpy as np
from numpy.typing import NDArray

from embedfilter import _core

D, ROWS, V = 4096, 2048, 128256
TYPES = ("Q8_0", "Q4_0", "Q4_K", "Q6_K")
SCALES = {"Q8_0": (0, 2), "Q4_0": (0, 2), "Q4_K": (0, 4), "Q6_K": (208, 210)}  # float16, in a block


def made_blocks(name: str, n_rows: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return random rows (n, row bytes) of a type, with scales near 0.01."""
    elements, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = rng.integers(0, 256, (n_rows * D // elements, n_bytes), np.uint8)
    first, last = SCALES[name]
    scales = rng.uniform(0.005, 0.02, (len(blocks), (last - first) // 2)).astype(np.float16)
    blocks[:, first:last] = scales.view(np.uint8)
    return blocks.reshape(n_rows, -1)


def gram_seconds() -> float:
    """Return the time that the Gram sum takes for ROWS rows."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((ROWS, D), np.float32)
    total = _core.Gram(D, np.linalg.qr(rng.standard_normal((D, 2)))[0].T.astype(np.float32).copy())
    times = []
    for _ in range(6):
        start = time.perf_counter()
        total.add(rows, N_THREADS)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def write_head(path: Path, name: str) -> None:
    """Write a GGUF file with a head (V, D) of a type."""
    rng = np.random.default_rng(0)
    block = made_blocks(name, 4096, rng)
    data = np.concatenate([block] * (V // 4096 + 1))[:V]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("output.weight", data, raw_dtype=gguf.GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Run the benchmark and write results/dequantize.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="no fits")
    short = parser.parse_args().short
    rng = np.random.default_rng(0)
    gram = gram_seconds()
    report: dict[str, Any] = {
        "machine": machine(), "rows": ROWS, "d": D, "gram_seconds": gram, "types": [], "fits": [],
    }  # fmt: skip
    for name in TYPES:
        blocks, kind = made_blocks(name, ROWS, rng), gguf.GGMLQuantizationType[name]
        ours = _core.dequantize(name, blocks)
        expected = gguf.quants.dequantize(blocks, kind)
        assert np.array_equal(ours.reshape(expected.shape).view("u4"), expected.view("u4")), name
        medians, _ = interleaved(
            {
                "embedfilter": lambda b=blocks, n=name: _core.dequantize(n, b),
                "gguf": lambda b=blocks, k=kind: gguf.quants.dequantize(b, k),
            },
            repeats=5,
        )
        shares = {peer: seconds / gram for peer, seconds in medians.items()}
        report["types"].append({"type": name, "seconds": medians, "share_of_gram": shares})
        print(
            f"{name}: {medians['gguf'] / medians['embedfilter']:.0f} x gguf;"
            f" {shares['embedfilter']:.1%} of the Gram sum's time, gguf {shares['gguf']:.0%}"
        )
    for name in () if short else ("Q6_K", "Q8_0"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "head.gguf"
            write_head(path, name)
            seconds, peak, _ = fit.measured("embedfilter", path, V, D)
        report["fits"].append({"type": name, "V": V, "d": D, "seconds": seconds, "bytes": peak})
        print(f"fit {V} x {D} {name}: {seconds:.2f} s, {peak / 1e9:.2f} GB")
    write("dequantize-short" if short else "dequantize", report)


if __name__ == "__main__":
    main()
