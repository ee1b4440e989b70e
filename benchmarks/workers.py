"""Rows per second of a filter in Ray Data, Dask and Spark, by workers.

``python benchmarks/workers.py [ROWS]``, with the packages of the group ``peers`` and a Java. Each
reads Parquet files, filters a column (576 to 288), and writes Parquet files; every worker has one
thread, and the engine is up and has done the same once before.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedfilter import EmbedFilter

D, FILES, RUNS = 576, 16, 3
WORKERS = [n for n in (1, 2, 4, 8, 16) if n <= (os.cpu_count() or 1)]


def main() -> None:
    """Print a row of the table in docs/ray-dask.md for each engine."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    rng = np.random.default_rng(0)
    f = EmbedFilter.from_matrix(rng.standard_normal((4096, D), np.float32), ratio=2)
    folder = Path(tempfile.mkdtemp())
    try:
        source = folder / "rows"
        source.mkdir()
        for i in range(FILES):
            X = rng.standard_normal((n // FILES, D), np.float32)
            lists = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), D)
            pq.write_table(pa.table({"embedding": lists}), source / f"{i}.parquet")
        print(f"| {n} rows | {' | '.join(f'{w} workers' for w in WORKERS)} |")
        print(f"|---|{'---|' * len(WORKERS)}")
        for name, run in (("Ray Data", with_ray), ("Dask", with_dask), ("Spark", with_spark)):
            cells = [f"{n / run(f, source, folder / 'out', w):,.0f}" for w in WORKERS]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    finally:
        shutil.rmtree(folder)


def median(job: Callable[[], object], out: Path) -> float:
    """Return the median time of some runs, after one that is not counted."""
    times = []
    for _ in range(RUNS + 1):
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def with_ray(f: EmbedFilter, source: Path, out: Path, workers: int) -> float:
    """Time Ray Data."""
    import ray

    from embedfilter.integrations.ray import FilterBatches

    ray.init(num_cpus=2 * workers, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def job() -> None:
        rows = ray.data.read_parquet(str(source))
        rows.map_batches(
            FilterBatches,
            fn_constructor_args=(f, "embedding"),
            batch_format="numpy",
            concurrency=workers,
        ).write_parquet(str(out))

    try:
        return median(job, out)
    finally:
        ray.shutdown()


def one_file(f: EmbedFilter, source: Path, target: Path) -> None:
    """Filter a file as a task of Dask."""
    lists = pq.read_table(source)["embedding"].combine_chunks()
    Y = f.transform(lists.flatten().to_numpy().reshape(len(lists), -1), n_threads=1)
    column = pa.FixedSizeListArray.from_arrays(pa.array(Y.reshape(-1)), Y.shape[1])
    pq.write_table(pa.table({"embedding": column}), target)


def with_dask(f: EmbedFilter, source: Path, out: Path, workers: int) -> float:
    """Time Dask: a task for each file, on its processes."""
    import dask
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:

        def job() -> None:
            out.mkdir()
            tasks = [dask.delayed(one_file)(f, path, out / path.name) for path in source.iterdir()]
            dask.compute(*tasks, scheduler="processes", pool=pool)

        return median(job, out)


def with_spark(f: EmbedFilter, source: Path, out: Path, workers: int) -> float:
    """Time Spark."""
    from pyspark.sql import SparkSession

    from embedfilter.integrations.spark import filter_column

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master(f"local[{workers}]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.driver.memory", "4g").getOrCreate()
    spark.sparkContext.setLogLevel("OFF")

    def job() -> None:
        df = spark.read.parquet(str(source))
        filter_column(df, f, "embedding").write.parquet(str(out))

    try:
        return median(job, out)
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
