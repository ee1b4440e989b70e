"""GGUF files, against the gguf package's writer, reader and decoding."""

from __future__ import annotations

import hashlib
import itertools
import struct
import tracemalloc
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
from checkpoint_files import ARCHITECTURE, SOUND_GGUF, gguf_file, gguf_tensor
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

from embedfilter.checkpoints import open_unembedding
from embedfilter.checkpoints.encodings import BLOCKS, FLOATS
from embedfilter.checkpoints.formats.gguf import TYPES
from embedfilter.errors import CheckpointError
from embedfilter.files.input_file import InputFile

V, D = 601, 512
READABLE = BLOCKS | set(FLOATS)
FLOAT_TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16}


def stored(name: str, n_rows: int = V, n_columns: int = D) -> np.ndarray:
    """Rows as they are stored: floats, or the bytes of sound blocks."""
    rng = np.random.default_rng(len(name) + ord(name[-1]))
    W = rng.standard_normal((n_rows, n_columns)).astype(np.float32)
    if name in FLOAT_TYPES:
        return W.astype(FLOAT_TYPES[name])
    kind = GGMLQuantizationType[name]
    try:
        return gguf.quants.quantize(W, kind)
    except NotImplementedError:  # gguf decodes these only: any codes and small scales
        return random_blocks(rng, kind, n_rows * n_columns).reshape(n_rows, -1)


