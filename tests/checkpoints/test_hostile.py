"""Files that must be refused, without a hang, in little memory, with a message that names them."""

from __future__ import annotations

import json
import os
import struct
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy
from checkpoint_files import (
    SOUND_GGUF,
    SOUND_SAFETENSORS,
    gguf_array,
    gguf_file,
    gguf_pair,
    safetensors_bytes,
)
from hostile_headers import HOSTILE_GGUF, HOSTILE_SAFETENSORS, Hostile
from hostile_sources import HOSTILE_SOURCES, HostileSource
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfilter.checkpoints import open_unembedding
from embedfilter.errors import CheckpointError
from embedfilter.files.input_file import InputFile

# The list of what must be refused. Rows 45 to 47, wrong parameters, and 48 to 57, wrong embeddings,
# are in test_bad_input.py; 60 and 61 in test_filter_file.py; 62 to 64, the network, in
# test_hub_hostile.py.
ROWS = {
    1: "file shorter than 8 bytes",
    2: "header length over the cap or the file",
    3: "header no UTF-8, no JSON, no object, or nested 100 000 deep",
    4: "header that begins with whitespace",
    5: "duplicate names and keys",
    6: "offsets negative, reversed, no integers, past the end",
    7: "holes, overlaps, trailing bytes",
    8: "size that is not the shape's",
    9: "dtype unknown, or meaningless for a head",
    10: "metadata that are no strings",
    11: "truncated download",
    12: "file that changes while it is open",
    13: "shard or module elsewhere",
    14: "shard or tensor missing, or stored twice",
    15: "index that is none",
    16: "several heads, or none",
    17: "config that contradicts the tensor",
    18: "pickles",
    19: "quantised heads",
    20: "FP8 without scales",
    21: "LoRA alone",
    22: "GGUF magic and version",
    23: "GGUF counts",
    24: "GGUF strings, arrays and types",
    25: "GGUF duplicate and long names",
    26: "GGUF dimensions",
    27: "GGUF storage types",
    28: "GGUF offsets",
    29: "GGUF alignment",
    30: "GGUF parts",
    31: "GGUF blocks with NaN and infinity",
    32: "NumPy objects and structures",
    33: "NumPy shape larger than the file",
    34: "NumPy header",
    35: "NumPy trailing bytes",
    36: "NumPy archives",
    38: "matrix with NaN or infinity",
    39: "matrix of zeros, of low rank, with too few rows",
    40: "matrix of another shape",
    41: "matrix of another type",
    43: "matrix whose squares overflow or underflow",
    58: "filter of another version, size or content",
    59: "filter with metadata that are no strings",
}
# Accepted: 37, Fortran order and big-endian numbers (test_orders in test_checkpoints_numpy.py).
# Warned of: 42, many copies of a row (test_checkpoints_rows.py); 44, singular values that are
# equal at the cut (test_bad_input.py).
ELSEWHERE = {37, 42, 44}


def from_header(case: Hostile, suffix: str) -> HostileSource:
    def make(folder: Path) -> Path:
        path = folder / f"hostile{suffix}"
        path.write_bytes(case.data)
        return path

    return HostileSource(case.row, f"{suffix[1:]}-{case.name}", make, case.message)


CASES = [
    *(from_header(case, ".safetensors") for case in HOSTILE_SAFETENSORS),
    *(from_header(case, ".gguf") for case in HOSTILE_GGUF),
    *HOSTILE_SOURCES,
]
OPENED: list[str] | None = None


def note_opened(event: str, arguments: tuple[object, ...]) -> None:
    if OPENED is not None and event == "open" and isinstance(arguments[0], (str, bytes)):
        OPENED.append(os.fsdecode(arguments[0]))


