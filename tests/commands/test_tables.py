"""``embedfilter apply`` from each kind of file into each, beside the filter itself."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import SCRIPTS, failure, run
from numpy.typing import NDArray
from rows_with_texts import FRAME, IDS, LIST, TEXTS, D, N, X, their_filter
from safetensors.numpy import load_file, save_file

from embedfilter import EmbedFilter

TABLE = pa.table({"id": IDS, "text": TEXTS, "embedding": pa.array(list(X))})
WIDE = pd.DataFrame(X, columns=[f"e{i}" for i in range(D)])


@pytest.fixture(scope="module")
def f() -> EmbedFilter:
    return their_filter()


@pytest.fixture
def filter_file(f: EmbedFilter, tmp_path: Path) -> Path:
    f.save(tmp_path / "f.safetensors")
    return tmp_path / "f.safetensors"


def write_stream(path: Path) -> None:
    with pa.ipc.new_stream(path, TABLE.schema) as stream:
        stream.write_table(TABLE, max_chunksize=9)


def write_zst(path: Path) -> None:
    with pa.CompressedOutputStream(path, "zstd") as stream:
        stream.write(FRAME.to_json(orient="records", lines=True).encode())


def write_folder(path: Path) -> None:
    path.mkdir()
    for i in range(12):  # part-10 comes after part-2
        pq.write_table(TABLE.slice(4 * i, 4 if i < 11 else None), path / f"part-{i}.parquet")
    (path / "_SUCCESS").touch()


def save_npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, X)


def save_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, X)


# Name, how it is made, and whether it has other columns.
SOURCES: dict[str, tuple[Any, bool]] = {
    "x.NPY": (save_npy, False),
    "x.npz": (save_npz, False),
    "x.pt": (lambda p: torch.save({"a": torch.tensor(X)}, p), False),
    "x.safetensors": (lambda p: save_file({"a": X}, p), False),
    "x.PARQUET": (lambda p: pq.write_table(TABLE, p), True),
    "x.feather": (lambda p: FRAME.to_feather(p), True),
    "stream.arrow": (write_stream, True),
    "x.jsonl": (lambda p: FRAME.to_json(p, orient="records", lines=True), True),
    "x.jsonl.gz": (lambda p: FRAME.to_json(p, orient="records", lines=True), True),
    "x.jsonl.zst": (write_zst, True),
    "cells.csv": (lambda p: FRAME.to_csv(p, index=False), True),
    "named.csv": (lambda p: FRAME.iloc[:, :2].join(WIDE).to_csv(p, index=False), True),
    "wide.tsv": (lambda p: WIDE.to_csv(p, sep="\t", index=False), False),
    "numbers.csv": (lambda p: pd.DataFrame(X).to_csv(p, index=False), False),
    "plain.csv": (lambda p: pd.DataFrame(X).to_csv(p, index=False, header=False), False),
    "folder": (write_folder, True),
}
OUTPUTS = (
    "o.npy", "o.NPZ", "o.pt", "o.safetensors", "O.PARQUET", "o.arrow", "o.jsonl", "o.csv",
    "o.jsonl.gz", "o.csv.zst",
)  # fmt: skip


def frame(path: Path) -> pd.DataFrame:
    """Read a table with its own library."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        return pq.read_table(path).to_pandas()
    if name.endswith(".arrow"):
        return pa.ipc.open_file(path).read_all().to_pandas()
    data = path.read_bytes()
    if name.endswith(".gz"):
        data = gzip.decompress(data)
    if name.endswith(".zst"):
        data = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
    if ".jsonl" in name:
        return pd.DataFrame([json.loads(line) for line in data.decode().rstrip("\n").split("\n")])
    tabs = "\t" if name.endswith(".tsv") else ","
    return pd.read_csv(io.BytesIO(data), sep=tabs, header=None if "plain" in name else 0)


