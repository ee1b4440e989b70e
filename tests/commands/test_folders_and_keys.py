"""``embedfilter apply`` where embeddings lie inside of others' keys, or in folders of files."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import failure, run
from rows_with_texts import FRAME, IDS, LIST, TEXTS, N, X, their_filter

from embedfilter import EmbedFilter

read_lines = functools.partial(pd.read_json, lines=True)


@pytest.fixture(scope="module")
def f() -> EmbedFilter:
    return their_filter()


@pytest.fixture
def filter_file(f: EmbedFilter, tmp_path: Path) -> Path:
    f.save(tmp_path / "f.safetensors")
    return tmp_path / "f.safetensors"


def test_keys_inside_of_others(f: EmbedFilter, filter_file: Path, tmp_path: Path) -> None:
    """As OpenAI's servers answer."""
    path, out = tmp_path / "x.jsonl", tmp_path / "o.jsonl"
    one = [{"id": i, "data": [{"index": 0, "embedding": x.tolist()}]} for i, x in enumerate(X)]
    path.write_text("".join(json.dumps(row) + "\n" for row in one))
    line = failure("apply", filter_file, path, out)
    assert line.endswith("found one inside of 'data': --column data.0.embedding")
    for wanted in ("data", "data.0", "data.0.vector"):  # the way to another place
        line = failure("apply", filter_file, path, out, "--column", wanted)
        assert line.endswith("found one inside of 'data': --column data.0.embedding"), line
    run("apply", filter_file, path, out, "--column", "data.0.embedding")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    found = np.array([row["data"][0]["embedding"] for row in rows], "f4")
    np.testing.assert_array_equal(found, f.transform(X))
    for i, row in enumerate(rows):  # all else is as it was, in its order
        assert json.dumps(row) == json.dumps(
            {"id": i, "data": [{"index": 0, "embedding": row["data"][0]["embedding"]}]}
        )
    run("apply", filter_file, path, out, "--column", "data.0.embedding", "--precision", "ubinary",
        "--output-column", "bits")  # fmt: skip
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [{**row, "bits": None} for row in rows] == [{**row, "bits": None} for row in one]
    bits = [row["bits"] for row in rows]
    np.testing.assert_array_equal(bits, f.transform(X, precision="ubinary"))
    run("apply", filter_file, path, tmp_path / "o.parquet", "--column", "data.0.embedding")
    np.testing.assert_array_equal(
        np.stack(pd.read_parquet(tmp_path / "o.parquet")["data.0.embedding"]), f.transform(X)
    )
    run("apply", filter_file, path, tmp_path / "o.npy", "--column", "data.0.embedding")
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), f.transform(X))

    lines = path.read_text().splitlines()
    lines[3] = json.dumps({"id": 3, "data": []})
    path.write_text("\n".join(lines))
    line = failure("apply", filter_file, path, out, "--column", "data.0.embedding")
    assert line.endswith("expected an embedding in each row, found none in row 3")

    path.write_text(json.dumps({"data": [{"embedding": x.tolist()} for x in X]}))
    line = failure("apply", filter_file, path, out)
    assert line.endswith(
        "--column data.0.embedding; of several in a line jq -c '.data[]' makes lines"
    )
    assert "--column names a column" in failure("apply", filter_file, path, out, "--key", "data")


def test_the_key_of_a_batch_that_openai_answered(filter_file: Path, tmp_path: Path) -> None:
    path, way = tmp_path / "x.jsonl", "response.body.data.0.embedding"
    one = {"custom_id": "a", "response": {"body": {"data": [{"embedding": X[0].tolist()}]}}}
    path.write_text(json.dumps(one))
    line = failure("apply", filter_file, path, tmp_path / "o.jsonl")
    assert line.endswith(f"found one inside of 'response': --column {way}")


def test_no_key_is_overwritten(filter_file: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "x.jsonl", tmp_path / "o.jsonl"
    rows = [{"embedding": x.tolist()} for x in X]
    rows[1]["small"] = "precious"  # not in the first row
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = failure("apply", filter_file, path, out, "--output-column", "small")
    assert line.endswith(
        "expected a key that no row has, found 'small', whose values would be lost"
    )
    path.write_text("".join(json.dumps({"data": row, "small": 1}) + "\n" for row in rows))
    line = failure("apply", filter_file, path, out, "--column", "data.embedding",
                   "--output-column", "small")  # fmt: skip
    assert "found 'small', whose values would be lost" in line
    FRAME.to_parquet(tmp_path / "x.parquet")
    line = failure("apply", filter_file, tmp_path / "x.parquet", out, "--output-column", "id")
    assert "--output-column: expected a name that" in line
    assert not out.exists()


def test_a_key_with_a_dot_in_its_name(f: EmbedFilter, filter_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"a.b": x.tolist(), "a": {"b": LIST}}) + "\n" for x in X))
    run("apply", filter_file, path, tmp_path / "o.npy", "--column", "a.b")
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), f.transform(X))


