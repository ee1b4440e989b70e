"""Tables of text that are damaged: nothing of them is left out without a word."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from embedfilter import EmbedFilterError
from embedfilter.files.tables.base import Layout
from embedfilter.files.tables.opening import open_table
from embedfilter.files.tables.outputs import open_output

N, K = 40_000, 4
ROWS = [{"id": i, "e": [i / 7, i / 11, i / 13, 1.0]} for i in range(N)]


def read(path: Path) -> int:
    with open_table([path]) as table:
        name = table.embedding_column(None)
        return sum(len(part.array(name, "", 0, K)) for part in table.parts(1000))


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_compressed_file_cut_short(tmp_path: Path, share: float) -> None:
    path = tmp_path / "x.jsonl.gz"
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    data = gzip.compress(text.encode(), 1)
    path.write_bytes(data)
    assert read(path) == N
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(EmbedFilterError, match=r"x\.jsonl\.gz: cannot be read"):
        read(path)
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(64) + data[middle + 64 :])
    with pytest.raises(EmbedFilterError, match=r"x\.jsonl\.gz: "):
        read(path)


def test_a_quote_that_nothing_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('id,text\n1,"abc\n2,def\n3,ghi\n')
    with (
        pytest.raises(EmbedFilterError, match=r"x\.csv: line 4: unexpected end of data"),
        open_table([path]) as table,
    ):
        list(table.parts(10))


def test_columns_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    lists = pa.array([[1.0, 2.0]])
    batch = pa.RecordBatch.from_arrays([lists, pa.array([1]), pa.array([2])], ["e", "a", "a"])
    with pa.ipc.new_file(path, batch.schema) as file:
        file.write_batch(batch)
    with pytest.raises(EmbedFilterError, match="expected columns of names that differ, found 'a'"):
        open_table([path])


@pytest.mark.parametrize("length", [1, 30, 31, 32, 41, 52, 64])
def test_a_safetensors_header_has_room_for_any_number_of_rows(tmp_path: Path, length: int) -> None:
    source, path = tmp_path / "x.jsonl", tmp_path / "y.safetensors"
    source.write_text("".join(json.dumps({"e": row["e"]}) + "\n" for row in ROWS[:1000]))
    rows = np.arange(1000 * K, dtype=np.float32).reshape(1000, K)
    with open_table([source]) as table:
        layout = Layout(table, "é" * length, K, np.dtype(np.float32))
        with open_output(str(path), "safetensors", layout) as file:
            done = 0
            for part in table.parts(100):
                file.write(part, rows[done : done + len(part)])
                done += len(part)
    (found,) = load_file(path).values()
    np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"response": {"data": [{"e": [0.5]}]}}, "--column response.data.0.e"),
        (
            {"response": {"data": [{"e": [0.5]}, {"e": [1.5]}]}},
            "--column response.data.0.e; of several in a line jq -c '.response.data[]' makes lines",
        ),
        (
            {"a": [{"my key": [[0.5], [1.5]]}]},
            "--column a.0.my key.0; of several in a line"
            " jq -c '.a[0].\"my key\"[] | {embedding: .}' makes lines",
        ),
        (
            {"data": [[0.5], [1.5]]},
            "--column data.0; of several in a line jq -c '.data[] | {embedding: .}' makes lines",
        ),
        ({"q": {"e": [0.5]}, "d": {"e": [0.5]}}, "--column q.e or d.e"),
        ({"a": {"b.c": [0.5], "d": [0.5]}}, "--column a.d"),
        ({"a": {"b": [0.5], "d": [0.5]}, "a.b": 3}, "--column a.d"),
    ],
)
def test_the_advice_for_keys_inside_of_others(
    tmp_path: Path, row: dict[str, Any], advice: str
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row))
    with open_table([path]) as table:
        with pytest.raises(EmbedFilterError) as raised:
            table.embedding_column(None)
        assert str(raised.value).endswith(f": {advice}")
        column = advice.removeprefix("--column ").partition(";")[0].partition(" or ")[0]
        name = table.embedding_column(column)
        (part,) = table.parts(100)
        assert part.array(name, "", 0, None).tolist() == [[0.5]]


def test_keys_with_dots_inside_of_others(tmp_path: Path) -> None:
    """No --column leads to them, so that none is advised."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": {"b.c": [0.5]}}')
    with open_table([path]) as table, pytest.raises(EmbedFilterError, match="found none among 'a'"):
        table.embedding_column(None)


def test_a_later_key_of_the_name_of_the_way(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = ['{"a": {"b": [0.5]}}'] * 30
    path.write_text("\n".join([*lines, '{"a": {"b": [0.5]}, "a.b": "kept?"}']))
    with open_table([path]) as table:
        table.embedding_column("a.b")
        with pytest.raises(EmbedFilterError, match=r"x\.jsonl: .*a key of that name in row 30$"):
            list(table.parts(80))