def matrix(path: Path) -> NDArray:
    name = path.name.lower()
    if name.endswith(".npy"):
        return np.load(path)
    if name.endswith(".npz"):
        with np.load(path) as arrays:
            return arrays[arrays.files[0]]
    if name.endswith(".pt"):
        return torch.load(path).numpy()
    if name.endswith(".safetensors"):
        return next(iter(load_file(path).values()))
    found = frame(path)
    for column in ("embedding", "e"):
        if column in found:
            cells = found[column]
            if isinstance(cells[0], str):
                cells = cells.map(json.loads)
            return np.stack([np.asarray(row) for row in cells]).astype("f4")
    return found.filter(regex=r"^(embedding|e)?\d+$").to_numpy("f4")


@pytest.mark.parametrize("source", SOURCES)
def test_each_kind_into_each(
    f: EmbedFilter, filter_file: Path, tmp_path: Path, source: str
) -> None:
    write, has_columns = SOURCES[source]
    write(tmp_path / source)
    for name in OUTPUTS:
        output = tmp_path / (f"plain-{name}" if source == "plain.csv" else name)
        run("apply", filter_file, tmp_path / source, output)
        np.testing.assert_array_equal(matrix(output), f.transform(X), err_msg=name)
        if has_columns and output.suffix.lower() not in (".npy", ".npz", ".pt", ".safetensors"):
            found = frame(output)
            assert list(found.columns)[:2] == ["id", "text"], name
            assert list(map(int, found["id"])) == IDS
            assert list(found["text"]) == TEXTS, name


def test_a_list_of_tensors(f: EmbedFilter, filter_file: Path, tmp_path: Path) -> None:
    torch.save([torch.tensor(x) for x in X], tmp_path / "list.pt")
    run("apply", filter_file, tmp_path / "list.pt", tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), f.transform(X))
    torch.save({"model": np.dtype}, tmp_path / "other.pt")
    line = failure("apply", filter_file, tmp_path / "other.pt", tmp_path / "no.npy")
    assert "expected tensors alone, found other: numpy.dtype" in line


@pytest.mark.parametrize("source", [name for name in SOURCES if name != "folder"])
def test_standard_input_and_output(
    f: EmbedFilter, filter_file: Path, tmp_path: Path, source: str
) -> None:
    SOURCES[source][0](tmp_path / source)
    data = (tmp_path / source).read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "embedfilter", "apply", filter_file, "-", "-"],
        input=data, capture_output=True, check=True, cwd=SCRIPTS,
    )  # fmt: skip
    assert not done.stderr
    suffix = Path(source.lower().removesuffix(".gz").removesuffix(".zst")).suffix
    suffix = suffix.replace(".feather", ".arrow")  # compressed input is no reason for such output
    output = tmp_path / f"{Path(source).stem}-out{suffix}"
    output.write_bytes(done.stdout)
    if suffix == ".arrow":
        found = pa.ipc.open_stream(done.stdout).read_all().columns[-1].to_pylist()
        np.testing.assert_array_equal(np.array(found, "f4"), f.transform(X))
    else:
        np.testing.assert_array_equal(matrix(output), f.transform(X))


def test_the_format_of_standard_output(f: EmbedFilter, filter_file: Path, tmp_path: Path) -> None:
    SOURCES["x.jsonl"][0](tmp_path / "x.jsonl")
    for format_ in ("npy", "parquet", "safetensors"):
        done = subprocess.run(
            [sys.executable, "-m", "embedfilter", "apply", filter_file, "-", "-",
             "--format", format_],
            input=(tmp_path / "x.jsonl").read_bytes(), capture_output=True, check=True, cwd=SCRIPTS,
        )  # fmt: skip
        output = tmp_path / f"out.{format_}"
        output.write_bytes(done.stdout)
        np.testing.assert_array_equal(matrix(output), f.transform(X))


