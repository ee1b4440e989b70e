"""Every family of models: what transformers writes, we find, and its rows are the model's own.

The models are tiny and random, made from transformers' configuration classes. Each is saved in
one file and in many, with its head tied to the input embedding and not, as safetensors and as
torch writes it; and asked as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from embedfilter.checkpoints import open_unembedding
from embedfilter.errors import CheckpointError

V, D = 64, 16
SIZES = {
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2}
EXPERTS = {
    "num_key_value_heads": 2,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 8,
}
DECODER_OF_TWO = {"d_model": D, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
BART = {"d_model": D, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}  # fmt: skip
VISION = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
          "num_attention_heads": 1, "image_size": 8, "patch_size": 4}  # fmt: skip

# What the configurations need besides the sizes; ... is left out.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": GROUPED,
    "MistralForCausalLM": GROUPED,
    "MixtralForCausalLM": {**GROUPED, "num_local_experts": 2},
    "Qwen2ForCausalLM": GROUPED,
    "Qwen3ForCausalLM": GROUPED,
    "Qwen3MoeForCausalLM": EXPERTS,
    "GemmaForCausalLM": {**GROUPED, "head_dim": 8},
    "Gemma2ForCausalLM": {**GROUPED, "head_dim": 8},
    "Gemma3ForCausalLM": {**GROUPED, "head_dim": 8},
    "PhiForCausalLM": {},
    "Phi3ForCausalLM": GROUPED,
    "OlmoForCausalLM": GROUPED,
    "Olmo2ForCausalLM": GROUPED,
    "Olmo3ForCausalLM": GROUPED,
    "ArceeForCausalLM": GROUPED,
    "HeliumForCausalLM": {**GROUPED, "head_dim": 8},
    "ApertusForCausalLM": GROUPED,
    "GraniteForCausalLM": GROUPED,
    "CohereForCausalLM": GROUPED,
    "Glm4ForCausalLM": {**GROUPED, "head_dim": 8},
    "StableLmForCausalLM": GROUPED,
    "Starcoder2ForCausalLM": GROUPED,
    "SmolLM3ForCausalLM": GROUPED,
    "Lfm2ForCausalLM": GROUPED,
    "GptOssForCausalLM": {**GROUPED, "num_local_experts": 2, "head_dim": 8},
    "DeepseekV3ForCausalLM": {"num_key_value_heads": 2, "n_routed_experts": 2, "n_group": 1,
                              "topk_group": 1, "num_experts_per_tok": 1},
    "NemotronForCausalLM": GROUPED,
    "PersimmonForCausalLM": {},
    "GPT2LMHeadModel": {},
    "GPTJForCausalLM": {"rotary_dim": 4},
    "GPTNeoForCausalLM": {"attention_types": [[["global"], 1]], "num_layers": 1, "num_heads": 2},
    "GPTNeoXForCausalLM": {},
    "GPTBigCodeForCausalLM": {},
    "CodeGenForCausalLM": {"rotary_dim": 4},
    "FalconForCausalLM": {},
    "BloomForCausalLM": {},
    "OPTForCausalLM": {"ffn_dim": 32, "word_embed_proj_dim": D},
    "MptForCausalLM": {},
    "MambaForCausalLM": {},
    "Mamba2ForCausalLM": {"num_heads": 4, "head_dim": 8, "n_groups": 1, "state_size": 8},
    "RwkvForCausalLM": {"attention_hidden_size": D, "num_hidden_layers": 2},
    "XGLMForCausalLM": {"ffn_dim": 32},
    "CTRLLMHeadModel": {"dff": 32},
    "OpenAIGPTLMHeadModel": {},
    "XLNetLMHeadModel": {"d_model": D, "d_inner": 32, "d_head": 8, "max_position_embeddings": ...},
    "EuroBertForMaskedLM": GROUPED,
    "BertForMaskedLM": {},
    "RobertaForMaskedLM": {},
    "XLMRobertaForMaskedLM": {},
    "MPNetForMaskedLM": {},
    "DistilBertForMaskedLM": {"dim": D, "hidden_dim": 32, "n_layers": 1, "n_heads": 2},
    "ElectraForMaskedLM": {"embedding_size": D},
    "AlbertForMaskedLM": {"embedding_size": D},
    "DebertaV2ForMaskedLM": {},
    "ModernBertForMaskedLM": {},
    "T5ForConditionalGeneration": DECODER_OF_TWO,
    "MT5ForConditionalGeneration": DECODER_OF_TWO,
    "BartForConditionalGeneration": BART,
    "LEDForConditionalGeneration": {**BART, "attention_window": 4},
    "LlavaForConditionalGeneration": {
        "text_config": {**SIZES, **GROUPED, "model_type": "llama"},
        "vision_config": VISION,
    },
    "PaliGemmaForConditionalGeneration": {
        "text_config": {**SIZES, **GROUPED, "head_dim": 8, "model_type": "gemma"},
        "vision_config": {**VISION, "model_type": "siglip_vision_model"},
        "projection_dim": D,
    },
    "Qwen2VLForConditionalGeneration": {
        "text_config": {**SIZES, **GROUPED},
        "vision_config": {"depth": 1, "embed_dim": 8, "hidden_size": D, "num_heads": 1},
    },
    # The model alone, without a head: what AutoModel saves.
    "Qwen3Model": GROUPED,
    "GPT2Model": {},
    "BertModel": {},
    "BloomModel": {},
    "OPTModel": {"ffn_dim": 32, "word_embed_proj_dim": D},
    "T5EncoderModel": DECODER_OF_TWO,
}  # fmt: skip


def make(architecture: str, *, flip: bool = False, **changes: Any) -> nn.Module:
    """A model with random weights; `flip` turns its configuration's own choice of tying."""
    transformers.utils.logging.disable_progress_bar()
    model_class = getattr(transformers, architecture)
    options = {**SIZES, **ARCHITECTURES[architecture], **changes}
    if "text_config" in options:  # the sizes are the language model's
        options = {**ARCHITECTURES[architecture], **changes}
    options = {name: value for name, value in options.items() if value is not ...}
    config = model_class.config_class(**options)
    if flip:
        sections = {id(section): section for section in (config, config.get_text_config())}
        for section in sections.values():
            section.tie_word_embeddings = not getattr(section, "tie_word_embeddings", True)
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def own_rows(model: nn.Module) -> np.ndarray:
    """The head as the model itself has it; without one, its input embedding."""
    module = model.get_output_embeddings() or model.get_input_embeddings()
    return module.weight.detach().numpy()


