"""Files that are gone in the end. Those that appear whole are tried in tests/commands."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from embedfilter.files.atomic import temporary_file


def test_a_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_file(is_named=True) as file:
        file.write(b"some bytes")
        file.flush()
        assert Path(file.name).read_bytes() == b"some bytes"
        file.seek(5)
        assert file.read() == b"bytes"
        assert Path(file.name).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="it removes no file that is open")
def test_a_temporary_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_file() as file:
        assert list(tmp_path.iterdir()) == []
        file.write(b"some bytes")
        file.seek(5)
        assert file.read() == b"bytes"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_a_full_folder_of_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    least, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with temporary_file() as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
        try:
            with pytest.raises(OSError, match="too large") as told:
                file.write(bytes(200_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (least, most))
    assert str(tmp_path) in told.value.filename
    assert "TMPDIR" in told.value.filename
    assert list(tmp_path.iterdir()) == []


def test_no_folder_of_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="TMPDIR"), temporary_file():
        pass