def test_several_files(f: EmbedFilter, filter_file: Path, tmp_path: Path) -> None:
    for name, rows in (("a.npy", X[:20]), ("b.npy", X[20:]), ("c.npy", X[:, :4])):
        np.save(tmp_path / name, rows)
    a, b, c, out = (tmp_path / name for name in ("a.npy", "b.npy", "c.npy", "out.parquet"))
    run("apply", filter_file, a, b, out)
    np.testing.assert_array_equal(matrix(out), f.transform(X))
    line = failure("apply", filter_file, a, c, tmp_path / "no.npy")
    assert f"{c}: expected the columns of {a}, 16, found 4" in line
    line = failure("apply", filter_file, a, out, tmp_path / "no.npy")
    assert f"{out}: expected a file like {a}, npy, found parquet" in line
    assert not (tmp_path / "no.npy").exists()
    (tmp_path / "mixed").mkdir()
    for path in (a, out):
        os.link(path, tmp_path / "mixed" / path.name)
    assert "expected files of one kind" in failure("apply", filter_file, tmp_path / "mixed", out)


def test_other_columns_as_they_are(f: EmbedFilter, filter_file: Path, tmp_path: Path) -> None:
    rows = [
        {"n": 10**30, "tags": ["a", {"b": None}], "embedding": X[0].tolist(), "half": "\ud800"},
        {"embedding": X[1].tolist(), "other": True},
    ]
    path, out = tmp_path / "x.jsonl", tmp_path / "out.jsonl"
    path.write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    run("apply", filter_file, path, out, "--output-column", "small")
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    for row, made, expected in zip(rows, found, f.transform(X[:2]), strict=True):
        small = made.pop("small")
        assert list(made.items()) == list(row.items())
        np.testing.assert_array_equal(np.array(small, "f4"), expected)
    line = failure("apply", filter_file, path, tmp_path / "out.csv")
    assert "expected the keys of the first row, found 'other'" in line


def test_categories_in_row_groups(f: EmbedFilter, filter_file: Path, tmp_path: Path) -> None:
    kinds = [pa.array(words).dictionary_encode() for words in (["a", "b"], ["c"], ["b", None, "a"])]
    chunks = pa.chunked_array(kinds)
    table = pa.table({"kind": chunks, "embedding": pa.array(list(X[:6]))})
    path = tmp_path / "in.arrow"
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)
    for name in ("out.arrow", "out.parquet"):
        run("apply", filter_file, path, tmp_path / name)
        assert list(frame(tmp_path / name)["kind"].astype(object).fillna("-")) == [
            "a", "b", "c", "b", "-", "a",
        ]  # fmt: skip


