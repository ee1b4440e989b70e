"""The names that models' authors give their tensors, where transformers' are others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from embedfilter.checkpoints import open_unembedding

SHAPE = (400, 16)

# The head, then the input embedding, then what else has the head's name, or its shape.
UNTIED = {
    "baichuan": ["lm_head.weight", "model.embed_tokens.weight"],
    "chatglm": [
        "transformer.output_layer.weight",
        "transformer.embedding.word_embeddings.weight",
    ],
    "chatglm-6b": ["lm_head.weight", "transformer.word_embeddings.weight"],
    "codegen": ["lm_head.weight", "transformer.wte.weight"],
    "cohere-asr": [
        "log_softmax.mlp.layer0.weight",
        "model.transf_decoder._embedding.token_embedding.weight",
    ],
    "ctrl": ["lm_head.weight", "transformer.w.weight"],
    "dbrx": ["lm_head.weight", "transformer.wte.weight"],
    "deepseek": ["head.weight", "embed.weight"],
    "deepseek-v4": ["head.weight", "embed.weight", "mtp.0.head.weight", "mtp.0.embed.weight"],
    "encoder-decoder": [
        "decoder.cls.predictions.decoder.weight",
        "decoder.bert.embeddings.word_embeddings.weight",
        "encoder.embeddings.word_embeddings.weight",
    ],
    "evo": ["backbone.unembed.weight", "backbone.embedding_layer.weight"],
    "exaone": ["lm_head.weight", "transformer.wte.weight"],
    "fairseq": [
        "decoder.output_projection.weight",
        "decoder.embed_tokens.weight",
        "encoder.embed_tokens.weight",
    ],
    "fairseq2": ["final_proj.weight", "decoder_frontend.embed.weight"],
    "falcon-h1": ["lm_head.weight", "model.embed_tokens.weight"],
    "gpt-oss": ["unembedding.weight", "embedding.weight"],
    "grok": ["lm_head.weight", "model.embed_tokens.weight"],
    "inkling": ["model.llm.unembed.weight", "model.llm.embed.weight"],
    "internlm2": ["output.weight", "model.tok_embeddings.weight"],
    "internlm2-vl": ["language_model.output.weight", "language_model.model.tok_embeddings.weight"],
    "jamba": ["lm_head.weight", "model.embed_tokens.weight"],
    "llada": [
        "model.transformer.ff_out.weight",
        "model.transformer.wte.weight",
        "model.transformer.blocks.0.ff_out.weight",
        "model.transformer.blocks.1.ff_out.weight",
    ],
    "mamba": ["lm_head.weight", "backbone.embedding.weight"],
    "megatron": [
        "language_model.output_layer.weight",
        "language_model.embedding.word_embeddings.weight",
    ],
    "megatron-core": ["output_layer.weight", "embedding.word_embeddings.weight"],
    "mistral": ["output.weight", "tok_embeddings.weight"],
    "molmo": [
        "model.transformer.ff_out.weight",
        "model.transformer.wte.embedding",
        "model.transformer.blocks.0.ff_out.weight",
    ],
    "moss": ["lm_head.weight", "transformer.wte.weight"],
    "nanochat": ["lm_head.weight", "transformer.wte.weight", "value_embeds.0.weight"],
    "nanogpt": ["_orig_mod.lm_head.weight", "_orig_mod.transformer.wte.weight"],
    "nemo": [
        "model.language_model.output_layer.weight",
        "model.language_model.embedding.word_embeddings.weight",
    ],
    "olmo": [
        "model.transformer.ff_out.weight",
        "model.transformer.wte.weight",
        "model.transformer.blocks.0.ff_out.weight",
    ],
    "persimmon": [
        "word_embeddings_for_head.weight",
        "language_model.embedding.word_embeddings.weight",
    ],
    "phi-1": ["lm_head.linear.weight", "transformer.embd.wte.weight"],
    "qwen": ["lm_head.weight", "transformer.wte.weight"],
    "rwkv": ["head.weight", "emb.weight"],
    "stablelm": ["lm_head.weight", "model.embed_tokens.weight"],
    "stablelm-alpha": ["embed_out.weight", "gpt_neox.embed_in.weight"],
    "torchtitan": ["output.weight", "tok_embeddings.weight"],
    "trocr": ["decoder.output_projection.weight", "decoder.model.decoder.embed_tokens.weight"],
    "ultrabert": ["cls.weight", "ultrabert.embed_tokens.weight"],
    "voxtral": ["output.weight", "mm_streams_embeddings.embedding_module.tok_embeddings.weight"],
    "whisper": ["proj_out.weight", "model.decoder.embed_tokens.weight"],
    "x-transformers": ["net.to_logits.weight", "net.token_emb.emb.weight"],
    "xglm": ["lm_head.weight", "model.embed_tokens.weight"],
    "xlm": ["pred_layer.proj.weight", "transformer.embeddings.weight"],
}
# The input embedding alone; there is no head in the original files either.
TIED = {
    "gemma": ["embedder.weight"],
    "gpt2": ["wte.weight"],
    "mpt": ["transformer.wte.weight"],
    "openelm": ["transformer.token_embeddings.weight"],
    "whisper": ["decoder.token_embedding.weight"],
}


def save(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal(SHAPE, np.float32) for name in names}
    # What every model has, too.
    rest = {"h.0.mlp.weight": (64, 16), "h.0.norm.weight": (16,), "norm.weight": (16,)}
    others = {name: random.standard_normal(shape, np.float32) for name, shape in rest.items()}
    save_file({**others, **tensors}, path)
    return tensors


@pytest.mark.parametrize("layout", UNTIED)
def test_untied(tmp_path, layout):
    path = tmp_path / "model.safetensors"
    tensors = save(path, UNTIED[layout])
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, SHAPE[0]), tensors[UNTIED[layout][0]], W.name)
        assert not W.tied
        assert not W.doubts


@pytest.mark.parametrize("layout", TIED)
def test_tied(tmp_path, layout):
    path = tmp_path / "model.safetensors"
    tensors = save(path, TIED[layout])
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, SHAPE[0]), tensors[TIED[layout][0]], W.name)
        assert W.tied
