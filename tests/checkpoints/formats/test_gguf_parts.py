"""Split GGUF checkpoints, as the gguf package writes them and as nobody should."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoint_files import HEAD_DATA, gguf_file, gguf_pair, gguf_tensor

from embedfilter import EmbedFilter
from embedfilter.checkpoints import open_unembedding
from embedfilter.errors import CheckpointError
from embedfilter.files.input_file import InputFile

V, D = 96, 32
COUNT = 4
PART = "model-{:05}-of-00004.gguf"


def matrix(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((V, D)).astype(np.float32)


@pytest.fixture(params=["head first", "head last", "tied"])
def split(request, tmp_path) -> Path:
    """Four parts of one tensor each; the head is in the first, in the last or nowhere."""
    tensors = {"token_embd.weight": 1, "blk.0.attn_q.weight": 2, "output_norm.weight": 3}
    if request.param == "tied":
        tensors["blk.1.attn_q.weight"] = 4
    elif request.param == "head first":
        tensors = {"output.weight": 0, **tensors}
    else:
        tensors["output.weight"] = 0
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama", split_max_tensors=1)
    writer.add_embedding_length(D)
    writer.add_vocab_size(V)
    for name, seed in tensors.items():
        writer.add_tensor(name, matrix(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        PART.format(number) for number in range(1, COUNT + 1)
    ]
    return tmp_path


@pytest.mark.parametrize("source", ["", PART.format(1), PART.format(3), PART.format(4)])
def test_any_part_stands_for_all(split, source, request):
    tied = "tied" in request.node.callspec.params["split"]
    with open_unembedding(split / source) as W:
        assert (W.name, W.tied) == ("token_embd.weight" if tied else "output.weight", tied)
        assert W.source == str(split / source)
        np.testing.assert_array_equal(W.rows(0, V), matrix(1 if tied else 0))
    assert EmbedFilter.from_checkpoint(split / source) == EmbedFilter.from_matrix(
        matrix(1 if tied else 0)
    )


def test_parts_named_in_capitals(split):
    for path in list(split.iterdir()):
        path.rename(path.with_name(path.name.upper()))
    expected = np.concatenate([matrix(0), matrix(1)])
    for source in (split, split / PART.format(2).upper()):
        with open_unembedding(source) as W:
            np.testing.assert_array_equal(W.rows(0, V), expected[V:] if W.tied else expected[:V])


def test_named_tensor_of_another_part(split):
    with open_unembedding(split / PART.format(1), tensor="token_embd.weight") as W:
        np.testing.assert_array_equal(W.rows(0, V), matrix(1))


def test_only_the_part_with_the_head_stays_open(split, monkeypatch):
    files: list[InputFile] = []
    monkeypatch.setattr(InputFile, "refuse_lfs_pointer", lambda self: files.append(self))
    with open_unembedding(split):
        assert len(files) == COUNT
        assert sum(not file._file.closed for file in files) == 1
    assert all(file._file.closed for file in files)


@pytest.mark.parametrize("gone", [1, 2, 3, 4])
def test_missing_part(split, gone, request):
    head = {"head first": 1, "head last": 4}.get(request.node.callspec.params["split"])
    path = split / PART.format(gone)
    path.unlink()
    if head is not None and head != gone:
        with open_unembedding(split) as W:  # not needed
            np.testing.assert_array_equal(W.rows(0, V), matrix(0))
        return
    with pytest.raises(
        CheckpointError, match="incomplete download: 'output.weight' is in none"
    ) as e:
        open_unembedding(split)
    assert path.name in str(e.value)
    assert str(split) in str(e.value)


def test_named_tensor_of_a_missing_part(split):
    (split / PART.format(2)).unlink()
    with pytest.raises(CheckpointError, match="'blk.9' is in none.*missing: 'model-00002-of-00004"):
        open_unembedding(split, tensor="blk.9")


def test_two_split_checkpoints_in_a_folder(split):
    for number in range(1, 3):
        (split / f"other-{number:05}-of-00002.gguf").write_bytes(b"")
    with pytest.raises(CheckpointError, match="expected one checkpoint, found 2") as raised:
        open_unembedding(split)
    assert "'model-00001-of-00004.gguf', 'other-00001-of-00002.gguf'" in str(raised.value)


# ---- Hostile parts ---------------------------------------------------------------------------


def part(number: int, count: int, name: str = "output.weight", kind: str = "H") -> bytes:
    code = {"H": 2, "i": 5, "Q": 10}[kind]
    pairs = (
        gguf_pair("split.no", code, struct.pack(f"<{kind}", number)),
        gguf_pair("split.count", code, struct.pack(f"<{kind}", count)),
    )
    return gguf_file(pairs, (gguf_tensor(name),), HEAD_DATA)


def write(folder: Path, **parts: bytes) -> Path:
    for name, data in parts.items():
        (folder / f"{name.replace('_', '-')}.gguf").write_bytes(data)
    return next(iter(sorted(folder.iterdir())))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": part(0, 2)}, "part 1 of 2 of a split .*name that ends in -00001-of-00002"),
        ({"m_00002_of_00002": part(0, 2)}, "part 1 of 2 of a split .*name that ends in"),
        ({"m_00001_of_00003": part(0, 2)}, "part 1 of 2 of a split .*name that ends in"),
        (
            {"m_00001_of_00002": part(0, 2, "a"), "m_00002_of_00002": part(0, 2, "b")},
            "m-00002-of-00002.gguf: expected part 2 of 2 .*found part 1 of 2",
        ),
        (
            {"m_00001_of_00002": part(0, 2, "a"), "m_00002_of_00002": part(0, 1, "b")},
            "m-00002-of-00002.gguf: expected part 2 of 2 .*found part 1 of 1",
        ),
        (
            {"m_00001_of_00002": part(0, 2), "m_00002_of_00002": part(1, 2)},
            "m-00002-of-00002.gguf: the tensor 'output.weight' is in .*m-00001-of-00002.gguf, too",
        ),
        ({"m_00001_of_00002": part(0, 2, "a"), "m_00002_of_00002": b"GGUF"}, "00002.gguf: incom"),
        ({"m_00001_of_99999": part(0, 99_999, "a", "i")}, "and 99998 are missing"),
        ({"m_00001_of_99999": part(0, 1 << 63, "a", "Q")}, "part 1 of 9223372036854775808 of"),
        ({"m_00001_of_00002": part(-1, 2, "a", "i")}, "part 0 of 2 of a split"),
    ],
)
def test_parts_that_do_not_belong_together(tmp_path, parts, message):
    first = write(tmp_path, **parts)
    with pytest.raises(CheckpointError, match=message) as raised:
        open_unembedding(first)
    assert str(tmp_path) in str(raised.value)


def test_a_negative_count_is_one_file(tmp_path):
    path = write(tmp_path, model=part(0, -1, kind="i"))
    with open_unembedding(path) as W:
        assert W.shape == (6, 2)


def test_link_to_a_part_elsewhere_is_refused(split, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "part.gguf"
    (split / PART.format(2)).rename(outside)
    (split / PART.format(2)).symlink_to(outside)
    with pytest.raises(CheckpointError, match="leaves the checkpoint's folder"):
        open_unembedding(split)