@pytest.mark.parametrize("kind", ["tensor", "array 2D", "list view"])
def test_columns_of_other_writers(
    f: EmbedFilter, filter_file: Path, tmp_path: Path, kind: str
) -> None:
    column = {
        "tensor": lambda: pa.FixedShapeTensorArray.from_numpy_ndarray(X),
        "array 2D": lambda: pa.array(
            [[row] for row in X.tolist()], pa.list_(pa.list_(pa.float32()))
        ),
        "list view": lambda: pa.ListViewArray.from_arrays(
            pa.array(np.arange(0, X.size, D), pa.int32()),
            pa.array(np.full(N, D), pa.int32()), pa.array(X.reshape(-1)),
        ),
    }[kind]()  # fmt: skip
    path, out = tmp_path / "in.arrow", tmp_path / "out.parquet"
    with pa.ipc.new_file(path, pa.schema([("e", column.type)])) as file:
        file.write_table(pa.table({"e": column}))
    run("apply", filter_file, path, out)
    np.testing.assert_array_equal(matrix(out), f.transform(X))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", '{"e": [1.5, 2]}\n{"e": [1', "expected JSON in line 2"),
        ("x.jsonl", "[1.5]\n", "expected an object in line 1, as in JSON lines, found a list"),
        ("x.jsonl", '{"a": 1}\n', "expected one column of lists of numbers, or --column"),
        ("x.jsonl", "", "expected rows of embeddings, found none"),
        ("x.jsonl", json.dumps({"e": LIST}) + "\n" + '{"f": 1}\n', "found none in row 1"),
        ("x.jsonl", json.dumps({"e": LIST}) + "\n" + '{"e": [1.5]}\n', "found 1 in row 1"),
        ("x.jsonl", json.dumps({"e": [None, *LIST[1:]]}) + "\n", "expected one column of lists"),
        ("x.csv", "e0,e1,e2\n1,2,3\n", "expected rows of 16, which .* takes, found rows of 3$"),
        ("x.csv", ",".join(map(str, LIST)) + "\n1,2\n", "expected 16 columns, found fewer"),
        ("x.csv", ",".join(map(str, LIST)) + "\na" + ",1" * 15, "column '0': .*found 'a' in row 1"),
        ("x.csv", "a,b,a\n1,2,3\n", "expected a header of names that differ, found 'a' twice"),
        ("x.csv", "text,score\na,1\n", "expected one column of lists of numbers"),
        ("x.bin1", "\x00\x01 what", "expected a file of embeddings, .npy, .npz, .parquet"),
        ("x.csv.gz", "no,gzip\n1,a\n", "expected one column of lists"),
        ("x.json", '[{"e": [1.5]}]', r"found one JSON value over the whole file: jq -c '.\[\]'"),
        ("x.json", '{\n "e": [1.5]}', "found one JSON value over the whole file"),
        ("x.csv", "t,e\na,[0.5  -1.\nb,[1. 2.]", "'e' has lists as NumPy prints them, without"),
        ("x.csv", f"{LIST}\n{LIST}\n", rf"in quotes, .* without, from '\[{LIST[0]}"),
        ("x.csv", f"1,{LIST}\n", "expected lists of numbers in quotes"),
    ],
)  # fmt: skip
def test_bad_text(filter_file: Path, tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    line = failure("apply", filter_file, path, tmp_path / "out.npy")
    assert str(path) in line
    assert re.search(message, line), line
    assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize(
    "row",
    [
        '1,"a tab\there, ""quoted""","{}"\r\n',  # COPY WITH (FORMAT csv)
        '1\ta comma, "quoted"\t{}\n',  # COPY's own format
        "{}\n",
        "{}\r\n",
    ],
    ids=["csv", "tsv", "lists", "lists of DOS"],
)
def test_what_a_database_copies_to_a_pipe(
    f: EmbedFilter, filter_file: Path, tmp_path: Path, row: str
) -> None:
    path, out = tmp_path / "no ending", tmp_path / "out.npy"
    path.write_bytes("".join(row.format(x) for x in X.tolist()).encode())
    run("apply", filter_file, path, out)
    np.testing.assert_array_equal(np.load(out), f.transform(X))


def test_a_binary_copy_of_postgresql(filter_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"PGCOPY\n\xff\r\n\x00" + bytes(8))
    line = failure("apply", filter_file, path, tmp_path / "out.npy")
    assert "found PostgreSQL's binary COPY: COPY ... WITH (FORMAT csv, HEADER) makes text" in line


def test_cells_of_several_lines(f: EmbedFilter, filter_file: Path, tmp_path: Path) -> None:
    texts = ["a\r\nb", "a\nb", "a\rb", "\r\n", "plain"]
    path, out = tmp_path / "x.csv", tmp_path / "out.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)  # which ends lines as DOS does
        writer.writerow(["text", "embedding"])
        writer.writerows(zip(texts, map(str, X[:5].tolist()), strict=True))
    run("apply", filter_file, path, out)
    with out.open(newline="", encoding="utf-8") as file:
        assert [row["text"] for row in csv.DictReader(file)] == texts


def test_a_list_of_one_list(f: EmbedFilter, filter_file: Path, tmp_path: Path) -> None:
    """As llama.cpp's server returns an embedding."""
    path, out = tmp_path / "x.jsonl", tmp_path / "out.npy"
    path.write_text("".join(json.dumps({"index": 0, "e": [x]}) + "\n" for x in X.tolist()))
    run("apply", filter_file, path, out)
    np.testing.assert_array_equal(np.load(out), f.transform(X))


def test_data_compressed_twice(filter_file: Path, tmp_path: Path) -> None:
    SOURCES["x.jsonl.zst"][0](tmp_path / "x.jsonl.zst")
    data = gzip.compress((tmp_path / "x.jsonl.zst").read_bytes())
    (tmp_path / "twice").write_bytes(data)
    line = failure("apply", filter_file, tmp_path / "twice", tmp_path / "o.npy")
    assert "expected data compressed once, found it twice" in line


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (WIDE.mask(WIDE.iloc[3, 2] == WIDE), "column 'e2': expected .*, found null in row 3"),
        (WIDE.assign(e=1.0), "expected one column of lists of floats"),
        (WIDE.astype({"e3": int}), "expected one column of lists of floats"),
        (WIDE.join(WIDE.add_prefix("x")), "expected one column of lists of floats"),
        (WIDE.iloc[:, :5], "expected rows of 16, which .* takes, found rows of 5$"),
    ],
)
def test_columns_that_are_no_embedding(
    frame: pd.DataFrame, message: str, filter_file: Path, tmp_path: Path
) -> None:
    frame.to_parquet(tmp_path / "x.parquet")
    line = failure("apply", filter_file, tmp_path / "x.parquet", tmp_path / "o.npy")
    assert re.search(message, line), line


