"""Filtering a Parquet file beside reading and writing it with pyarrow.

``python benchmarks/apply.py [--short]``

embedfilter  ``embedfilter apply``: 896 dimensions in, 448 out
pyarrow      the same batches read, and a column of 448 made of their first numbers written

Both stream, with the same codec and batches; each runs in a process of its own, which reports its
peak of memory. A million rows of float32, 3.6 GB; --short takes fifty thousand.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import machine, write

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedfilter import EmbedFilter

D, K = 896, 448
PEAK = "import re;print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
OURS = (
    "import sys;from embedfilter.commands.main import main;"
    "main(sys.argv[1:], standalone_mode=False);" + PEAK
)
PYARROW = (
    f"""
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq
from embedfilter import columns
n = columns._BATCH_BYTES // (4 * {D})
field = pa.field("embedding", pa.list_(pa.float32(), {K}))
with pq.ParquetFile(sys.argv[1], buffer_size=columns._READ_BYTES, pre_buffer=False) as file:
    schema = file.schema_arrow.set(file.schema_arrow.get_field_index("embedding"), field)
    with pq.ParquetWriter(sys.argv[2], schema, use_dictionary=["id"]) as writer:
        for batch in file.iter_batches(n):
            rows = batch.column("embedding").flatten().to_numpy().reshape(-1, {D})
            flat = pa.array(np.ascontiguousarray(rows[:, :{K}]).reshape(-1))
            lists = pa.FixedSizeListArray.from_arrays(flat, {K})
            writer.write_batch(pa.record_batch([batch.column("id"), lists], schema=schema))
"""
    + PEAK
)


def write_rows(path: Path, n: int) -> None:
    """Write n rows with a number and an embedding each."""
    rng = np.random.default_rng(0)
    schema = pa.schema([("id", pa.int64()), ("embedding", pa.list_(pa.float32(), D))])
    with pq.ParquetWriter(path, schema, use_dictionary=["id"]) as writer:
        for start in range(0, n, 50_000):
            rows = rng.standard_normal((min(50_000, n - start), D), np.float32)
            lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), D)
            ids = pa.array(np.arange(start, start + len(rows)))
            writer.write_batch(pa.record_batch([ids, lists], schema=schema))


def timed(code: str, *arguments: object) -> tuple[float, int]:
    """Run code in a process of its own; return its seconds and its peak of memory in bytes."""
    start = time.perf_counter()
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, 1024 * int(re.findall(r"^\d+$", done.stdout, re.M)[-1])


def main() -> None:
    """Run the benchmark and write results/apply.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="fifty thousand rows")
    short = parser.parse_args().short
    n, repeats = (50_000, 1) if short else (1_000_000, 3)
    W = np.random.default_rng(1).standard_normal((4000, D), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        source, filter_file = Path(folder, "in.parquet"), Path(folder, "f.safetensors")
        write_rows(source, n)
        EmbedFilter.from_matrix(W).save(filter_file)
        runs: dict[str, list[tuple[float, int]]] = {"embedfilter": [], "pyarrow": []}
        for _ in range(repeats):
            out = Path(folder, "out.parquet")
            runs["embedfilter"].append(timed(OURS, "apply", filter_file, source, out))
            runs["pyarrow"].append(timed(PYARROW, source, out))
    report: dict[str, Any] = {"machine": machine(), "rows": n, "d": D, "k": K}
    for name, values in runs.items():
        seconds = statistics.median(value[0] for value in values)
        report[name] = {"seconds": seconds, "peak_bytes": max(value[1] for value in values)}
        print(f"{name}: {seconds:.1f} s, {report[name]['peak_bytes'] / 1e9:.2f} GB")
    print(f"{report['embedfilter']['seconds'] / report['pyarrow']['seconds']:.2f} x pyarrow's time")
    write("apply-short" if short else "apply", report)


if __name__ == "__main__":
    main()
