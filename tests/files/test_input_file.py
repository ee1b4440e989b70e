"""Bounded reads from one file, by several threads, with ``preadv`` and without."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedfilter.errors import CheckpointError
from embedfilter.files import input_file
from embedfilter.files.input_file import InputFile


@pytest.fixture(params=["preadv", "seek"])
def way(request, monkeypatch):
    """How a file is read: as on Linux, or as where there is no ``preadv``."""
    if request.param == "seek":
        monkeypatch.delattr(os, "preadv", raising=False)
    elif not hasattr(os, "preadv"):
        pytest.skip("a system without preadv")
    return request.param


@pytest.mark.usefixtures("way")
def test_reads_of_many_threads(tmp_path, monkeypatch):
    # In pieces, so that threads come between those of others.
    monkeypatch.setattr(input_file, "_MAX_READ", 1000)
    path = tmp_path / "file"
    expected = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8)
    expected[:4] = np.frombuffer(b"\r\n\n\x1a", np.uint8)  # what text would not keep
    path.write_bytes(expected.tobytes())
    file = InputFile(path)
    starts = np.random.default_rng(1).integers(0, 190_000, 400)
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(lambda at: file.read(int(at), 9_999), starts)
        for start, read in zip(starts, parts, strict=True):
            np.testing.assert_array_equal(read, expected[start : start + 9_999])
    np.testing.assert_array_equal(file.read(0, len(expected)), expected)
    file.close()


@pytest.mark.usefixtures("way")
def test_a_file_that_is_cut_is_told(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(3000))
    file = InputFile(path)
    with path.open("r+b") as other:
        other.truncate(1000)
    with pytest.raises(CheckpointError, match="changed while it was read: expected 3000 bytes"):
        file.read(500, 2000)
    file.close()


@pytest.mark.usefixtures("way")
def test_an_error_of_the_system_names_the_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    file = InputFile(path)
    descriptor = os.open(tmp_path / "written", os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, file._file.fileno())  # not open for reading
    os.close(descriptor)
    with pytest.raises(CheckpointError, match=r"file: cannot be read: Bad file descriptor"):
        file.read(0, 10)
    file.close()
