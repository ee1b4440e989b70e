"""Which tensor is taken: by the names that exist, with the config as a cross-check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from checkpoint_files import SOUND_GGUF, safetensors_file

from embedfilter.checkpoints import open_unembedding
from embedfilter.errors import CheckpointError

HEAD = (8, 3)


def write(folder: Path, tensors: dict, config: object = None) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(safetensors_file(tensors))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return path


# Family, its tensors (the head and the input embedding are (8, 3), the rest are not), and what
# is to be taken.
UNTIED = [
    ("llama", ["lm_head.weight", "model.embed_tokens.weight"]),
    ("gpt2", ["lm_head.weight", "transformer.wte.weight", "transformer.wpe.weight"]),
    ("gpt-neox", ["embed_out.weight", "gpt_neox.embed_in.weight"]),
    ("falcon", ["lm_head.weight", "transformer.word_embeddings.weight"]),
    ("opt", ["lm_head.weight", "model.decoder.embed_tokens.weight"]),
    ("original-llama", ["output.weight", "tok_embeddings.weight"]),
    ("internlm2", ["output.weight", "model.tok_embeddings.weight"]),
    (
        "chatglm",
        ["transformer.output_layer.weight", "transformer.embedding.word_embeddings.weight"],
    ),
    ("mamba", ["lm_head.weight", "backbone.embeddings.weight"]),
    ("rwkv", ["head.weight", "rwkv.embeddings.weight"]),
    ("rwkv-original", ["head.weight", "emb.weight"]),
    ("phi-2-old", ["lm_head.linear.weight", "transformer.embd.wte.weight"]),
    ("bert", ["cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"]),
    ("roberta", ["lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"]),
    ("distilbert", ["vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight"]),
    ("electra", ["generator_lm_head.weight", "electra.embeddings.word_embeddings.weight"]),
    ("albert", ["predictions.decoder.weight", "albert.embeddings.word_embeddings.weight"]),
    ("modernbert", ["decoder.weight", "model.embeddings.tok_embeddings.weight"]),
    ("t5", ["lm_head.weight", "shared.weight", "encoder.embed_tokens.weight"]),
    ("t5gemma", ["lm_head.out_proj.weight", "model.decoder.embed_tokens.weight"]),
    ("vlm", ["lm_head.weight", "model.language_model.embed_tokens.weight"]),
    (
        "vlm-old",
        ["language_model.lm_head.weight", "language_model.model.embed_tokens.weight"],
    ),
    ("vlm-middle", ["model.language_model.lm_head.weight", "model.embed_tokens.weight"]),
    ("omni", ["thinker.lm_head.weight", "thinker.model.embed_tokens.weight"]),
    ("only-the-head", ["model.lm_head.weight"]),
    ("ddp", ["module.lm_head.weight", "module.model.embed_tokens.weight"]),
    ("compiled", ["_orig_mod.lm_head.weight", "_orig_mod.model.embed_tokens.weight"]),
    (
        "fsdp",
        [
            "_fsdp_wrapped_module.lm_head._fsdp_wrapped_module.weight",
            "_fsdp_wrapped_module.model._fsdp_wrapped_module.embed_tokens.weight",
        ],
    ),
    (
        "peft",
        ["base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"],
    ),
    (
        "peft-modules-to-save",
        [
            "base_model.model.lm_head.modules_to_save.default.weight",
            "base_model.model.lm_head.original_module.weight",
            "base_model.model.model.embed_tokens.weight",
        ],
    ),
    (
        "deepseek-v3",
        [
            "lm_head.weight",
            "model.embed_tokens.weight",
            "model.layers.61.embed_tokens.weight",
            "model.layers.61.shared_head.head.weight",
        ],
    ),
    (
        "omni-talker",
        [
            "thinker.lm_head.weight",
            "thinker.model.embed_tokens.weight",
            "talker.code_predictor.lm_head.0.weight",
        ],
    ),
]
TIED = [
    ("gemma", ["model.embed_tokens.weight"]),
    ("qwen3-embedding", ["embed_tokens.weight", "norm.weight"]),
    ("gpt2-hub", ["wte.weight", "wpe.weight"]),
    ("bloom", ["word_embeddings.weight", "word_embeddings_layernorm.weight"]),
    ("opt-hub", ["decoder.embed_tokens.weight"]),
    ("bert-encoder", ["embeddings.word_embeddings.weight", "embeddings.position.weight"]),
    ("t5-tied", ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]),
    ("bart", ["model.shared.weight", "model.encoder.embed_tokens.weight"]),
    ("vlm", ["model.language_model.embed_tokens.weight"]),
    ("sentence-transformers", ["auto_model.embeddings.word_embeddings.weight"]),
    ("unknown-prefix", ["my_encoder.embeddings.word_embeddings.weight"]),
    ("mamba-original", ["backbone.embedding.weight"]),
    ("reward-model", ["model.embed_tokens.weight", "score.weight"]),
    ("per-layer-table", ["model.embed_tokens.weight", "model.embed_tokens_per_layer.weight"]),
]


@pytest.mark.parametrize(
    ("names", "tied"),
    [(names, False) for _, names in UNTIED] + [(names, True) for _, names in TIED],
    ids=[f"{name}-untied" for name, _ in UNTIED] + [f"{name}-tied" for name, _ in TIED],
)
@pytest.mark.parametrize("order", [1, -1])
def test_families(tmp_path, names, tied, order):
    shapes = dict.fromkeys(names, HEAD) | {"model.layers.0.mlp.weight": (9, 3), "norm": (3,)}
    write(tmp_path, dict(list(shapes.items())[::order]))
    with open_unembedding(tmp_path) as W:
        assert (W.name, W.tied, W.shape) == (names[0], tied, HEAD)
        assert "\n" not in W.reason
        if tied:
            assert f"no output head among {len(shapes)} tensors" in W.reason
            assert f"pass tensor={names[0]!r}" in W.doubts[0]  # nothing says that it is tied
        else:
            assert f"{names[0]!r} is the output head" in W.reason


@pytest.mark.parametrize("name", ["head.weight", "decoder.weight", "output.weight"])
def test_short_names_are_heads_only_with_the_embeddings_shape(tmp_path, name):
    # The head of a classifier of five classes beside an encoder.
    write(tmp_path, {name: (5, 3), "model.embed_tokens.weight": HEAD})
    with open_unembedding(tmp_path) as W:
        assert (W.name, W.tied) == ("model.embed_tokens.weight", True)
    # A vision model's head, with no vocabulary at all.
    write(tmp_path, {name: (1000, 3), "blocks.0.attn.qkv.weight": (9, 3)})
    with pytest.raises(CheckpointError, match="found neither"):
        open_unembedding(tmp_path)


def test_two_heads_that_differ_are_refused_with_their_shapes(tmp_path):
    write(tmp_path, {"lm_head.weight": (8, 3), "language_model.lm_head.weight": (9, 3)})
    with pytest.raises(CheckpointError, match="found 2 that differ") as raised:
        open_unembedding(tmp_path)
    text = str(raised.value)
    for part in (str(tmp_path), "'lm_head.weight' (8, 3)", "(9, 3)", "pass tensor="):
        assert part in text


def test_two_heads_of_the_same_shape_are_compared_by_their_bytes(tmp_path):
    rng = np.random.default_rng(0)
    W = rng.standard_normal((3000, 3)).astype("f4")
    names = ("lm_head.weight", "language_model.lm_head.weight")
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({names[0]: W, names[1]: W.copy()}, path)
    with open_unembedding(path) as found:
        assert found.name in names
        assert not found.tied
    safetensors.numpy.save_file({names[0]: W, names[1]: W.view("i4")}, path)
    with pytest.raises(CheckpointError, match="found 2 that differ"):
        open_unembedding(path)
    changed = W.copy()
    changed[-1, -1] += 1
    safetensors.numpy.save_file({names[0]: W, names[1]: changed}, path)
    with pytest.raises(CheckpointError, match="found 2 that differ"):
        open_unembedding(path)
    with open_unembedding(path, tensor=names[1]) as found:
        np.testing.assert_array_equal(found.rows(0, 3000), changed)


@pytest.mark.parametrize("shape", [(8,), (), (8, 3, 1)])
def test_two_heads_that_are_no_matrices(tmp_path, shape):
    write(tmp_path, dict.fromkeys(["lm_head.weight", "model.lm_head.weight"], shape))
    with pytest.raises(CheckpointError, match="found 2 that differ"):
        open_unembedding(tmp_path)


def test_head_of_another_part_is_not_taken_silently(tmp_path):
    names = ["draft.lm_head.weight", "model.embed_tokens.weight"]
    write(tmp_path, dict.fromkeys(names, HEAD))
    with pytest.raises(CheckpointError, match="pass tensor="):
        open_unembedding(tmp_path)
    with open_unembedding(tmp_path, tensor=names[1]) as W:
        assert (W.name, W.tied) == (names[1], False)


def test_none_found_lists_ten_matrices(tmp_path):
    tensors = {f"layer.{i}.weight": (4, 2) for i in range(30)} | {"bias": (4,)}
    path = write(tmp_path, tensors)
    with pytest.raises(CheckpointError, match="found neither") as raised:
        open_unembedding(tmp_path)
    text = str(raised.value)
    assert str(path) in text
    assert text.count("(4, 2)") == 10
    assert "'bias'" not in text


def test_named_tensor(tmp_path):
    path = write(
        tmp_path, {"lm_head.weight": HEAD, "model.embed_tokens.weight": HEAD, "a.b": (9, 4)}
    )
    for name, tied in [("lm_head.weight", False), ("model.embed_tokens.weight", False)]:
        with open_unembedding(tmp_path, tensor=name) as W:
            assert (W.name, W.tied, W.reason) == (name, tied, "named by tensor=")
    with open_unembedding(path, tensor="a.b") as W:
        assert W.shape == (9, 4)
    with pytest.raises(CheckpointError, match=r"no tensor 'lm_heads\.weight'.*'lm_head\.weight'"):
        open_unembedding(path, tensor="lm_heads.weight")
    with pytest.raises(CheckpointError, match="no tensor ''"):
        open_unembedding(path, tensor="")


@pytest.mark.parametrize(
    ("companions", "scheme"),
    [
        (["qweight", "qzeros", "scales", "g_idx"], "GPTQ;"),
        (["qweight", "qzeros", "scales"], "GPTQ or AWQ"),
        (["weight.absmax", "weight.quant_map"], "bitsandbytes"),
        (["weight.quant_state.bitsandbytes__nf4"], "bitsandbytes"),
        (["SCB"], "bitsandbytes"),
        (["weight_scale"], "codes with scales"),
        (["weight_scale_inv"], "codes with scales"),
        (["scales", "biases"], "MLX"),
        (["weight_packed", "weight_scale"], "compressed-tensors"),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("prefix", ["", "language_model.", "base_model.model."])
def test_quantised_head_is_refused(tmp_path, companions, scheme, plain, prefix):
    # Beside tied weights or not, with the packed head alone or a tensor under its plain name.
    tensors = {f"{prefix}lm_head.{name}": (4, 2) for name in companions}
    tensors["model.embed_tokens.weight"] = HEAD
    if plain:
        tensors[f"{prefix}lm_head.weight"] = HEAD
    path = write(tmp_path, tensors)
    with pytest.raises(CheckpointError, match=f"is quantised \\({scheme}") as raised:
        open_unembedding(tmp_path)
    assert str(path) in str(raised.value)
    with open_unembedding(tmp_path, tensor="model.embed_tokens.weight") as W:
        assert W.name == "model.embed_tokens.weight"


@pytest.mark.parametrize("plain", [True, False])
def test_quantised_input_embedding_is_refused(tmp_path, plain):
    tensors = {"model.embed_tokens.scales": (8, 1), "model.embed_tokens.biases": (8, 1)}
    if plain:
        tensors["model.embed_tokens.weight"] = ("U32", (8, 3))
    write(tmp_path, tensors)
    with pytest.raises(CheckpointError, match="is quantised \\(MLX"):
        open_unembedding(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("I8", "I8, the codes of a quantised matrix"),
        ("U32", "U32, the codes of a quantised matrix"),
        ("F8_E4M3", "F8_E4M3, which is not supported: .* scales"),
        ("F8_E5M2", "F8_E5M2, which is not supported: .* scales"),
    ],
)
def test_codes_are_never_read_as_weights(tmp_path, dtype, message):
    path = write(tmp_path, {"lm_head.weight": (dtype, HEAD)})
    for tensor in (None, "lm_head.weight"):
        with pytest.raises(CheckpointError, match=message) as raised:
            open_unembedding(path, tensor=tensor)
        assert str(path) in str(raised.value)


def test_quantised_layers_with_a_plain_head_are_right(tmp_path):
    layer = "model.layers.0.mlp.up_proj"
    names = {f"{layer}.qweight": (4, 2), f"{layer}.scales": (4, 2), "lm_head.weight": HEAD}
    write(tmp_path, names)
    with open_unembedding(tmp_path) as W:
        assert W.name == "lm_head.weight"


def test_lora_adapter_alone_is_refused(tmp_path):
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{layer}.lora_A.weight": (4, 9), f"{layer}.lora_B.weight": (9, 4)}
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(safetensors_file(tensors))
    with pytest.raises(CheckpointError, match="a LoRA adapter without") as raised:
        open_unembedding(tmp_path)
    assert str(path) in str(raised.value)
    # Its own copy of the input embedding says nothing about the base model's head.
    tensors["base_model.model.model.embed_tokens.weight"] = HEAD
    path.write_bytes(safetensors_file(tensors))
    with pytest.raises(CheckpointError, match="a LoRA adapter without"):
        open_unembedding(tmp_path)
    # A head that was trained as a whole is one.
    tensors["base_model.model.lm_head.weight"] = HEAD
    path.write_bytes(safetensors_file(tensors))
    with open_unembedding(tmp_path) as W:
        assert W.name == "base_model.model.lm_head.weight"


def test_head_with_an_adapter_of_its_own_is_refused(tmp_path):
    names = ["lm_head.base_layer.weight", "lm_head.lora_A.default.weight", "lm_head.lora_B.weight"]
    write(tmp_path, dict.fromkeys(names, HEAD))
    with pytest.raises(CheckpointError, match=r"'lm_head\.base_layer\.weight' has a LoRA adapter"):
        open_unembedding(tmp_path)


# ---- config.json -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_size": 3, "vocab_size": 8},
        {"n_embd": 3},
        {"d_model": 3, "vocab_size": 7},  # padded rows
        {"dim": 3},
        {"text_config": {"hidden_size": 3}},
        {"hidden_size": 5, "text_config": {"hidden_size": 3, "vocab_size": 8}},
        {"hidden_size": 3, "text_config": {"hidden_size": 5}},
        {"hidden_size": None, "vocab_size": "8"},
        {"hidden_size": True},
        {},
    ],
)
def test_config_that_agrees(tmp_path, config):
    write(tmp_path, {"lm_head.weight": HEAD}, config)
    with open_unembedding(tmp_path) as W:
        assert W.shape == HEAD
        assert W.reason == "'lm_head.weight' is the output head"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 4}, "does not fit the model: expected 4 columns.*found 3"),
        ({"n_embd": 4}, "expected 4 columns.*found 3"),
        ({"d_model": 4}, "expected 4 columns.*found 3"),
        ({"text_config": {"hidden_size": 4}}, "expected 4 columns.*found 3"),
        ({"text_config": {"n_embd": 4}, "hidden_size": 5}, "expected 4 or 5 columns.*found 3"),
        ({"hidden_size": 8}, "is transposed: expected 8 columns.*found 3 columns and 8 rows"),
        ({"hidden_size": 3, "vocab_size": 9}, "lacks rows: expected at least 9.*found 8"),
        ({"text_config": {"vocab_size": 16}}, "lacks rows: expected at least 16.*found 8"),
    ],
)
def test_config_that_contradicts_the_tensor(tmp_path, config, message):
    path = write(tmp_path, {"lm_head.weight": HEAD}, config)
    with pytest.raises(CheckpointError, match=message) as raised:
        open_unembedding(tmp_path)
    for part in (str(path), "'lm_head.weight' of shape (8, 3)", "config.json"):
        assert part in str(raised.value)
    # The user's own choice of a tensor overrides it.
    for source in (tmp_path, path):
        with open_unembedding(source, tensor="lm_head.weight") as W:
            assert W.shape == HEAD


def test_transposed_head(tmp_path):
    write(tmp_path, {"lm_head.weight": (3, 8)}, {"hidden_size": 3})
    with pytest.raises(CheckpointError, match=r"transposed: expected 3 columns.*found 8 columns"):
        open_unembedding(tmp_path)


@pytest.mark.parametrize("section", ["", "text_config"])
@pytest.mark.parametrize(
    ("names", "flag", "remark"),
    [
        (["model.embed_tokens.weight"], True, ""),
        (
            ["model.embed_tokens.weight"],
            False,
            "the input embedding 'model.embed_tokens.weight' was taken",
        ),
        (["lm_head.weight", "model.embed_tokens.weight"], False, ""),
        (
            ["lm_head.weight", "model.embed_tokens.weight"],
            True,
            "; config.json says tie_word_embeddings=true, yet a separate head is stored",
        ),
    ],
)
def test_the_flag_does_not_choose(tmp_path, section, names, flag, remark):
    config = {"tie_word_embeddings": flag}
    write(tmp_path, dict.fromkeys(names, HEAD), {section: config} if section else config)
    with open_unembedding(tmp_path) as W:
        assert W.name == names[0]
        assert W.tied == (len(names) == 1)
        assert W.reason.endswith(remark or ("(tied)" if W.tied else "head"))
        assert bool(W.doubts) == (W.tied and not flag)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"[]", "expected a JSON object"),
        (b"\xff", "not UTF-8"),
        (b'{"a":' * 100_000, "nested too deeply|not valid JSON"),
        (b'{"vocab_size": ' + b"1" * 100_000 + b"}", "not valid JSON"),
        (b"version https://git-lfs.github.com/spec/v1", "not valid JSON"),
    ],
    ids=["empty", "list", "utf8", "deep", "digits", "lfs"],
)
def test_damaged_config_is_named(tmp_path, text, message):
    write(tmp_path, {"lm_head.weight": HEAD})
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=message) as raised:
        open_unembedding(tmp_path)
    assert str(tmp_path / "config.json") in str(raised.value)


def test_config_over_the_cap_is_not_read(tmp_path):
    write(tmp_path, {"lm_head.weight": HEAD}, {})
    os.truncate(tmp_path / "config.json", 1 << 33)
    with pytest.raises(
        CheckpointError, match=r"config\.json: the config: expected at most 16777216 bytes"
    ):
        open_unembedding(tmp_path)


# ---- Sources ---------------------------------------------------------------------------------


def test_single_file_of_any_name_in_a_folder(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(safetensors_file({"lm_head.weight": HEAD}))
    (tmp_path / "model.gguf").write_bytes(SOUND_GGUF)
    with open_unembedding(str(tmp_path)) as W:
        assert (W.name, W.source) == ("lm_head.weight", str(tmp_path))


def test_gguf_in_a_folder(tmp_path):
    (tmp_path / "model-Q4_K_M.gguf").write_bytes(SOUND_GGUF)
    (tmp_path / "config.json").write_text("{}")
    with open_unembedding(tmp_path) as W:
        assert W.name == "token_embd.weight"


def test_model_safetensors_comes_first(tmp_path):
    write(tmp_path, {"lm_head.weight": HEAD})
    (tmp_path / "other.safetensors").write_bytes(b"damaged")
    with open_unembedding(tmp_path) as W:
        assert W.name == "lm_head.weight"


@pytest.mark.parametrize("suffix", ["safetensors", "gguf"])
def test_several_files_are_refused_and_listed(tmp_path, suffix):
    for name in ("a", "b"):
        (tmp_path / f"{name}.{suffix}").write_bytes(b"")
    with pytest.raises(CheckpointError, match="expected one checkpoint, found 2") as raised:
        open_unembedding(tmp_path)
    for part in (str(tmp_path), f"'a.{suffix}'", f"'b.{suffix}'"):
        assert part in str(raised.value)


@pytest.mark.parametrize("name", ["a.ckpt", "a.pkl", "a.pickle"])
def test_pickles_are_not_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    for source in (path, tmp_path):
        with pytest.raises(CheckpointError, match="expected a safetensors file") as raised:
            open_unembedding(source)
        assert str(source) in str(raised.value)
        assert name in str(raised.value)


def test_safetensors_come_before_gguf_and_these_before_torchs_files(tmp_path):
    for name in ("pytorch_model.bin.index.json", "pytorch_model.bin", "other.pt"):
        (tmp_path / name).write_bytes(b"damaged")
    (tmp_path / "model.gguf").write_bytes(SOUND_GGUF)
    with open_unembedding(tmp_path) as W:
        assert W.name == "token_embd.weight"
    write(tmp_path, {"lm_head.weight": HEAD})
    with open_unembedding(tmp_path) as W:
        assert W.name == "lm_head.weight"


def test_folder_without_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="found nothing"):
        open_unembedding(tmp_path)
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(CheckpointError, match=r"found 'readme\.md'") as raised:
        open_unembedding(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def fail(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(CheckpointError, match="cannot be listed: Permission denied") as raised:
        open_unembedding(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_json_that_is_no_index(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    with pytest.raises(CheckpointError, match="expected a weight_map"):
        open_unembedding(path)


def test_text_file(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, not weights")
    message = (
        "notes.txt: not a checkpoint: expected a safetensors file, the index .*, a GGUF file, .* "
        "or a model's folder, found a file of text"
    )
    with pytest.raises(CheckpointError, match=message):
        open_unembedding(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a checkpoint: .*found an empty file"):
        open_unembedding(path)


def test_git_lfs_pointer_without_an_ending(tmp_path):
    path = tmp_path / "blob"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match="a Git LFS pointer"):
        open_unembedding(path)


@pytest.mark.parametrize("url", ["https://huggingface.co/a/b", "s3://bucket/model", "HTTP://a.b"])
def test_urls(url):
    with pytest.raises(CheckpointError, match="no addresses are read") as e:
        open_unembedding(url)
    assert url in str(e.value)


@pytest.mark.parametrize("source", ["missing", "missing/model.safetensors", "", "a" * 5000, "a\0b"])
def test_missing_path(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no such file or folder|cannot be opened") as raised:
        open_unembedding(source)
    assert "Hub" not in str(raised.value) or "/" in source


def test_dangling_link(tmp_path):
    (tmp_path / "model.safetensors").symlink_to("gone")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        open_unembedding(tmp_path)


def test_revision_of_a_local_source(tmp_path):
    write(tmp_path, {"lm_head.weight": HEAD})
    with pytest.raises(ValueError, match="revision: expected None for the local source"):
        open_unembedding(tmp_path, revision="main")


def test_tensor_is_a_name(tmp_path):
    write(tmp_path, {"lm_head.weight": HEAD})
    with pytest.raises(TypeError, match="tensor: expected a name, found 3"):
        open_unembedding(tmp_path, tensor=3)


def test_paths_of_all_types(tmp_path):
    path = write(tmp_path, {"lm_head.weight": HEAD})
    for source in (path, str(path), bytes(path)):
        with open_unembedding(source) as W:
            assert W.source == str(path)


def test_upper_case_endings(tmp_path):
    path = tmp_path / "MODEL.GGUF"
    path.write_bytes(SOUND_GGUF)
    with open_unembedding(path) as W:
        assert W.name == "token_embd.weight"


def test_import_and_plain_reading_load_no_heavy_library(tmp_path):
    path = write(tmp_path, {"lm_head.weight": HEAD})
    code = (
        "import sys\n"
        "from embedfilter.checkpoints import open_unembedding\n"
        f"with open_unembedding({str(path)!r}) as W: list(W.blocks())\n"
        "print(sorted({'gguf', 'torch', 'scipy', 'safetensors', 'ml_dtypes'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"
