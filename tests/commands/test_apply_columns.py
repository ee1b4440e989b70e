"""``embedfilter apply`` on Parquet, Arrow and .npz files, beside the filter itself."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from command_line import COMMAND, PEAK, SCRIPTS, UNMEASURED, failure, run, run_code

from embedfilter import EmbedFilter

D, N = 32, 5000


@pytest.fixture(scope="module")
def f() -> EmbedFilter:
    rng = np.random.default_rng(1)
    return EmbedFilter.from_matrix(rng.standard_normal((500, D)) * np.geomspace(3, 1, D))


@pytest.fixture
def filter_file(f: EmbedFilter, tmp_path: Path) -> Path:
    f.save(tmp_path / "f.safetensors")
    return tmp_path / "f.safetensors"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def lists(X: np.ndarray, kind: str) -> pa.Array:
    flat = pa.array(X.reshape(-1))
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(flat, X.shape[1])
    offsets = np.arange(0, X.size + 1, X.shape[1])
    if kind == "large":
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)


def table(X: np.ndarray, kind: str = "fixed", **columns: Any) -> pa.Table:
    ids = pa.array(np.arange(len(X)))
    names = {
        "id": ids,
        "embedding": lists(X, kind),
        "text": pa.array([str(i) for i in range(len(X))]),
    }
    return pa.table(names | columns).replace_schema_metadata({"made by": "a test"})


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    return array.flatten().to_numpy().reshape(len(array), -1)


@pytest.mark.parametrize("kind", ["fixed", "list", "large"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_parquet(f: EmbedFilter, filter_file: Path, tmp_path: Path, kind: str, dtype: str) -> None:
    X = np.random.default_rng(0).standard_normal((N, D)).astype(dtype)
    pq.write_table(table(X, kind), tmp_path / "in.parquet", compression="zstd", row_group_size=1234)
    run("apply", filter_file, tmp_path / "in.parquet", tmp_path / "out.parquet")
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.column_names == ["id", "embedding", "text"]
    assert out.schema.field("embedding").type == pa.list_(pa.float32(), D // 2)
    assert out.schema.metadata[b"made by"] == b"a test"
    assert out.drop_columns("embedding").equals(table(X).drop_columns("embedding"))
    np.testing.assert_array_equal(matrix(out["embedding"]), f.transform(X))
    assert (
        pq.ParquetFile(tmp_path / "out.parquet").metadata.row_group(0).column(0).compression
        == "ZSTD"
    )


@pytest.mark.parametrize("suffix", [".arrow", ".feather"])
def test_arrow_files(f: EmbedFilter, filter_file: Path, tmp_path: Path, suffix: str) -> None:
    X = np.random.default_rng(0).standard_normal((N, D)).astype("f4")
    pyarrow.feather.write_feather(table(X), tmp_path / f"in{suffix}", chunksize=700)
    out = tmp_path / f"out{suffix}"
    run("apply", filter_file, tmp_path / f"in{suffix}", out, "--precision", "float16")
    found = pyarrow.feather.read_table(out)
    assert found.schema.field("embedding").type == pa.list_(pa.float16(), D // 2)
    np.testing.assert_array_equal(matrix(found["embedding"]), f.transform(X, precision="float16"))
    assert found["text"].equals(table(X)["text"])


def test_one_kind_into_another_and_a_column_beside(
    f: EmbedFilter, filter_file: Path, tmp_path: Path
) -> None:
    X = np.random.default_rng(0).standard_normal((100, D)).astype("f4")
    pq.write_table(table(X, second=lists(X + 1, "fixed")), tmp_path / "in.parquet")
    run(
        "apply", filter_file, tmp_path / "in.parquet", tmp_path / "out.arrow",
        "--column", "second", "--output-column", "small", "--precision", "ubinary",
    )  # fmt: skip
    out = pyarrow.feather.read_table(tmp_path / "out.arrow")
    assert out.column_names == ["id", "embedding", "text", "second", "small"]
    expected = f.transform(X + 1, precision="ubinary")
    np.testing.assert_array_equal(matrix(out["small"]), expected)
    np.testing.assert_array_equal(matrix(out["second"]), X + 1)


def test_streams(f: EmbedFilter, filter_file: Path) -> None:
    X = np.random.default_rng(0).standard_normal((N, D)).astype("f4")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table(X).schema) as stream:
        stream.write_table(table(X), max_chunksize=999)
    done = subprocess.run(
        [COMMAND, "apply", filter_file, "-", "-"],
        input=sink.getvalue().to_pybytes(), capture_output=True, check=True,
    )  # fmt: skip
    assert not done.stderr
    out = pa.ipc.open_stream(done.stdout).read_all()
    np.testing.assert_array_equal(matrix(out["embedding"]), f.transform(X))


def test_onto_itself(f: EmbedFilter, filter_file: Path, tmp_path: Path) -> None:
    X = np.random.default_rng(0).standard_normal((N, D)).astype("f4")
    for name in ("x.parquet", "x.arrow"):
        write = pq.write_table if name == "x.parquet" else pyarrow.feather.write_feather
        write(table(X), tmp_path / name)
        run("apply", filter_file, tmp_path / name, tmp_path / name)
        read = pq.read_table if name == "x.parquet" else pyarrow.feather.read_table
        np.testing.assert_array_equal(matrix(read(tmp_path / name)["embedding"]), f.transform(X))


@pytest.mark.parametrize("n", [0, 1])
def test_few_rows(filter_file: Path, tmp_path: Path, n: int) -> None:
    pq.write_table(table(np.ones((n, D), "f4")), tmp_path / "in.parquet")
    run("apply", filter_file, tmp_path / "in.parquet", tmp_path / "out.parquet")
    out = pq.read_table(tmp_path / "out.parquet")
    assert (len(out), out.schema.field("embedding").type.list_size) == (n, D // 2)


def test_npz(f: EmbedFilter, filter_file: Path, tmp_path: Path) -> None:
    X = np.random.default_rng(0).standard_normal((100, D)).astype("f4")
    np.savez(tmp_path / "one.npz", rows=X)
    np.savez_compressed(tmp_path / "two.npz", a=X, b=X + 1)
    run("apply", filter_file, tmp_path / "one.npz", tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), f.transform(X))
    run("apply", filter_file, tmp_path / "two.npz", tmp_path / "out.npy", "--key", "b")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), f.transform(X + 1))
    assert "a" in failure("apply", filter_file, tmp_path / "two.npz", tmp_path / "out.npy")


# ---- Bad input ------------------------------------------------------------------------------

ROWS = np.ones((10, D), "f4")
RAGGED = pa.array([[1.0] * D] * 3 + [[1.0] * (D - 1)] + [[1.0] * D], pa.list_(pa.float32()))
NULL = pa.array([[1.0] * D, None, [1.0] * D], pa.list_(pa.float32(), D))
NULL_INSIDE = pa.array([[1.0] * D, [None] + [1.0] * (D - 1)], pa.list_(pa.float32()))
INT8 = pa.array([[1] * D] * 3, pa.list_(pa.int8(), D))


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"e": RAGGED}, [], f"column 'e': expected lists of {D} numbers, found {D - 1} in row 3"),
        # pyarrow before 26, the last for Python 3.10, cannot read them: apache/arrow#35692.
        (
            {"e": NULL},
            [],
            "column 'e': expected an embedding in each row, found null in row 1"
            if int(pa.__version__.partition(".")[0]) >= 26
            else "in.parquet: Expected all lists to be of size",
        ),
        ({"e": NULL_INSIDE}, [], "column 'e': expected numbers, found null in row 1"),
        (
            {"e": INT8},
            [],
            "expected one column of lists of floats.*--column.*found none among",
        ),
        (
            {"e": INT8},
            ["--column", "e"],
            "'e': expected lists of float16, .* found fixed_size_list",
        ),
        ({"e": lists(ROWS, "fixed")}, ["--column", "x"], "expected a column 'x', found e"),
        ({"e": lists(ROWS, "fixed"), "g": lists(ROWS, "list")}, [], "found e, g"),
        (
            {"e": lists(ROWS[:, :7], "fixed")},
            [],
            f"expected rows of {D}, which .* takes, found rows of 7$",
        ),
        (
            {"e": lists(np.where(np.arange(len(ROWS))[:, None] == 7, np.nan, ROWS), "fixed")},
            [],
            "column 'e': expected finite numbers, found NaN or infinity in row 7$",
        ),
        (
            {"e": lists(ROWS, "fixed")},
            ["--precision", "bfloat16"],
            "expected a type that parquet has, found bfloat16",
        ),
        ({"e": lists(ROWS, "fixed")}, ["--precision", "int8"], "--ranges: expected a .npy file"),
        ({"e": lists(ROWS, "fixed")}, ["--key", "a"], "--key: expected none for"),
    ],
)
def test_refused(
    filter_file: Path, tmp_path: Path, columns: dict[str, Any], options: list[str], message: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    out.write_bytes(b"what was there")
    line = failure("apply", filter_file, tmp_path / "in.parquet", out, *options)
    assert re.search(message, line), line
    assert out.read_bytes() == b"what was there"
    assert names(tmp_path) == ["f.safetensors", "in.parquet", "out.parquet"]


def test_a_row_of_a_later_block(
    filter_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedfilter.commands.common._BLOCK_BYTES", 3 * 4 * D)
    for name, value, told in (
        ("gap", None, "expected an embedding in each row, found null in row 8$"),
        ("nan", [float("nan")] * D, "expected finite numbers, found NaN or infinity in row 8$"),
    ):
        rows = [[1.0] * D for _ in range(10)]
        table_ = pa.table({"e": pa.array([*rows[:8], value, rows[9]], pa.list_(pa.float32()))})
        pq.write_table(table_, tmp_path / f"{name}.parquet")
        line = failure("apply", filter_file, tmp_path / f"{name}.parquet", tmp_path / "o.npy")
        assert re.search(told, line), line


def test_files_that_are_none(filter_file: Path, tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(b"PAR1 and nothing else")
    (tmp_path / "in.arrow").write_bytes(b"ARROW1 and nothing else")
    for name in ("in.parquet", "in.arrow"):
        line = failure("apply", filter_file, tmp_path / name, tmp_path / f"out{name[2:]}")
        assert f"{tmp_path / name}: " in line
    line = failure("apply", filter_file, tmp_path / "none.parquet", tmp_path / "out.parquet")
    assert "none.parquet" in line
    for name in ("out.docx", "out.npy.gz", "out.bin"):
        line = failure("apply", filter_file, tmp_path / "in.parquet", tmp_path / name)
        assert f"{name}: expected a " in line


def large_file(path: Path, n: int) -> None:
    X = np.random.default_rng(0).standard_normal((1000, D)).astype("f4")
    with pq.ParquetWriter(path, table(X).schema, compression="none") as writer:
        writer.write_table(pa.concat_tables([table(X)] * (n // 1000)), row_group_size=n)


def test_a_full_disk(filter_file: Path, tmp_path: Path) -> None:
    large_file(tmp_path / "in.parquet", 100_000)
    done = subprocess.run(
        [COMMAND, "apply", filter_file, tmp_path / "in.parquet", tmp_path / "out.parquet"],
        capture_output=True, text=True, check=False, env=UNMEASURED,
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        ),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"embedfilter: error: {tmp_path / 'out.parquet'}: File too large\n"
    assert names(tmp_path) == ["f.safetensors", "in.parquet"]


def test_interrupted(filter_file: Path, tmp_path: Path) -> None:
    # Standard input that does not end: the command is in the middle for sure.
    X = np.ones((1000, D), "f4")
    sink = pa.BufferOutputStream()
    stream = pa.ipc.new_stream(sink, table(X).schema)
    for _ in range(5):
        stream.write_table(table(X))
    (tmp_path / "out.arrow").write_bytes(b"what was there")
    # Whoever runs the tests may ignore the signal, which children inherit.
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from embedfilter.commands.main import main\n"
        "main(sys.argv[1:])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "apply", filter_file, "-", tmp_path / "out.arrow"],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=SCRIPTS,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(sink.getvalue().to_pybytes())
    process.stdin.flush()
    end = time.monotonic() + 240
    while not any(name.endswith(".part") for name in names(tmp_path)):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.stdin.close()
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(240) != 0
    assert (tmp_path / "out.arrow").read_bytes() == b"what was there"
    assert names(tmp_path) == ["f.safetensors", "out.arrow"]


def test_memory_does_not_grow_with_the_file(filter_file: Path, tmp_path: Path) -> None:
    code = PEAK + (
        "import sys\nfrom embedfilter.commands.main import main\n"
        "main(sys.argv[1:], standalone_mode=False)\nprint(peak())"
    )
    peaks = []
    for n in (300_000, 1_500_000):  # 38 and 192 MB, each in one row group
        large_file(tmp_path / "in.parquet", n)
        out = tmp_path / "out.parquet"
        source = tmp_path / "in.parquet"
        done = run_code(code, "apply", filter_file, source, out, "--threads", 2)
        peaks.append(int(done.stdout.splitlines()[-1]))
        assert pq.ParquetFile(out).metadata.num_rows == n
    assert peaks[1] - peaks[0] < 100e6


@pytest.mark.long
def test_memory_does_not_grow_with_lines(filter_file: Path, tmp_path: Path) -> None:
    code = PEAK + (
        "import sys\nfrom embedfilter.commands.main import main\n"
        "main(sys.argv[1:], standalone_mode=False)\nprint(peak())"
    )
    line = json.dumps({"text": "a text", "e": [i / 3 for i in range(D)]}) + "\n"
    source, out, peaks = tmp_path / "in.jsonl", tmp_path / "out.jsonl", []
    for n in (20_000, 120_000):  # whose numbers alone take 15 and 92 MB as Python has them
        source.write_text(line * n)
        done = run_code(code, "apply", filter_file, source, out, "--threads", 2)
        peaks.append(int(done.stdout.splitlines()[-1]))
        with out.open() as file:
            assert sum(1 for _ in file) == n
    assert peaks[1] - peaks[0] < 15e6
