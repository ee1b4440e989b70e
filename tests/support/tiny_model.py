"""A language model that takes no time: random weights, and a token for each byte."""

from __future__ import annotations

from pathlib import Path

import tokenizers
import torch
import transformers

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 4096,
}


def write_tiny_model(folder: Path) -> Path:
    """Save a Llama of 64 dimensions, and its tokenizer, as transformers does."""
    tokens = ["</s>", *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    special = {"eos_token": "</s>", "pad_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokens), bos_token_id=None, eos_token_id=0, tie_word_embeddings=True, **SIZES
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
