"""What a name asks for."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedfilter.errors import EmbedFilterError
from embedfilter.files.tables.base import Layout
from embedfilter.files.tables.opening import open_table
from embedfilter.files.tables.outputs import check_output, open_output

X = np.arange(12, dtype="f4").reshape(3, 4)


@pytest.mark.parametrize(
    ("name", "open_"), [("o.arrows", pa.ipc.open_stream), ("o.arrow", pa.ipc.open_file)]
)
def test_an_arrow_stream_by_its_ending(name: str, open_, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    output = str(tmp_path / name)
    with open_table([tmp_path / "x.npy"]) as table:
        layout = Layout(table, "small", 4, X.dtype)
        assert check_output(output, "npy") == "arrow"
        with open_output(output, "arrow", layout) as out:
            for part in table.parts(2):
                out.write(part, part.array(None, "", 0, 4))
    assert not Path(output).read_bytes().endswith(2 * b"\xff\xff\xff\xff\0\0\0\0")  # one end
    found = open_(output).read_all()
    np.testing.assert_array_equal(np.stack(found["small"].to_numpy()), X)
    with open_table([output]) as table:
        assert [len(part) for part in table.parts(10)] == [2, 1]


def test_the_name_of_a_folder_is_none_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(EmbedFilterError, match="found a folder's name"):
        check_output(f"{tmp_path}/out/", "npy")
    assert check_output(f"{tmp_path}/out", "npy") == "npy"


def test_row_groups_of_long_texts_and_short_embeddings(tmp_path: Path) -> None:
    # A row group is in memory whole, with all of its columns.
    text, n = "a text " * 500, 20_000
    rows = pa.table({"text": [text] * n, "embedding": list(np.ones((n, 4), "f4"))})
    pq.write_table(rows, tmp_path / "x.parquet", row_group_size=1000)
    output = tmp_path / "o.parquet"
    with open_table([tmp_path / "x.parquet"]) as table:
        layout = Layout(table, "embedding", 2, X.dtype)
        with open_output(str(output), "parquet", layout) as out:
            for part in table.parts(1000):
                out.write(part, np.ones((len(part), 2), "f4"))
    metadata = pq.read_metadata(output)
    assert metadata.num_rows == n
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert max(sizes) * len(text) < 16e6
    assert min(sizes) > 1000


def test_decimals_keep_their_digits_in_lines(tmp_path: Path) -> None:
    prices = [Decimal("12.50"), None, Decimal("123456789012345678901234.56")]
    pq.write_table(pa.table({"price": prices, "embedding": list(X)}), tmp_path / "x.parquet")
    output = tmp_path / "o.jsonl"
    with open_table([tmp_path / "x.parquet"]) as table:
        layout = Layout(table, "embedding", 4, X.dtype)
        with open_output(str(output), "jsonl", layout) as out:
            for part in table.parts(3):
                out.write(part, X)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["price"] for row in rows] == [None if p is None else str(p) for p in prices]
