"""Tokenizers and vocabularies that tests write."""

from __future__ import annotations

from pathlib import Path

import tokenizers
from checkpoint_files import gguf_array, gguf_file, gguf_pair, gguf_string, gguf_tensor


def write_gguf(path: Path, tokens: list[bytes], *, kind: str | None = "gpt2", merges=()) -> Path:
    pairs = [
        gguf_pair("tokenizer.ggml.tokens", 9,
                  gguf_array(8, len(tokens), b"".join(map(gguf_string, tokens)))),
        gguf_pair("tokenizer.ggml.merges", 9,
                  gguf_array(8, len(merges), b"".join(map(gguf_string, merges)))),
    ]  # fmt: skip
    if kind is not None:
        pairs.append(gguf_pair("tokenizer.ggml.model", 8, gguf_string(kind)))
    tensor = gguf_tensor("output.weight", (2, max(2, len(tokens))))
    path.write_bytes(gguf_file(pairs, [tensor], bytes(8 * max(2, len(tokens)))))
    return path


def byte_level_tokenizer() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({"Ġa": 0, "b": 1, "âĢ": 2}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Digits(), tokenizers.pre_tokenizers.ByteLevel()]
    )
    tokenizer.add_special_tokens(["<|end of it|>"])
    return tokenizer
