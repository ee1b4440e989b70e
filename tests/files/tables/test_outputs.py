"""What a name asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
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
