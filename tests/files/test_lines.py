"""Lines, texts and tables, as other programs write them."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from embedfilter import EmbedFilterError
from embedfilter.files.lines import read_labels, read_lines, read_table, read_texts

# Unicode separates lines by all of these, but they may stand in a text.
INSIDE = "a\u2028b\x85c\x0bd\x0ce\x1cf"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_lines(tmp_path: Path, mark: bytes, end: str, last: bool) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(mark + (f"one{end}{INSIDE}{end}{end}日本" + end * last).encode())
    assert read_lines(path) == ["one", INSIDE, "", "日本"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n b \n")))
    assert read_texts(Path("-")) == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "texts.txt: expected a line for each item, found an empty file"),
        (b"a\n\xff\n", "texts.txt: expected UTF-8 in line 2, found byte 0xff"),
        (b"a\n \nb\n", "texts.txt: expected a text in line 2, found none"),
    ],
)
def test_what_is_no_text(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(data)
    with pytest.raises(EmbedFilterError, match=message):
        read_texts(path)


def test_texts_in_columns(tmp_path: Path) -> None:
    texts = ["one, two", "日本\u2028"[:2], 'a "quoted" one']
    frame = pd.DataFrame({"id": range(3), "text": texts, "other": ["x", "y", "z"]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_json(tmp_path / "x.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "x.Parquet")
    for name in ("x.csv", "x.jsonl", "x.Parquet"):
        assert read_texts(tmp_path / name) == texts
        assert read_texts(tmp_path / name, "other") == ["x", "y", "z"]
        with pytest.raises(EmbedFilterError, match="expected a column 'no', found 'id', 'text'"):
            read_texts(tmp_path / name, "no")
    frame.assign(text=["a", None, "b"]).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(EmbedFilterError, match="expected a text in row 1, found none"):
        read_texts(tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("a text, and no header\n")
    with pytest.raises(EmbedFilterError, match="expected a column 'text' or .* --column"):
        read_texts(tmp_path / "x.csv")


def test_labels_in_arrays(tmp_path: Path) -> None:
    path = tmp_path / "y.NPY"
    for labels, expected in (
        (np.array([1, 0, 1]), ["1", "0", "1"]),
        (np.array(["a", "é"]), ["a", "é"]),
    ):
        with path.open("wb") as file:
            np.save(file, labels)
        assert read_labels(path) == expected
    for labels, message in (
        (np.ones((3, 2)), r"y.NPY: expected an array of labels \(n,\), found shape \(3, 2\)"),
        (np.array([1.0, np.nan]), "y.NPY: expected a label in row 1, found none"),
        (np.array(["a", None]), "y.NPY: expected a .npy file of labels: Object arrays cannot be"),
    ):
        with path.open("wb") as file:
            np.save(file, labels)
        with pytest.raises(EmbedFilterError, match=message):
            read_labels(path)


def test_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("a\nb\na\n")
    assert read_labels(path) == ["a", "b", "a"]
    path.write_text("a\n\na\n")
    with pytest.raises(
        EmbedFilterError, match="labels.txt: expected a label in line 2, found none"
    ):
        read_labels(path)
    frame = pd.DataFrame({"label": ["a", None, "b"], "n": [1, 2, 3]})
    frame.to_parquet(tmp_path / "x.parquet")
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_csv(tmp_path / "x.tsv", index=False, sep="\t")
    for name in ("x.parquet", "x.csv", "x.tsv"):
        with pytest.raises(EmbedFilterError, match="expected a label in row 1, found none"):
            read_labels(tmp_path / name)
        assert read_labels(tmp_path / name, "n") == ["1", "2", "3"]


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text('\ufefffirst\tscore\n"quoted\t1\nb\u2028c\t2\n', encoding="utf-8")
    rows = read_table(path, ["score"])
    assert rows == [{"first": '"quoted', "score": "1"}, {"first": "b\u2028c", "score": "2"}]
    with pytest.raises(EmbedFilterError, match="expected a header line with 'label'"):
        read_table(path, ["label"])
    path.write_text("first\tscore\na\n", encoding="utf-8")
    with pytest.raises(EmbedFilterError, match="found fewer in line 2"):
        read_table(path, ["score"])
