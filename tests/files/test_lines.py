"""Lines, texts and tables, as other programs write them."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from embedfilter import EmbedFilterError
from embedfilter.files.lines import read_lines, read_table, read_texts

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