sys.addaudithook(note_opened)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The paths that are opened during a test."""
    global OPENED  # noqa: PLW0603 - an audit hook cannot be taken off
    OPENED = []
    yield OPENED
    OPENED = None


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"row-{case.row:02}-{case.name}")
@pytest.mark.usefixtures("deadline")
def test_row(tmp_path, case: HostileSource, opened: list[str]):
    folder = tmp_path / "model"
    folder.mkdir()
    source = case.make(folder)
    del opened[:]
    with pytest.raises(case.error, match=case.message) as raised:
        case.attempt(source)
    text = str(raised.value)
    assert len(text) < 2000
    assert "\n" not in text
    text.encode()
    if isinstance(source, Path):
        assert str(source) in text
    outside = [path for path in opened if path.startswith((str(tmp_path), "/etc/"))]
    assert all(Path(path).is_relative_to(folder) for path in outside)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"row-{case.row:02}-{case.name}")
def test_row_takes_little_memory(tmp_path, case: HostileSource):
    source = case.make(tmp_path)
    size = source.stat().st_size if isinstance(source, Path) and source.is_file() else 0
    tracemalloc.start()
    try:
        with pytest.raises(case.error):
            case.attempt(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A header is held as text and as objects; a window of GGUF is 1 MiB.
    assert peak < max(8 << 20, 20 * size)


def test_every_row_has_a_case():
    assert {case.row for case in CASES} == set(ROWS)
    assert set(ROWS) | ELSEWHERE == {*range(1, 45), 58, 59}
    assert len({(case.row, case.name) for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    ("suffix", "data"), [(".safetensors", SOUND_SAFETENSORS), (".gguf", SOUND_GGUF)]
)
def test_the_sound_file_behind_the_hostile_ones_is_accepted(tmp_path, suffix, data):
    path = tmp_path / f"sound{suffix}"
    path.write_bytes(data)
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, 6), np.arange(12, dtype="f4").reshape(6, 2))
    if suffix == ".gguf":
        (tensor,) = gguf.GGUFReader(path).tensors
        np.testing.assert_array_equal(tensor.data, np.arange(12, dtype="f4").reshape(6, 2))
    else:
        assert list(safetensors.numpy.load_file(path)) == ["lm_head.weight"]


@pytest.mark.parametrize(("data", "found"), [(b"bad", "b'bad'"), (b"", "an empty file")])
def test_gguf_file_shorter_than_its_magic_number(tmp_path, data: bytes, found: str):
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"it to start with b'GGUF', found {found}"):
        open_unembedding(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_head_too_wide_to_decompose(tmp_path, suffix: str):
    """A sparse file: its 4 GB take no space, and must take no memory."""
    path = tmp_path / f"wide{suffix}"
    d = 32768
    if suffix == ".gguf":
        info = struct.pack("<Q", 13) + b"output.weight" + struct.pack("<IQQIQ", 2, d, d, 0, 0)
        head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + info
        head += bytes(-len(head) % 32)
    else:
        entry = {"dtype": "F32", "shape": [d, d], "data_offsets": [0, 4 * d * d]}
        header = json.dumps({"lm_head.weight": entry}).encode()
        head = struct.pack("<Q", len(header)) + header
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 4 * d * d)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="size of at most 32766, found 32768") as raised:
            open_unembedding(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert str(path) in str(raised.value)


def mutations(sound: bytes):
    """Bytes replaced at some positions of a sound file, and its end cut off."""
    edits = st.lists(
        st.tuples(st.integers(0, len(sound) - 1), st.integers(0, 255)), min_size=0, max_size=6
    )
    return st.tuples(edits, st.integers(0, len(sound)))


def mutated(sound: bytes, edits: list[tuple[int, int]], length: int) -> bytes:
    data = bytearray(sound)
    for position, value in edits:
        data[position] = value
    return bytes(data[:length])


@settings(max_examples=300, deadline=None, database=None)
@given(mutation=mutations(SOUND_SAFETENSORS))
def test_damaged_safetensors_is_refused_or_read_as_the_library_reads_it(tmp_path_factory, mutation):
    data = mutated(SOUND_SAFETENSORS, *mutation)
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(data)
    try:
        with open_unembedding(path, tensor="lm_head.weight") as W:
            rows = W.rows(0, W.shape[0])
    except CheckpointError:
        return
    (expected,) = safetensors.numpy.load(data).values()
    assert rows.tobytes() == expected.tobytes()


@settings(max_examples=300, deadline=None, database=None)
@given(mutation=mutations(SOUND_GGUF))
def test_damaged_gguf_is_refused_or_stays_within_the_file(tmp_path_factory, mutation):
    data = mutated(SOUND_GGUF, *mutation)
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(data)
    try:
        with open_unembedding(path, tensor="token_embd.weight") as W:
            rows = W.rows(0, W.shape[0])
    except CheckpointError:
        return
    assert rows.shape == W.shape
    begin = SOUND_GGUF.index(np.float32(1).tobytes()) - 4
    if W.dtype == "F32":
        assert rows.tobytes() == data[begin : begin + rows.nbytes]


def test_sparse_header_of_zeros_is_not_read(tmp_path):
    path = tmp_path / "zeros.safetensors"
    with path.open("wb") as file:
        file.write((99_000_000).to_bytes(8, "little"))
        file.truncate(1 << 33)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="starts with"):
            open_unembedding(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("strings", "message"),
    [(1 << 20, "the name of tensor 0"), (1 << 29, "at most 4194304 strings")],
)
@pytest.mark.usefixtures("deadline")
def test_sparse_gguf_of_empty_strings_ends(tmp_path, strings, message):
    path = tmp_path / "zeros.gguf"
    with path.open("wb") as file:
        pair = gguf_pair("a", 9, gguf_array(8, strings))
        file.write(gguf_file((pair,), (), b"", n_tensors=1, alignment=1))
        file.truncate(1 << 33)
    with pytest.raises(CheckpointError, match=message):
        open_unembedding(path)


def test_fifo_is_refused_without_waiting(tmp_path):
    path = tmp_path / "pipe.safetensors"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="not a regular file: expected one, found a FIFO"):
        open_unembedding(path)


def test_device_is_refused():
    with pytest.raises(CheckpointError, match="/dev/zero: not a regular file"):
        open_unembedding("/dev/zero")


@pytest.mark.parametrize(
    ("suffix", "data"), [(".safetensors", SOUND_SAFETENSORS), (".gguf", SOUND_GGUF)]
)
def test_file_cut_after_opening_is_an_error(tmp_path, suffix, data):
    path = tmp_path / f"head{suffix}"
    path.write_bytes(data)
    with open_unembedding(path) as W:
        os.truncate(path, len(data) - 4)
        with pytest.raises(CheckpointError, match=f"{suffix}: changed while it was read") as raised:
            W.rows(0, 6)
        # Rows that are still there are not trusted either.
        with pytest.raises(CheckpointError, match="changed while it was read"):
            W.rows(0, 1)
        with pytest.raises(CheckpointError, match="changed while it was read"):
            W.fingerprint()
    assert f"expected {len(data)} bytes, found {len(data) - 4}" in str(raised.value)


def test_file_grown_after_opening_is_an_error(tmp_path):
    path = tmp_path / "head.safetensors"
    path.write_bytes(SOUND_SAFETENSORS)
    with open_unembedding(path) as W:
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(CheckpointError, match="changed while it was read"):
            list(W.blocks())


def test_short_reads_are_continued(tmp_path, monkeypatch):
    path = tmp_path / "head.safetensors"
    path.write_bytes(SOUND_SAFETENSORS)
    read = InputFile._read_some
    monkeypatch.setattr(InputFile, "_read_some", lambda file, at, part: read(file, at, part[:7]))
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, 6), np.arange(12, dtype="f4").reshape(6, 2))


def test_read_error_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "head.safetensors"
    path.write_bytes(SOUND_SAFETENSORS)

    def fail(*_arguments):
        raise OSError(5, "Input/output error")

    with open_unembedding(path) as W:
        monkeypatch.setattr(InputFile, "_read_some", fail)
        with pytest.raises(CheckpointError, match=r"head\.safetensors: cannot be read: Input"):
            W.rows(0, 1)


def test_read_past_the_end_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "short"
    path.write_bytes(b"12345678")
    file = InputFile(path)
    assert file.read(2, 6).tobytes() == b"345678"
    for offset, n_bytes in [(0, 1 << 60), (8, 1), (1 << 60, 1)]:
        with pytest.raises(CheckpointError, match=f"short: incomplete .* expected {n_bytes} bytes"):
            file.read(offset, n_bytes)
    file.close()


def test_nothing_is_printed(tmp_path, capfd):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(safetensors_bytes(b"{"))
    with pytest.raises(CheckpointError):
        open_unembedding(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\u2028b"])
def test_names_are_escaped_in_messages(tmp_path, name):
    path = tmp_path / "odd.safetensors"
    header = {name: {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}}
    path.write_bytes(safetensors_bytes(header, bytes(8)))
    with pytest.raises(CheckpointError) as raised:
        open_unembedding(path)
    text = str(raised.value)
    assert "\n" not in text
    assert "\x1b" not in text
    text.encode()
