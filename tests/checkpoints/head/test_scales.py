"""Heads of eight bits a number, with their scales, against torch's own arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from embedfilter import EmbedFilter
from embedfilter.checkpoints import open_unembedding
from embedfilter.errors import CheckpointError

V, D = 300, 200
CODES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
LAYOUTS = {
    "scalar": ((), (V, D)),
    "one": ((1,), (V, D)),
    "one-by-one": ((1, 1), (V, D)),
    "row": ((V,), (1, D)),
    "row-by-one": ((V, 1), (1, D)),
    "block": ((3, 2), (128, 128)),
}


def codes(dtype: str = "F8_E4M3") -> torch.Tensor:
    W = torch.randn(V, D, generator=torch.Generator().manual_seed(0))
    return W.to(CODES[dtype])


def scales(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.empty(shape).uniform_(0.001, 0.1, generator=generator).to(dtype)


def dequantised(W: torch.Tensor, scale: torch.Tensor, block: tuple[int, int]) -> np.ndarray:
    """As transformers does it: a scale for each number, then one product."""
    table = scale.float().reshape(-(-V // block[0]), -(-D // block[1]))
    wide = table.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:V, :D]
    return (W.float() * wide).numpy()


def write(folder: Path, scale: torch.Tensor | None, name: str = "weight_scale_inv", **more) -> None:
    tensors = {"lm_head.weight": codes(), "model.embed_tokens.weight": torch.ones(V, D), **more}
    if scale is not None:
        tensors[f"lm_head.{name}"] = scale
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv"])
@pytest.mark.parametrize("n_rows", [1, 100, None])
def test_rows_are_codes_times_scales(tmp_path, layout, dtype, name, n_rows):
    shape, block = LAYOUTS[layout]
    write(tmp_path, scales(shape), name, **{"lm_head.weight": codes(dtype)})
    with open_unembedding(tmp_path) as W:
        assert (W.name, W.shape, W.dtype, W.tied) == ("lm_head.weight", (V, D), dtype, False)
        rows = np.concatenate([rows for _, rows in W.blocks(n_rows)])
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, dequantised(codes(dtype), scales(shape), block))
        np.testing.assert_array_equal(W.rows(127, 130), rows[127:130])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_types_of_scales(tmp_path, dtype):
    write(tmp_path, scales((V, 1), dtype))
    with open_unembedding(tmp_path) as W:
        expected = dequantised(codes(), scales((V, 1), dtype), (1, D))
        np.testing.assert_array_equal(W.rows(0, V), expected)


def test_every_code(tmp_path):
    for name, dtype in CODES.items():
        every = torch.arange(256, dtype=torch.uint8).view(dtype).reshape(64, 4)
        tensors = {"lm_head.weight": every, "lm_head.weight_scale": torch.ones(())}
        safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
        with open_unembedding(tmp_path) as W:
            np.testing.assert_array_equal(W.rows(0, 64), every.float().numpy(), err_msg=name)


def test_block_size_of_the_config(tmp_path):
    write(tmp_path, scales((5, 4)))
    with pytest.raises(CheckpointError, match=r"expected scales of shape .*\(3, 2\).*\(5, 4\)"):
        open_unembedding(tmp_path)
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 50]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with open_unembedding(tmp_path) as W:
        np.testing.assert_array_equal(W.rows(0, V), dequantised(codes(), scales((5, 4)), (64, 50)))
    for wrong in ([64], [64, 0], ["64", "50"], 64, [True, True]):
        config["quantization_config"]["weight_block_size"] = wrong
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="expected scales of shape"):
            open_unembedding(tmp_path)


def test_scales_in_another_shard(tmp_path):
    shards = {
        "model-00001-of-00002.safetensors": {"lm_head.weight": codes()},
        "model-00002-of-00002.safetensors": {"lm_head.weight_scale_inv": scales((3, 2))},
    }
    weight_map = {}
    for shard, tensors in shards.items():
        safetensors.torch.save_file(tensors, tmp_path / shard)
        weight_map |= dict.fromkeys(tensors, shard)
    index = {"weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with open_unembedding(tmp_path) as W:
        (tmp_path / "model-00002-of-00002.safetensors").unlink()  # read already
        expected = dequantised(codes(), scales((3, 2)), (128, 128))
        np.testing.assert_array_equal(W.rows(0, V), expected)


def test_in_a_file_of_torch(tmp_path):
    tensors = {"lm_head.weight": codes(), "lm_head.weight_scale": scales(())}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with open_unembedding(tmp_path) as W:
        assert W.dtype == "F8_E4M3"
        np.testing.assert_array_equal(W.rows(0, V), dequantised(codes(), scales(()), (V, D)))


def test_scales_of_activations_play_no_part(tmp_path):
    write(tmp_path, scales(()), "weight_scale", **{"lm_head.input_scale": torch.ones(())})
    with open_unembedding(tmp_path) as W:
        np.testing.assert_array_equal(W.rows(0, V), dequantised(codes(), scales(()), (V, D)))


def test_tied_and_wrapped(tmp_path):
    tensors = {
        "module.model.embed_tokens.weight": codes(),
        "module.model.embed_tokens.weight_scale": scales((V, 1)),
    }
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with open_unembedding(tmp_path) as W:
        assert (W.name, W.tied) == ("module.model.embed_tokens.weight", True)
        expected = dequantised(codes(), scales((V, 1)), (1, D))
        np.testing.assert_array_equal(W.rows(0, V), expected)


def test_filter_is_that_of_the_decoded_matrix(tmp_path):
    write(tmp_path, scales((3, 2)))
    decoded = dequantised(codes(), scales((3, 2)), (128, 128))
    assert EmbedFilter.from_checkpoint(tmp_path) == EmbedFilter.from_matrix(decoded)


# ---- Refused ---------------------------------------------------------------------------------


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        open_unembedding(folder)
    text = str(raised.value)
    assert str(folder / "model.safetensors") in text
    assert "lm_head.weight" in text
    return text


def test_without_scales(tmp_path):
    write(tmp_path, None)
    assert "found F8_E4M3, which is not supported: its numbers mean nothing" in refusal(tmp_path)


@pytest.mark.parametrize(
    "shape", [(0,), (2,), (D,), (1, D), (V, 2), (2, 3), (3, 2, 1), (1, 1, 1), (V, D)]
)
def test_scales_of_another_shape(tmp_path, shape):
    write(tmp_path, scales(shape))
    text = refusal(tmp_path)
    assert "expected scales of shape (1, 1), (300, 1), (3, 2) for 'lm_head.weight'" in text
    assert f"found shape {shape}" in text


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.float8_e4m3fn])
def test_scales_of_another_type(tmp_path, dtype):
    write(tmp_path, scales((3, 2)).to(dtype))
    assert "expected scales of F64, F32, F16, BF16, found " in refusal(tmp_path)


@pytest.mark.parametrize(
    "beside",
    [
        "weight_scale_2",
        "weight_zero_point",
        "weight_scale",
        "weight_packed",
        "g_idx",
    ],
)
def test_scales_that_are_not_alone(tmp_path, beside):
    write(tmp_path, scales((3, 2)), **{f"lm_head.{beside}": torch.ones(1)})
    assert "is quantised" in refusal(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_scales_beside_another_type(tmp_path, dtype):
    write(tmp_path, scales((V, 1)), **{"lm_head.weight": torch.ones(V, D).to(dtype)})
    text = refusal(tmp_path)
    assert "is quantised (codes with scales; beside it 'lm_head.weight_scale_inv')" in text


def test_scales_that_are_not_finite_are_found_when_fitting(tmp_path):
    scale = scales((V, 1))
    scale[17] = float("nan")
    write(tmp_path, scale)
    with pytest.raises(CheckpointError, match="expected finite numbers.*row 17"):
        EmbedFilter.from_checkpoint(tmp_path)
