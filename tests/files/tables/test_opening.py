"""What comes through a pipe, or in several files, as one table."""

from __future__ import annotations

import datetime
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedfilter.errors import EmbedFilterError
from embedfilter.files.tables.opening import open_table

# Not compressed, and each as long as another: offsets in the last one fit the first.
TABLES = [
    pa.table({"id": range(n, n + 50), "embedding": list(np.full((50, 4), n, "f4"))})
    for n in range(3)
]
WRITERS: dict[str, Any] = {
    "parquet": lambda table, file: pq.write_table(table, file, compression="none"),
    "arrow": lambda table, file: write_batches(pa.ipc.new_file(file, table.schema), table),
    "stream": lambda table, file: write_batches(pa.ipc.new_stream(file, table.schema), table),
    "parquet of polars": lambda table, file: pl.from_arrow(table).write_parquet(file),
    "arrow of polars": lambda table, file: pl.from_arrow(table).write_ipc(file),
    "stream of polars": lambda table, file: pl.from_arrow(table).write_ipc_stream(file),
}


def write_batches(writer: Any, table: pa.Table) -> None:
    with writer:
        writer.write_table(table)


def written(kind: str, table: pa.Table) -> bytes:
    file = io.BytesIO()
    WRITERS[kind](table, file)
    return file.getvalue()


def ids(data: bytes, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the ids that are read of what comes through standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with open_table(["-"]) as table:
        return [row for part in table.parts(7) for row in part.values("id")]


@pytest.mark.parametrize("kind", WRITERS)
def test_files_that_cat_has_joined(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [written(kind, table) for table in TABLES]
    for table, data in zip(TABLES, files, strict=True):
        assert ids(data, monkeypatch) == table["id"].to_pylist()
    with pytest.raises(EmbedFilterError, match="expected one .* found several one after another"):
        ids(b"".join(files), monkeypatch)


def test_a_stream_that_was_closed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written("stream", TABLES[0])
    assert ids(data + data[-8:], monkeypatch) == TABLES[0]["id"].to_pylist()


def test_a_joint_where_the_blocks_of_a_pipe_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"id": [0], "text": ["x"], "embedding": [[0.5, 0.25]]})
    first = written("parquet", table)
    for cut in range(-6, 7):
        text = "x" * ((1 << 20) - len(first) + cut)
        data = written("parquet", table.set_column(1, "text", pa.array([text])))
        n = (1 << 20) - len(data) + cut  # so that one ends about where a block does
        data = written("parquet", table.set_column(1, "text", pa.array([text + "x" * n])))
        with pytest.raises(EmbedFilterError, match="several one after another"):
            ids(data + first, monkeypatch)


@pytest.mark.parametrize(
    "text",
    ["PAR1PAR1", "ARROW1ARROW1\0\0", "the joint is PAR1PAR1", "PAR1PAR1" + "a" * 100,
     "PAR1PAR1PAR1" + "a" * 1000],
)  # fmt: skip
def test_texts_about_it_are_no_joint(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = TABLES[0].append_column("text", pa.array([text] * 50))
    for kind in ("parquet", "arrow"):
        data = written(kind, table)
        assert text.encode() in data
        assert ids(data, monkeypatch) == table["id"].to_pylist()
        with pytest.raises(EmbedFilterError, match="several one after another"):
            ids(data + data, monkeypatch)


VALUES: dict[str, list[Any]] = {
    "text": ["a", None, "c"], "tags": [["a"], [], None], "meta": [{"k": 1}, None, {"k": 3}],
    "day": [datetime.date(2024, 1, day) for day in (1, 2, 3)],
}  # fmt: skip


@pytest.mark.parametrize("empty", [0, 1])
@pytest.mark.parametrize("is_partitioned", [False, True])
def test_columns_that_are_nulls_alone_in_a_file(
    empty: int, is_partitioned: bool, tmp_path: Path
) -> None:
    # As pandas writes a part in which a column has no value.
    found: dict[str, list[Any]] = {name: [] for name in VALUES}
    for i in range(2):
        values = {name: [None] * 3 for name in VALUES} if i == empty else VALUES
        rows = pa.table({**values, "embedding": [[float(i)] * 4] * 3})
        folder = tmp_path / f"part={i}" if is_partitioned else tmp_path
        folder.mkdir(exist_ok=True)
        pq.write_table(rows, folder / f"{i}.parquet")
    with open_table([tmp_path]) as table:
        name = table.embedding_column(None)
        for part in table.parts(2):
            assert part.array(name, "", 0, 4).shape == (len(part), 4)
            for column in VALUES:
                found[column] += part.values(column)
    for name, expected in VALUES.items():
        assert found[name] == ([None] * 3 + expected if empty == 0 else expected + [None] * 3)


def test_a_column_of_another_type_in_a_file(tmp_path: Path) -> None:
    for i, price in enumerate(([1], [1.5])):
        pq.write_table(pa.table({"price": price, "e": [[0.5]]}), tmp_path / f"{i}.parquet")
    with pytest.raises(
        EmbedFilterError,
        match=r"1\.parquet: column 'price': expected int64, as in .*, found double",
    ):
        open_table([tmp_path])
