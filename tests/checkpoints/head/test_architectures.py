"""Every language model of transformers: the head that it saves is found, or refused with a reason.

A tiny random model of each class is made, tied and untied, saved, and opened; what is found must
be the matrix that the model itself multiplies with. Classes for which that is not so are listed
below, with the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers.models.auto.modeling_auto as auto
from tiny_configs import D, V
from tiny_models import make
from torch import nn

from embedfilter.checkpoints import open_unembedding
from embedfilter.errors import CheckpointError

# Constructors warn of their own settings.
pytestmark = pytest.mark.filterwarnings("ignore")

TASKS = (
    "CAUSAL_LM",
    "MASKED_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "PRETRAINING",
)
# Of images or sound, without a vocabulary.
NOT_LANGUAGE = frozenset(
    {
        "HieraForPreTraining",
        "UniSpeechForPreTraining",
        "UniSpeechSatForPreTraining",
        "ViTMAEForPreTraining",
        "VideoMAEForPreTraining",
        "Wav2Vec2ConformerForPreTraining",
        "Wav2Vec2ForPreTraining",
    }
)
# Classes that cannot be built here, and what they raise.
CANNOT_BUILD = {
    "Gemma3nForConditionalGeneration": "requires the timm library",
    "PerceptionLMForConditionalGeneration": "requires the timm library",
    # All their layers share keys and values, which transformers' own check does not expect.
    "Gemma4AssistantForCausalLM": "layer types producing a cache is different",
    "Gemma4UnifiedAssistantForCausalLM": "layer types producing a cache is different",
}
# Classes whose configuration cannot be saved tied.
NEVER_TIED = frozenset({"DbrxForCausalLM"})
# What get_output_embeddings does not tell, or not rightly: the parameter that logits are computed
# with; None where there is none, so only the input embedding may be found.
HEADS: dict[str, str | None] = {
    "BlipForConditionalGeneration": "text_decoder.cls.predictions.decoder.weight",
    "ColModernVBertForRetrieval": None,
    "ColPaliForRetrieval": None,
    "ColQwen2ForRetrieval": None,
    "DiaForConditionalGeneration": "logits_dense.weight",  # of nine codebooks of sound
    "ElectraForPreTraining": None,
    "FlavaForPreTraining": None,  # has two, which differ
    "FSMTForConditionalGeneration": "model.decoder.output_projection.weight",
    "FunnelForPreTraining": None,
    "LxmertForPreTraining": "cls.predictions.decoder.weight",
    "MusicgenForCausalLM": None,  # a head for each codebook of sound
    "MusicgenMelodyForCausalLM": None,
    "NemotronH_Omni_Reasoning_V3": "language_model.lm_head.weight",
    "PerceiverForMaskedLM": None,
    "Qwen2_5OmniForConditionalGeneration": "thinker.lm_head.weight",
    "Qwen3OmniMoeForConditionalGeneration": "thinker.lm_head.weight",
    "SplinterForPreTraining": None,
}
# What is refused, and how the message says why: for every way of tying, or one.
REFUSED: dict[str, dict[bool, str]] = {
    # Two models, each with an input embedding; which is the head is not told by the names.
    "EncoderDecoderModel": {True: "found 2 that differ"},
    "FlavaForPreTraining": dict.fromkeys((False, True), "found 2 that differ"),
    "MusicgenForCausalLM": dict.fromkeys((False, True), "form that is not known"),
    "MusicgenMelodyForCausalLM": dict.fromkeys((False, True), "form that is not known"),
    # Embeddings narrower than the hidden states.
    "NeoMMEForMaskedLM": dict.fromkeys((False, True), "does not fit the model"),
    "PerceiverForMaskedLM": dict.fromkeys((False, True), "found neither|not known"),
    # Two models, of which one acts.
    "PI0ForConditionalGeneration": dict.fromkeys((False, True), "found 2 that differ"),
    # Two streams of hidden states side by side.
    "ReformerForMaskedLM": dict.fromkeys((False, True), "does not fit the model"),
    "ReformerModelWithLMHead": dict.fromkeys((False, True), "does not fit the model"),
}


# From a file it is not told which of their parts writes tokens; the open model tells.
OF_TWO_PARTS = {"PI0ForConditionalGeneration"}


def language_models() -> list[str]:
    """The names of the classes, in order."""
    names: set[str] = set()
    for task in TASKS:
        for classes in getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES").values():
            names.update((classes,) if isinstance(classes, str) else classes)
    return sorted(names - NOT_LANGUAGE)


def own_head(model: nn.Module) -> torch.Tensor | None:
    """What the model multiplies hidden states with; None where it has no such matrix."""
    name = type(model).__name__
    if name in HEADS:
        return None if HEADS[name] is None else model.get_parameter(HEADS[name])
    return model.get_output_embeddings().weight


def check(source: Path | nn.Module, expected: np.ndarray, bias: torch.Tensor | None = None) -> None:
    """Open `source`; the rows are the expected ones, or there is a doubt about them."""
    with open_unembedding(source) as W:
        if not W.doubts:
            assert W.shape == expected.shape, W.name
            np.testing.assert_array_equal(W.rows(0, W.shape[0]), expected, W.name)
            if bias is not None and bias.any() and W.bias is not None:
                np.testing.assert_array_equal(W.bias, bias.detach().numpy())


@pytest.mark.parametrize("name", language_models())
def test_language_model(tmp_path, name):
    if name in CANNOT_BUILD:
        with pytest.raises(Exception, match=CANNOT_BUILD[name]):
            make(name)
        return
    for tied in (False,) if name in NEVER_TIED else (False, True):
        model = make(name, tied=tied)  # for one that fails: tiny_configs.py, or CANNOT_BUILD
        reason = REFUSED.get(name, {}).get(tied)
        head = None if name in OF_TWO_PARTS else own_head(model)
        if head is None and (reason is None or name in OF_TWO_PARTS):
            head = model.get_input_embeddings().weight
        folder = tmp_path / str(tied)
        model.save_pretrained(folder)
        for kind, source in {"file": folder, "model": model}.items():
            # Without a config beside it, the open model is taken at its word.
            if head is None or (reason is not None and kind == "file"):
                with pytest.raises(CheckpointError, match=reason):
                    open_unembedding(source)
            else:
                head_module = model.get_output_embeddings() if name not in HEADS else None
                check(source, head.detach().numpy(), getattr(head_module, "bias", None))


def test_lists_name_what_there_is():
    names = set(language_models())
    listed = {*CANNOT_BUILD, *NEVER_TIED, *HEADS, *REFUSED}
    assert listed <= names
    assert len(names) > 380


# Their logits, besides what the configuration says of them.
@pytest.mark.parametrize(
    "name",
    [
        "CohereForCausalLM",
        "FalconForCausalLM",
        "GPT2LMHeadModel",
        "GPTJForCausalLM",
        "Gemma2ForCausalLM",
        "GraniteForCausalLM",
        "LlamaForCausalLM",
        "MambaForCausalLM",
        "MistralForCausalLM",
        "PhiForCausalLM",
        "Qwen3ForCausalLM",
        "RobertaForMaskedLM",
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_logits(tmp_path, name, tied):
    model = make(name, tied=tied)
    model.save_pretrained(tmp_path)
    with open_unembedding(tmp_path) as W:
        rows = torch.from_numpy(W.rows(0, V))
    hidden: list[torch.Tensor] = []
    head = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0]))
    with torch.no_grad():
        logits = model(input_ids=torch.arange(6, 14)[None]).logits.double()
        expected = hidden[0].double() @ rows.double().T
        if getattr(head, "bias", None) is not None:
            expected += head.bias.double()
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap is not None:
        expected = cap * torch.tanh(expected / cap)
    factor = (logits * expected).sum() / (expected * expected).sum()
    torch.testing.assert_close(logits, factor * expected, rtol=1e-4, atol=1e-4)


# The model alone, without a head: what AutoModel saves.
@pytest.mark.parametrize(
    "name", ["BertModel", "BloomModel", "GPT2Model", "OPTModel", "T5EncoderModel"]
)
def test_model_without_a_head(tmp_path, name):
    model = make(name)
    expected = model.get_input_embeddings().weight.detach().numpy()
    assert expected.shape == (V, D)
    model.save_pretrained(tmp_path)
    check(model, expected)
    check(tmp_path, expected)


@pytest.mark.parametrize(
    "name",
    [
        "BartForConditionalGeneration",
        "BertForMaskedLM",
        "GPTNeoXForCausalLM",
        "LlamaForCausalLM",
        "Qwen2VLForConditionalGeneration",
        "T5ForConditionalGeneration",
        "WhisperForConditionalGeneration",
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_many_files_and_those_of_torch(tmp_path, name, tied):
    model = make(name, tied=tied)
    expected = model.get_output_embeddings().weight.detach().numpy()
    model.save_pretrained(tmp_path / "many", max_shard_size=3000)
    assert (tmp_path / "many" / "model.safetensors.index.json").exists()
    check(tmp_path / "many", expected)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    check(tmp_path / "pytorch_model.bin", expected)


def test_both_ways_of_tying_occur(tmp_path):
    for tied in (False, True):
        make("LlamaForCausalLM", tied=tied).save_pretrained(tmp_path)
        with open_unembedding(tmp_path) as W:
            assert W.tied is tied
            assert "yet" not in W.reason  # the config's flag says the same


@pytest.mark.parametrize(
    ("name", "changes", "columns"),
    [
        ("AlbertForMaskedLM", {"embedding_size": 8}, 8),
        ("ElectraForMaskedLM", {"embedding_size": 8}, 8),
        ("OPTForCausalLM", {"word_embed_proj_dim": 8}, 8),
        ("RemBertForMaskedLM", {"output_embedding_size": 48}, 48),
    ],
)
def test_embedding_of_another_size_than_the_hidden_states_is_refused(
    tmp_path, name, changes: dict[str, Any], columns
):
    make(name, **changes).save_pretrained(tmp_path)
    expected = f"expected {D} columns.*found {columns}, its .*no filter of the hidden states"
    with pytest.raises(CheckpointError, match=expected):
        open_unembedding(tmp_path)
