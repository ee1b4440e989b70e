"""Filters in Spark, on a cluster of two workers on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession

import embedfilter
from embedfilter import EmbedFilter
from embedfilter.integrations.spark import filter_column

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning"),
]
N, D = 4000, 24


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    folder = tmp_path_factory.mktemp("spark")
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.warehouse.dir", str(folder))
        .config("spark.sql.shuffle.partitions", "2")
        # From where this process has the package, not from the folder of the sources.
        .config("spark.executorEnv.PYTHONPATH", str(Path(embedfilter.__file__).parents[1]))
        .config("spark.executorEnv.PYTHONSAFEPATH", "1")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()
    del os.environ["PYSPARK_PYTHON"]


@pytest.fixture(scope="module")
def f() -> EmbedFilter:
    return EmbedFilter.from_matrix(np.random.default_rng(1).standard_normal((300, D)))


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def files(X: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    for part, ids in enumerate(np.array_split(np.arange(N), 8)):
        table = pa.table({"id": ids, "embedding": list(X[ids]), "part": [f"p{part}"] * len(ids)})
        pq.write_table(table, folder / f"{part}.parquet")
    return folder


def collected(df: DataFrame) -> pa.Table:
    return df.toArrow().sort_by("id")


def test_it_is_what_one_machine_does(spark, f, X, files) -> None:
    df = spark.read.parquet(str(files))
    assert df.rdd.getNumPartitions() >= 2
    out = collected(filter_column(df, f, "embedding"))
    assert out.column_names == ["id", "embedding", "part"]
    np.testing.assert_array_equal(out["id"].to_numpy(), np.arange(N))
    assert out["part"].to_pylist()[::500] == [f"p{i}" for i in range(8)]
    np.testing.assert_array_equal(np.stack(out["embedding"].to_numpy()), f.transform(X))


def test_both_workers_took_part(spark, f, files) -> None:
    def processes(batches):
        for batch in batches:
            yield pa.RecordBatch.from_pydict({"pid": pa.array([os.getpid()] * len(batch))})

    df = filter_column(spark.read.parquet(str(files)).repartition(4), f, "embedding")
    pids = df.mapInArrow(processes, "pid long").distinct().collect()
    assert len({row.pid for row in pids}) >= 2
    assert os.getpid() not in {row.pid for row in pids}


@pytest.mark.parametrize("precision", ["int8", "ubinary"])
def test_precisions_beside_the_rows(spark, f, X, files, precision) -> None:
    g = f.calibrate(X)
    df = spark.read.parquet(str(files))
    out = collected(filter_column(df, g, "embedding", output_column="small", precision=precision))
    assert out.column_names == ["id", "embedding", "part", "small"]
    np.testing.assert_array_equal(np.stack(out["embedding"].to_numpy()), X)
    small = out["small"].to_pylist()
    found = np.array([list(row) for row in small])
    np.testing.assert_array_equal(found, g.transform(X, precision=precision))


def test_doubles_of_a_frame(spark, f, X) -> None:
    rows = [(i, X[i].tolist()) for i in range(30)]
    df = spark.createDataFrame(rows, "id long, x array<double>")
    out = collected(filter_column(df, f, "x", normalize=False))
    expected = f.transform(X[:30], normalize=False)
    np.testing.assert_array_equal(np.stack(out["x"].to_numpy()), expected)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([None], "found null"),
        ([[1.0] * (D - 1) + [None]], "found null"),
        (
            [[1.0] * (D - 1)],
            f"'x' of an Arrow batch: expected lists of {D} numbers, found {D - 1} in row 0",
        ),
        ([[1.0] * (D - 1) + [float("nan")]], "NaN"),
    ],
)
def test_bad_rows(spark, f, row, message) -> None:
    df = spark.createDataFrame([(0, *row), (1, [1.0] * D)], "id long, x array<float>").coalesce(1)
    with pytest.raises(PythonException, match=message):
        filter_column(df, f, "x").collect()


def test_bad_arguments(spark, f) -> None:
    df = spark.createDataFrame([(0, "text")], "id long, x string")
    with pytest.raises(ValueError, match="column: expected one of id, x, found 'y'"):
        filter_column(df, f, "y")
    with pytest.raises(TypeError, match="arrays of float or double in 'x', found string"):
        filter_column(df, f, "x")
    with pytest.raises(ValueError, match="precision: expected one of float32, int8, ubinary"):
        filter_column(df, f, "x", precision="float16")
    rows = spark.createDataFrame([(0, [1.0] * D)], "id long, x array<float>")
    with pytest.raises(ValueError, match="ranges: expected"):  # before a worker is asked
        filter_column(rows, f, "x", precision="int8")
    with pytest.raises(TypeError, match="ranegs"):
        filter_column(rows, f, "x", ranegs=[[0] * D, [1] * D])


def test_without_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    monkeypatch.delitem(sys.modules, "embedfilter.integrations.spark")
    with pytest.raises(ImportError, match=r'pip install "embedfilter\[spark\]"'):
        importlib.import_module("embedfilter.integrations.spark")