def test_pandas_reads_wide_columns_again(f: EmbedFilter, filter_file: Path, tmp_path: Path) -> None:
    frame = FRAME[["text"]].join(WIDE).set_index(pd.Index([f"row {i}" for i in IDS]))
    (tmp_path / "in").mkdir()
    frame[:20].to_parquet(tmp_path / "in" / "0.parquet")
    frame[20:].to_parquet(tmp_path / "in" / "1.parquet")
    run("apply", filter_file, tmp_path / "in", tmp_path / "o.parquet", "--output-column", "small")
    found = pd.read_parquet(tmp_path / "o.parquet")
    assert found.index.equals(frame.index)
    assert list(found.columns) == ["text", "e", "small"]
    np.testing.assert_array_equal(np.stack(found["e"]), X)
    np.testing.assert_array_equal(np.stack(found["small"]), f.transform(X))
    WIDE.to_feather(tmp_path / "x.feather")
    for name in ("o.npy", "o.csv"):
        run("apply", filter_file, tmp_path / "x.feather", tmp_path / name)
        np.testing.assert_array_equal(matrix(tmp_path / name), f.transform(X))


def test_other_commands_read_them(filter_file: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    done = run("calibrate", filter_file, tmp_path / "x.npy", "-o", tmp_path / "a.safetensors")
    assert f"calibrated on {N} rows" in done.stdout
    for name in ("x.PARQUET", "x.jsonl", "named.csv", "folder"):
        SOURCES[name][0](tmp_path / name)
        run("calibrate", filter_file, tmp_path / name, "-o", tmp_path / "b.safetensors")
        assert EmbedFilter.load(tmp_path / "b.safetensors") == EmbedFilter.load(
            tmp_path / "a.safetensors"
        )


# ---- Arrays of other shapes, odd metadata, pipes -------------------------------------------------


@pytest.mark.parametrize("shape", [(D,), (5, 10, D), (2, 1, 5, D), (0, 3, D)])
def test_any_number_of_axes(
    f: EmbedFilter, filter_file: Path, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    A = np.resize(X, shape).astype("f4")
    np.save(tmp_path / "a.npy", A)
    np.savez(tmp_path / "a.npz", a=A)
    np.savez_compressed(tmp_path / "deflated.npz", a=A)
    torch.save(torch.tensor(A), tmp_path / "a.pt")
    save_file({"a": A}, tmp_path / "a.safetensors")
    expected = f.transform(A)
    assert expected.shape == (*shape[:-1], f.n_components)
    for source in ("a.npy", "a.npz", "deflated.npz", "a.pt", "a.safetensors"):
        for name in ("o.npy", "o.npz", "o.pt", "o.safetensors"):
            run("apply", filter_file, tmp_path / source, tmp_path / name)
            found = matrix(tmp_path / name)
            assert found.shape == expected.shape
            np.testing.assert_array_equal(found, expected)
    if len(shape) > 1:
        for name in ("o.jsonl", "o.parquet", "o.csv"):
            line = failure("apply", filter_file, tmp_path / "a.npy", tmp_path / name)
            assert "expected a file of arrays (npy, npz, pt, safetensors)" in line
        line = failure("evaluate", tmp_path / "a.npy", "--filter", filter_file)
        assert f"expected a matrix (n, d), found shape {shape}" in line
        np.save(tmp_path / "b.npy", X)
        line = failure("apply", filter_file, *(tmp_path / f"{n}.npy" for n in "bao"))
        assert "a.npy: expected a matrix (n, d), as there are several files, found" in line
    else:
        run("apply", filter_file, tmp_path / "a.npy", tmp_path / "o.jsonl")
        np.testing.assert_array_equal(matrix(tmp_path / "o.jsonl"), expected[None])


def test_blocks_of_an_array_of_many_axes(f: EmbedFilter, tmp_path: Path) -> None:
    """More rows than are read at a time, ends of blocks in the middle of a text."""
    from embedfilter.files.tables.opening import open_table

    A = np.arange(7 * 11 * 4, dtype="f4").reshape(7, 11, 4)
    np.save(tmp_path / "a.npy", A)
    with open_table([tmp_path / "a.npy"]) as table:
        parts = [part.array(None, "", 0, 4) for part in table.parts(5)]
    assert [len(part) for part in parts] == [5] * 15 + [2]
    np.testing.assert_array_equal(np.concatenate(parts), A.reshape(77, 4))


@pytest.mark.parametrize(
    "odd",
    [
        b"x",
        b"\xff",
        b"null",
        b"[]",
        b'{"index_columns": 3}',
        b'{"index_columns": [{"kind": "range"}]}',
        b'{"index_columns": [{"kind": "range", "start": "0", "step": null}]}',
        b'{"index_columns": [{"kind": "range", "start": "0", "step": 1.5}]}',
    ],
)
def test_odd_metadata_of_pandas_stays(filter_file: Path, tmp_path: Path, odd: bytes) -> None:
    pq.write_table(TABLE.replace_schema_metadata({b"pandas": odd}), tmp_path / "x.parquet")
    run("apply", filter_file, tmp_path / "x.parquet", tmp_path / "o.parquet")
    assert pq.read_schema(tmp_path / "o.parquet").metadata[b"pandas"] == odd


@pytest.mark.parametrize("source", ["x.NPY", "x.PARQUET", "x.jsonl", "x.jsonl.gz", "cells.csv"])
def test_pipes_as_paths(f: EmbedFilter, filter_file: Path, tmp_path: Path, source: str) -> None:
    SOURCES[source][0](tmp_path / source)
    data, pipe = (tmp_path / source).read_bytes(), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[data])
    writer.start()
    run("apply", filter_file, pipe, tmp_path / "o.npy")
    writer.join()
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), f.transform(X))
    done = subprocess.run(
        [sys.executable, "-m", "embedfilter", "apply", filter_file, "/dev/stdin",
         tmp_path / "p.npy"],
        input=data, capture_output=True, check=True, cwd=SCRIPTS,
    )  # fmt: skip
    assert not done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), f.transform(X))
    line = failure("apply", filter_file, pipe, tmp_path / "o.npy", tmp_path / "no.npy")
    assert f"{pipe}: expected a pipe alone, found 1 files beside it" in line
    for device, what in (
        ("/dev/null", "no bytes"),
        ("/dev/zero", "a file that starts with b'"),
    ):
        line = failure("apply", filter_file, device, tmp_path / "no.npy")
        assert line.startswith(f"embedfilter: error: {device}: expected a file of embeddings")
        assert f"found {what}" in line