def random_blocks(rng: np.random.Generator, kind: GGMLQuantizationType, n: int) -> np.ndarray:
    """Blocks of random bytes for n numbers, drawn again where they do not decode to finite ones."""
    elements, n_bytes = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (n // elements, n_bytes), dtype=np.uint8)
    bad = np.ones(len(blocks), bool)
    while bad.any():
        blocks[bad] = rng.integers(0, 256, (bad.sum(), n_bytes), dtype=np.uint8)
        with np.errstate(all="ignore"):
            numbers = gguf.quants.dequantize(blocks, kind)
        bad = ~np.isfinite(numbers).all(axis=1)
    return blocks


def write(path: Path, tensors: dict[str, tuple[str, np.ndarray]], **options: int) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_name("test")
    writer.add_token_list([f"token {i}" for i in range(V)])
    writer.add_embedding_length(D)
    writer.add_rope_freq_base(1e4)
    writer.add_add_bos_token(True)
    if "alignment" in options:
        writer.add_custom_alignment(options["alignment"])
    for name, (dtype, data) in tensors.items():
        raw = data.view(np.uint8) if dtype == "BF16" else data
        kind = None if dtype in ("F64", "F32", "F16") else GGMLQuantizationType[dtype]
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_with_gguf(path: Path, name: str) -> np.ndarray:
    """The whole tensor, by the package's own reader and decoding."""
    (tensor,) = (t for t in gguf.GGUFReader(path).tensors if t.name == name)
    return decode_with_gguf(tensor)


def decode_with_gguf(tensor: gguf.ReaderTensor) -> np.ndarray:
    if tensor.tensor_type == GGMLQuantizationType.F64:
        return np.array(tensor.data)
    rows = gguf.quants.dequantize(np.array(tensor.data), tensor.tensor_type)
    return rows.reshape(tensor.shape[::-1])


@pytest.mark.parametrize("dtype", sorted(READABLE))
def test_rows_and_blocks_equal_gguf(tmp_path, dtype):
    path = tmp_path / "model.gguf"
    others = {
        "token_embd.weight": ("Q8_0", stored("Q8_0")),
        "output_norm.weight": ("F32", np.ones(D, np.float32)),
    }
    write(path, {**others, "output.weight": (dtype, stored(dtype))})
    expected = read_with_gguf(path, "output.weight")
    assert np.isfinite(expected).all()
    assert expected.std() > 0
    with open_unembedding(path) as W:
        assert (W.name, W.shape, W.dtype, W.tied) == ("output.weight", (V, D), dtype, False)
        rows = W.rows(0, V)
        assert rows.dtype == FLOAT_TYPES.get(dtype, np.float32)
        assert rows.dtype.isnative
        assert rows.flags.c_contiguous
        np.testing.assert_array_equal(rows.astype(np.float64), expected.astype(np.float64))
        for n_rows in (1, 37, 600, V, 5000, None):
            blocks = list(W.blocks(n_rows))
            assert [start for start, _ in blocks] == list(range(0, V, n_rows or V))
            assert all(block.flags.c_contiguous for _, block in blocks)
            joined = np.concatenate([block for _, block in blocks])
            np.testing.assert_array_equal(joined, rows)
        raw = stored(dtype).tobytes()
        assert W.fingerprint() == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize("dtype", sorted(READABLE))
def test_any_part_of_the_rows_is_decoded_alike(tmp_path, dtype):
    path = tmp_path / "model.gguf"
    write(path, {"token_embd.weight": (dtype, stored(dtype))})
    with open_unembedding(path) as W:
        whole = W.rows(0, V)
        for start, stop in [(0, 0), (0, 1), (5, 22), (15, 31), (100, 299), (V - 1, V), (V, V)]:
            rows = W.rows(start, stop)
            assert rows.shape == (stop - start, D)
            np.testing.assert_array_equal(rows, whole[start:stop])


@pytest.mark.parametrize("dtype", ["Q8_0", "Q5_0"])
@pytest.mark.parametrize("n_columns", [32, 96, 4096, 8192, 8224, 16384])
def test_rows_of_any_length_are_decoded_alike(tmp_path, dtype, n_columns):
    # Short rows are joined for gguf, long ones are not.
    n_rows = max(n_columns, 50)
    kind = GGMLQuantizationType[dtype]
    data = np.zeros((n_rows, n_columns // 32 * GGML_QUANT_SIZES[kind][1]), np.uint8)
    data[:50] = stored(dtype, 50, n_columns)
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("token_embd.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = gguf.quants.dequantize(data[:50], kind)
    with open_unembedding(tmp_path / "model.gguf") as W:
        np.testing.assert_array_equal(W.rows(0, 50), expected)
        np.testing.assert_array_equal(W.rows(3, 47), expected[3:47])


def test_q8_0_and_q4_0_by_the_definition(tmp_path):
    # A block of Q8_0 is a half scale and 32 int8; of Q4_0 a half scale and 16 bytes, whose low
    # halves come before their high halves, less 8.
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.1, 1, (64, 1)).astype("<f2")
    codes = rng.integers(-128, 128, (64, 32)).astype(np.int8)
    q8 = np.concatenate([scale.view(np.uint8), codes.view(np.uint8)], axis=1)
    nibbles = rng.integers(0, 256, (64, 16)).astype(np.uint8)
    q4 = np.concatenate([scale.view(np.uint8), nibbles], axis=1)
    path = tmp_path / "model.gguf"
    q8_size = 64 * 34
    tensors = (
        gguf_tensor("output.weight", (32, 64), 8),
        gguf_tensor("other", (32, 64), 2, offset=q8_size),
    )
    path.write_bytes(gguf_file(tensors=tensors, data=q8.tobytes() + q4.tobytes()))
    with open_unembedding(path) as W:
        expected = scale.astype(np.float32) * codes.astype(np.float32)
        np.testing.assert_array_equal(W.rows(0, 64), expected)
    with open_unembedding(path, tensor="other") as W:
        values = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.float32) - 8
        np.testing.assert_array_equal(W.rows(0, 64), scale.astype(np.float32) * values)


def test_type_table_equals_ggufs():
    assert {number: (kind.name, kind.elements, kind.n_bytes) for number, kind in TYPES.items()} == {
        int(kind): (kind.name, *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType
    }
    # Every type that gguf decodes; of the plain floats it has a table of its own.
    assert {kind.name for kind in gguf.quants._type_traits} - set(FLOATS) == BLOCKS


@pytest.mark.parametrize("dtype", sorted({kind.name for kind in TYPES.values()} - READABLE))
def test_other_storage_types_are_refused_by_name(tmp_path, dtype):
    (number,) = (number for number, kind in TYPES.items() if kind.name == dtype)
    n_bytes = 256 * 256 // TYPES[number].elements * TYPES[number].n_bytes
    path = tmp_path / "model.gguf"
    tensors = (gguf_tensor("output.weight", (256, 256), number),)
    path.write_bytes(gguf_file(tensors=tensors, data=bytes(n_bytes)))
    message = f"tensor 'output.weight' of shape .256, 256.: .* block type of GGUF, found {dtype}, "
    with pytest.raises(CheckpointError, match=message) as raised:
        open_unembedding(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("alignment", [1, 8, 32, 64, 4096])
def test_alignment(tmp_path, alignment):
    # The writer itself takes multiples of eight only.
    path = tmp_path / "model.gguf"
    W_stored = np.arange(3 * D, dtype=np.float32).reshape(-1, 3)
    pair = ARCHITECTURE + gguf_alignment(alignment)
    second = -(-20 // alignment) * alignment
    tensors = (gguf_tensor("a", (5,)), gguf_tensor("output.weight", (3, D), offset=second))
    data = bytes(second) + W_stored.tobytes()
    path.write_bytes(gguf_file((pair,), tensors, data, n_pairs=2, alignment=alignment))
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, D), W_stored)
    if alignment >= 8:
        np.testing.assert_array_equal(read_with_gguf(path, "output.weight"), W_stored)


def gguf_alignment(value: int) -> bytes:
    key = b"general.alignment"
    return (
        len(key).to_bytes(8, "little")
        + key
        + (4).to_bytes(4, "little")
        + value.to_bytes(4, "little")
    )


def test_written_alignment(tmp_path):
    path = tmp_path / "model.gguf"
    data = stored("Q5_0")
    write(path, {"output.weight": ("Q5_0", data)}, alignment=256)
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, V), read_with_gguf(path, "output.weight"))


def test_version_2(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_file(version=2))
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, 6), np.arange(12).reshape(6, 2))


