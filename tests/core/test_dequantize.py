"""Decoding of quantised blocks on each instruction set, bit for bit against gguf's."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoint_files import gguf_file, gguf_tensor
from command_line import run_code
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from embedfilter import _core, open_unembedding
from embedfilter.checkpoints.formats.gguf import TYPES

# Where a block has its scales, as float16.
SCALES = {"Q4_0": (0,), "Q8_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,)}

every_type = pytest.mark.parametrize("name", SCALES)


def random_blocks(rng: np.random.Generator, name: str, n: int) -> NDArray[np.uint8]:
    """Blocks of random bytes: all codes, and scales that may be subnormal, infinity or NaN."""
    return rng.integers(0, 256, (n, GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]), np.uint8)


def bits(rows: NDArray[np.float32]) -> NDArray[np.uint32]:
    assert rows.dtype == np.float32
    return rows.view(np.uint32)


def by_gguf(name: str, blocks: NDArray[np.uint8]) -> NDArray[np.uint32]:
    with np.errstate(all="ignore"):
        return bits(gguf.quants.dequantize(blocks, GGMLQuantizationType[name]))


def with_every_scale(name: str) -> NDArray[np.uint8]:
    """A block of random codes for each float16, in each place where a block has one."""
    rng = np.random.default_rng(len(name))
    scales = np.arange(1 << 16).astype("<u2")
    kinds = []
    for place in SCALES[name]:
        blocks = random_blocks(rng, name, len(scales))
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
        kinds.append(blocks)
    return np.concatenate(kinds).reshape(1 << 12, -1)  # sixteen or more blocks a row


@pytest.fixture(scope="module")
def decoded_with_every_scale() -> dict[str, NDArray[np.uint32]]:
    return {name: by_gguf(name, with_every_scale(name)) for name in SCALES}


@every_type
def test_every_scale(
    isa: str, name: str, decoded_with_every_scale: dict[str, NDArray[np.uint32]]
) -> None:
    rows = _core.dequantize(name, with_every_scale(name))
    assert not np.isfinite(rows).all()
    assert np.array_equal(bits(rows), decoded_with_every_scale[name])


@every_type
@pytest.mark.parametrize("row_blocks", [1, 2, 3, 7, 16])
def test_any_number_of_blocks_at_any_address(
    isa: str, name: str, row_blocks: int, rng: np.random.Generator
) -> None:
    for n_rows in (1, 2, 5, 33):
        blocks = random_blocks(rng, name, n_rows * row_blocks).reshape(n_rows, -1)
        expected = by_gguf(name, blocks)
        for offset in range(4):
            room = np.empty(offset + blocks.size, np.uint8)[offset:]
            room[:] = blocks.ravel()
            room.flags.writeable = False
            assert np.array_equal(bits(_core.dequantize(name, room.reshape(n_rows, -1))), expected)


@every_type
def test_no_blocks(name: str) -> None:
    elements, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    assert _core.dequantize(name, np.empty((0, 3 * n_bytes), np.uint8)).shape == (0, 3 * elements)
    assert _core.dequantize(name, np.empty((5, 0), np.uint8)).shape == (5, 0)


@every_type
def test_arguments_are_checked(name: str) -> None:
    n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    for width in (1, n_bytes - 1, n_bytes + 1, 2 * n_bytes + 17):
        with pytest.raises(ValueError, match=f"of {n_bytes} bytes, found {width} bytes"):
            _core.dequantize(name, np.zeros((2, width), np.uint8))
    for wrong in (
        np.zeros(n_bytes, np.uint8),
        np.zeros((2, n_bytes), np.int8),
        np.zeros((2, 2 * n_bytes), np.uint8)[:, ::2],
        np.zeros((4, n_bytes), np.uint8)[::2],
    ):
        with pytest.raises(ValueError, match="blocks: expected a C-contiguous array"):
            _core.dequantize(name, wrong)
    with pytest.raises(TypeError, match="blocks: expected an array, found bytes"):
        _core.dequantize(name, bytes(n_bytes))
    with pytest.raises(ValueError, match="dtype: 'Q9_Z' is unknown"):
        _core.dequantize("Q9_Z", np.zeros((2, n_bytes), np.uint8))


@pytest.mark.parametrize("name", ["Q6_K", "Q8_0"])
def test_the_head_of_an_8b_model_streams_in_bounded_memory(tmp_path: Path, name: str) -> None:
    V, d = 128256, 4096
    (number,) = (number for number, kind in TYPES.items() if kind.name == name)
    header = gguf_file(tensors=(gguf_tensor("output.weight", (d, V), number),), data=b"")
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + V * d // TYPES[number].elements * TYPES[number].n_bytes)
    tracemalloc.start()
    try:
        with open_unembedding(path) as W:
            assert W.shape == (V, d)
            n_rows = sum(len(rows) for _, rows in W.blocks())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n_rows == V
    assert peak < 64 << 20  # three blocks of decoded rows and two as they are stored


def test_the_usual_types_need_no_gguf(smollm2: Path) -> None:
    code = (
        "import sys\n"
        "from embedfilter import open_unembedding\n"
        "with open_unembedding(sys.argv[1]) as W:\n"
        "    assert W.rows(0, 100).any()\n"
        "print('gguf' in sys.modules)\n"
    )
    assert run_code(code, smollm2).stdout == "False\n"
