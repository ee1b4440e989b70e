"""Filters in Ray Data, on a real cluster of several processes on this machine."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedfilter import EmbedFilter
from embedfilter.integrations.ray import FilterBatches

N, D = 4000, 24


@pytest.fixture(scope="module")
def f() -> EmbedFilter:
    return EmbedFilter.from_matrix(np.random.default_rng(1).standard_normal((300, D)))


@pytest.mark.long  # Ray itself is not installed elsewhere
@pytest.mark.parametrize("kill", [False, True], ids=["undisturbed", "a-worker-killed"])
def test_nothing_is_lost_or_doubled(f: EmbedFilter, tmp_path: Path, kill: bool) -> None:
    X = np.random.default_rng(2).standard_normal((N, D)).astype(np.float32)
    (tmp_path / "in").mkdir()
    for part in range(8):
        ids = np.arange(part * N // 8, (part + 1) * N // 8)
        rows = pa.FixedSizeListArray.from_arrays(pa.array(X[ids].reshape(-1)), D)
        pq.write_table(
            pa.table({"id": ids, "embedding": rows}), tmp_path / "in" / f"{part}.parquet"
        )
    f.save(tmp_path / "f.safetensors")
    job = Path(__file__).with_name("ray_job.py")
    command = [sys.executable, job, tmp_path / "in", tmp_path / "f.safetensors", tmp_path / "out"]
    done = subprocess.run(
        [*command, *["--kill"] * kill],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=tmp_path,  # which Ray gives to its workers as a place to import from
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.killed").exists() == kill
    out = pq.read_table(tmp_path / "out").sort_by("id")
    np.testing.assert_array_equal(out["id"].to_numpy(), np.arange(N))
    found = np.array(out["embedding"].to_pylist(), np.float32)
    np.testing.assert_array_equal(found, f.transform(X))


def test_one_batch(f: EmbedFilter, tmp_path: Path, rng: np.random.Generator) -> None:
    X = rng.standard_normal((10, D)).astype(np.float32)
    X.flags.writeable = False  # as Ray's zero-copy batches are
    call = FilterBatches(f, "x", output_column="y", precision="float16")
    batch = call({"id": np.arange(10), "x": X})
    assert list(batch) == ["id", "x", "y"]
    np.testing.assert_array_equal(batch["y"], f.transform(X, precision="float16"))
    lists = np.empty(10, object)
    lists[:] = list(X)
    np.testing.assert_array_equal(call({"x": lists})["y"], batch["y"])
    with pytest.raises(KeyError, match=r"column: expected one of id, found 'x'"):
        call({"id": np.arange(10)})
    with pytest.raises(ValueError, match=r"X: expected"):
        call({"x": X[:, :3]})


def test_it_is_light_to_ship(f: EmbedFilter) -> None:
    again = pickle.loads(pickle.dumps(FilterBatches(f, "x")))
    X = np.ones((3, D), np.float32)
    np.testing.assert_array_equal(again({"x": X})["x"], f.transform(X))
    f.transform(X)  # packed for the kernels now, which does not travel
    assert len(pickle.dumps(f)) < f.components.nbytes + f.singular_values.nbytes + 3000