def test_tied_when_there_is_no_output(tmp_path):
    path = tmp_path / "model.gguf"
    write(path, {"token_embd.weight": ("F16", stored("F16"))})
    with open_unembedding(path) as W:
        assert (W.name, W.tied) == ("token_embd.weight", True)
        assert W.reason.startswith("no output head among 1 tensors")
    with open_unembedding(path, tensor="token_embd.weight") as W:
        assert (W.tied, W.reason) == (True, "named by tensor=")


def test_unknown_name_is_refused_with_names_near_it(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(SOUND_GGUF)
    with pytest.raises(CheckpointError, match=r"no tensor 'token_emb\.weight'.*'token_embd\.w"):
        open_unembedding(path, tensor="token_emb.weight")


def test_recognised_without_its_ending(tmp_path):
    path = tmp_path / "0123abcd"
    path.write_bytes(SOUND_GGUF)
    with open_unembedding(path) as W:
        assert W.name == "token_embd.weight"


def test_damaged_scales_come_out_as_they_are_without_a_warning(tmp_path):
    data = stored("Q8_0")
    data[0, :2] = np.array([np.nan], "<f2").view(np.uint8)
    data[1, :2] = np.array([np.inf], "<f2").view(np.uint8)
    path = tmp_path / "model.gguf"
    write(path, {"output.weight": ("Q8_0", data)})
    with open_unembedding(path) as W:
        rows = W.rows(0, V)
    assert np.isnan(rows[0, :32]).all()
    assert not np.isfinite(rows[1, :32]).any()
    assert np.isfinite(rows[2:]).all()


def test_type_that_the_installed_gguf_does_not_decode(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    write(path, {"output.weight": ("IQ4_NL", stored("IQ4_NL"))})
    monkeypatch.setattr(gguf, "GGMLQuantizationType", {})
    with (
        open_unembedding(path) as W,
        pytest.raises(CheckpointError, match="does not decode IQ4_NL: .*pip install -U gguf"),
    ):
        W.rows(0, 1)


@pytest.mark.parametrize(("number", "row_bytes"), [(14, 16 * 210), (8, 128 * 34)])
def test_head_of_a_large_model_takes_little_memory(tmp_path, number, row_bytes):
    """A sparse file of 128256 x 4096 in Q6_K and Q8_0; some of its rows are real."""
    V_large, d = 128_256, 4096
    path = tmp_path / "large.gguf"
    start = gguf_file(tensors=(gguf_tensor("output.weight", (d, V_large), number),), data=b"")
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + V_large * row_bytes)
    tracemalloc.start()
    try:
        with open_unembedding(path) as W:
            for _, rows in itertools.islice(W.blocks(), 5):
                assert rows.shape == (1024, d)
                assert not rows.any()
        assert tracemalloc.get_traced_memory()[1] < 150 << 20
    finally:
        tracemalloc.stop()


def test_long_token_lists_are_skipped(tmp_path):
    # Strings that cross the reader's windows, empty ones, and one longer than a window.
    tokens = ["x" * (i % 97) for i in range(40_000)] + ["y" * 3_000_000] + ["z"] * 1000
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_array("some.strings", tokens)
    writer.add_array("some.numbers", list(range(70_000)))
    writer.add_embedding_length(2)
    writer.add_tensor("output.weight", np.arange(12, dtype=np.float32).reshape(6, 2))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_unembedding(tmp_path / "model.gguf") as W:
        np.testing.assert_array_equal(W.rows(0, 6), np.arange(12).reshape(6, 2))


def test_smollm2_equals_gguf(smollm2, smollm2_tensors):
    tensor = smollm2_tensors["token_embd.weight"]
    with open_unembedding(smollm2) as W:
        assert (W.name, W.shape, W.dtype, W.tied) == (
            "token_embd.weight",
            (49152, 576),
            "Q8_0",
            True,
        )
        for start, rows in W.blocks(10_000):
            raw = np.array(tensor.data[start : start + len(rows)])
            np.testing.assert_array_equal(rows, gguf.quants.dequantize(raw, tensor.tensor_type))
        assert start + len(rows) == 49152
        assert W.fingerprint() == hashlib.sha256(tensor.data.tobytes()).hexdigest()


def test_only_smollm2s_head_is_read(smollm2, monkeypatch):
    n_bytes = 0
    read = InputFile._read_some

    def counted(*arguments):
        nonlocal n_bytes
        count = read(*arguments)
        n_bytes += count
        return count

    monkeypatch.setattr(InputFile, "_read_some", counted)
    with open_unembedding(smollm2) as W:
        assert n_bytes < 4 << 20  # the header has 1.8 MB
        header = n_bytes
        list(W.blocks())
        assert n_bytes == header + 49152 * 576 // 32 * 34
        W.fingerprint()
        assert n_bytes == header + 49152 * 576 // 32 * 34


def test_smollm2_named_tensor(smollm2, smollm2_tensors):
    name = "blk.0.ffn_down.weight"
    with pytest.raises(CheckpointError, match="576 rows and 1536 columns"):
        open_unembedding(smollm2, tensor=name)
    with open_unembedding(smollm2, tensor="blk.0.ffn_gate.weight") as W:
        assert (W.shape, W.dtype, W.tied) == ((1536, 576), "Q4_1", False)
        expected = decode_with_gguf(smollm2_tensors["blk.0.ffn_gate.weight"])
        np.testing.assert_array_equal(W.rows(0, 1536), expected)


def test_only_the_heads_type_must_be_known(tmp_path):
    """Another tensor of a type of tomorrow, or of no dimensions, is none of our business."""
    path, data = tmp_path / "model.gguf", stored("Q8_0")
    write(path, {"output.weight": ("Q8_0", data), "blk.0.odd": ("F32", np.zeros((1, 1), "f4"))})
    with open_unembedding(path) as W:
        expected = W.rows(0, W.shape[0])
    raw = path.read_bytes()
    place = raw.index(b"blk.0.odd") + len("blk.0.odd")
    (n_dims,) = struct.unpack_from("<I", raw, place)
    kind = place + 4 + 8 * n_dims
    end = kind + 4 + 8  # of the entry, the last one; then come the data, aligned
    unknown = raw[:kind] + struct.pack("<I", 999) + raw[kind + 4 :]
    header = raw[:place] + struct.pack("<I", 0) + raw[kind:end]
    none = header.ljust(-(-len(header) // 32) * 32, b"\0") + raw[-(-end // 32) * 32 :]
    for changed in (unknown, none):
        path.write_bytes(changed)
        with open_unembedding(path) as W:
            assert W.name == "output.weight"
            np.testing.assert_array_equal(W.rows(0, W.shape[0]), expected)
