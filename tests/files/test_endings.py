"""What a file's name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedfilter.files.endings import ending


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.npy", ".npy"),
        ("Model.GGUF", ".gguf"),
        ("x.SafeTensors", ".safetensors"),
        ("model.safetensors.index.json", ".json"),
        ("none", ""),
        (".hidden", ""),
        ("folder.npy/file", ""),
    ],
)
def test_ending(name: str, expected: str) -> None:
    assert ending(name) == expected
    assert ending(Path(name)) == expected
