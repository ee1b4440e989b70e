"""GGUF files opened faster, beside transformers' and gguf's own way."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from transformers import modeling_gguf_pytorch_utils as by_transformers

import embedfilter
from embedfilter.integrations import gguf_reading
from embedfilter.integrations.gguf_reading import parsed_once

PATCHED = [
    (gguf, "GGUFReader"),
    (gguf, "get_tensor_name_map"),
    (gguf, "dequantize"),
    (by_transformers, "_gguf_parse_value"),
]
TEXTS = ["", "A cat sat.", " naïve “café”", "日本語 текст 😀", "<|end|>x<|end|>", "\t\n  12345"]
D, HIDDEN, HEADS = 64, 96, 2


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer, its tensors in several types, and its tokenizer."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|end|>", *letters, "ca", "sa", "Ġs"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(256)
    writer.add_embedding_length(D)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_merges(["c a", "s a", "Ġ s"])
    writer.add_bos_token_id(0)  # which earlier versions of transformers want
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_array("general.tags", ["one"])
    kinds = iter(["Q8_0", "Q4_0", "Q4_1", "F16", "Q5_0", "Q8_0", "Q4_0", "Q8_0"])
    rng = np.random.default_rng(0)
    for name, shape in {
        "token_embd": (len(tokens), D),
        "blk.0.attn_q": (D, D),
        "blk.0.attn_k": (D, D),
        "blk.0.attn_v": (D, D),
        "blk.0.attn_output": (D, D),
        "blk.0.ffn_gate": (HIDDEN, D),
        "blk.0.ffn_up": (HIDDEN, D),
        "blk.0.ffn_down": (D, HIDDEN),
    }.items():
        kind = gguf.GGMLQuantizationType[next(kinds)]
        values = gguf.quantize(rng.normal(0, 0.3, shape).astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", values, raw_dtype=kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", rng.normal(1, 0.1, D).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def opened(path: Path) -> Any:
    return embedfilter.encoder(path, ratio=1, device="cpu")[0]


def plainly_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr("embedfilter.integrations.encoder.parsed_once", contextlib.nullcontext)
        return opened(path)


def check_same(found: Any, expected: Any) -> None:
    weights, others = found.model.state_dict(), expected.model.state_dict()
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name
    assert found.model.config.to_dict() == expected.model.config.to_dict()
    assert found.tokenizer(TEXTS)["input_ids"] == expected.tokenizer(TEXTS)["input_ids"]
    of_file = expected.tokenizer.backend_tokenizer.to_str()
    assert found.tokenizer.backend_tokenizer.to_str() == of_file
    assert found.tokenizer.special_tokens_map == expected.tokenizer.special_tokens_map


@pytest.mark.parametrize("file", ["tiny", pytest.param("smollm2", marks=pytest.mark.long)])
def test_the_model_is_that_of_transformers(
    file: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = request.getfixturevalue(file)
    check_same(opened(path), plainly_opened(path, monkeypatch))


def test_the_file_is_parsed_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    build = gguf.GGUFReader._build_fields

    def counted(reader: Any, *args: Any) -> int:
        parsed.append(reader)
        return build(reader, *args)

    monkeypatch.setattr(gguf.GGUFReader, "_build_fields", counted)
    opened(tiny)
    assert len(parsed) == 1
    assert type(parsed[0]) is gguf_reading._Reader


@pytest.mark.parametrize("file", ["tiny", pytest.param("smollm2", marks=pytest.mark.long)])
def test_fields_and_tensors_are_those_of_gguf(file: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(file)
    found, expected = gguf_reading._Reader(path), gguf.GGUFReader(path)
    assert found.fields.keys() == expected.fields.keys()
    for key, field in expected.fields.items():
        other = found.fields[key]
        assert (other.offset, other.name) == (field.offset, field.name)
        assert (other.data, other.types) == (field.data, field.types), key
        assert len(other.parts) == len(field.parts)
        for a, b in zip(other.parts, field.parts, strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert a.tobytes() == b.tobytes()
        assert other.contents() == field.contents()
    assert [tensor.name for tensor in found.tensors] == [t.name for t in expected.tensors]
    for a, b in zip(found.tensors, expected.tensors, strict=True):
        assert (a.tensor_type, a.shape.tolist()) == (b.tensor_type, b.shape.tolist())
        assert (a.n_bytes, a.data_offset) == (b.n_bytes, b.data_offset)
        np.testing.assert_array_equal(a.data, b.data)


def test_what_is_replaced_comes_back() -> None:
    before = [getattr(module, name) for module, name in PATCHED]
    with parsed_once():
        now = [getattr(module, name) for module, name in PATCHED]
    assert not any(a is b for a, b in zip(now, before, strict=True))
    with pytest.raises(ValueError, match="magic"), parsed_once():
        gguf.GGUFReader(__file__)
    assert [getattr(module, name) for module, name in PATCHED] == before


def other_fields(reader: Any, *args: Any) -> None:
    raise TypeError("a later gguf")


def test_another_gguf_costs_time_alone(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = plainly_opened(tiny, monkeypatch)
    monkeypatch.setattr(gguf_reading._Reader, "_get_field_parts", other_fields)
    check_same(opened(tiny), expected)


def test_a_transformers_without_the_module(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, by_transformers.__name__, None)
    with parsed_once():
        assert type(gguf.GGUFReader(tiny)) is gguf_reading._Reader
    assert "_gguf_parse_value" in vars(by_transformers)


def make(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return gguf.quantize(values, gguf.GGMLQuantizationType[kind])


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "TQ1_0"])
@pytest.mark.parametrize("shape", [(512,), (3, 512), (2, 3, 512)])
def test_tensors_are_decoded_as_by_gguf(kind: str, shape: tuple[int, ...]) -> None:
    of_kind = gguf.GGMLQuantizationType[kind]
    data = make(kind, shape)
    expected = gguf.dequantize(data, of_kind)
    with parsed_once():
        found = gguf.dequantize(data, of_kind)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected, strict=True)