def check(source: Path | nn.Module, expected: np.ndarray) -> None:
    with open_unembedding(source) as W:
        assert W.shape == (V, D)
        np.testing.assert_array_equal(W.rows(0, V), expected)


@pytest.mark.parametrize("flip", [False, True], ids=["own tying", "other tying"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architecture(tmp_path, architecture, flip):
    model = make(architecture, flip=flip)
    expected = own_rows(model)
    assert expected.shape == (V, D)
    check(model, expected)
    model.save_pretrained(tmp_path / "one")
    assert (tmp_path / "one" / "model.safetensors").exists()
    check(tmp_path / "one", expected)
    model.save_pretrained(tmp_path / "many", max_shard_size=3000)
    assert (tmp_path / "many" / "model.safetensors.index.json").exists()
    check(tmp_path / "many", expected)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    check(tmp_path / "pytorch_model.bin", expected)


def test_number_of_architectures():
    assert len(ARCHITECTURES) > 60


def test_both_ways_of_tying_occur(tmp_path):
    for flip, tied in ((False, False), (True, True)):
        make("LlamaForCausalLM", flip=flip).save_pretrained(tmp_path)
        with open_unembedding(tmp_path) as W:
            assert W.tied is tied
            assert "yet" not in W.reason  # the config's flag says the same


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("AlbertForMaskedLM", {"embedding_size": 8}),
        ("ElectraForMaskedLM", {"embedding_size": 8}),
        ("OPTForCausalLM", {"word_embed_proj_dim": 8}),
    ],
)
def test_embedding_of_another_size_than_the_hidden_states_is_refused(
    tmp_path, architecture, changes
):
    make(architecture, **changes).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="does not fit the model: expected 16 columns.*8"):
        open_unembedding(tmp_path)