def test_folders_that_name_columns(f: EmbedFilter, filter_file: Path, tmp_path: Path) -> None:
    frame_ = FRAME.assign(lang=["en", "de"] * (N // 2), year=[2020 + i // 25 for i in IDS])
    frame_["embedding"] = list(X)
    frame_.to_parquet(tmp_path / "in", partition_cols=["lang", "year"])
    (tmp_path / "in" / "_SUCCESS").touch()
    for name in ("o.parquet", "o.jsonl"):
        run("apply", filter_file, tmp_path / "in", tmp_path / name)
        read = pd.read_parquet if name.endswith("parquet") else read_lines
        found = read(tmp_path / name).sort_values("id")
        assert list(found["lang"]) == list(frame_["lang"])
        assert list(found["year"]) == list(frame_["year"])
        assert list(found["text"]) == TEXTS
        np.testing.assert_array_equal(np.stack(found["embedding"]).astype("f4"), f.transform(X))
    (tmp_path / "none" / "lang=en").mkdir(parents=True)
    line = failure("apply", filter_file, tmp_path / "none", tmp_path / "o.npy")
    assert "expected Parquet files in folders named NAME=VALUE, found none" in line


def test_files_with_an_equals_sign_in_their_names(
    f: EmbedFilter, filter_file: Path, tmp_path: Path
) -> None:
    """They name no columns, and neither does a folder beside files of embeddings."""
    source = tmp_path / "in"
    (source / "run=3").mkdir(parents=True)
    FRAME[:5].to_parquet(source / "run=3" / "x.parquet")
    np.save(source / "lr=0.1.npy", X[:20])
    np.save(source / "lr=0.2.npy", X[20:])
    run("apply", filter_file, source, tmp_path / "o.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), f.transform(X))


def test_a_table_beside_folders_that_name_columns(filter_file: Path, tmp_path: Path) -> None:
    """Alone it would pass for the whole."""
    source = tmp_path / "in"
    FRAME.assign(lang="en").to_parquet(source, partition_cols=["lang"])
    FRAME[:5].to_parquet(source / "stray.parquet")
    line = failure("apply", filter_file, source, tmp_path / "o.parquet")
    assert line.endswith("or files alone, found stray.parquet beside lang=en")
    assert not (tmp_path / "o.parquet").exists()


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (FRAME[["embedding", "id"]], "expected the columns of {}, ['id', 'embedding'], found"),
        (FRAME[["id", "text", "embedding"]], "expected the columns of {}"),
        (
            FRAME[["id", "embedding"]].astype({"id": "f8"}),
            "column 'id': expected int64, as in {}, ",
        ),
    ],
)
def test_folders_that_name_columns_of_files_that_differ(
    filter_file: Path, tmp_path: Path, other: pd.DataFrame, told: str
) -> None:
    paths = [tmp_path / "in" / f"lang={name}" / "x.parquet" for name in ("de", "en")]
    for path, frame_ in zip(paths, (FRAME[["id", "embedding"]], other), strict=True):
        path.parent.mkdir(parents=True)
        frame_.to_parquet(path)
    line = failure("apply", filter_file, tmp_path / "in", tmp_path / "o.npy")
    assert f"{paths[1]}: {told.format(paths[0])}" in line


def test_the_name_of_an_index_of_several_files(filter_file: Path, tmp_path: Path) -> None:
    for i, rows in enumerate((slice(0, 20), slice(20, N))):
        part = FRAME[rows].set_index(pd.RangeIndex(rows.start, rows.stop, name="doc"))
        part.to_parquet(tmp_path / f"{i}.parquet")
    run("apply", filter_file, *(tmp_path / f"{n}.parquet" for n in "01o"))
    found = pd.read_parquet(tmp_path / "o.parquet")
    assert found.index.equals(pd.RangeIndex(N))
    assert found.index.name == "doc"
    assert list(found["text"]) == TEXTS
