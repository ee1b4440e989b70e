"""The tables of tied heads agree with the libraries that they were taken from."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers.models.auto.modeling_auto as auto
from gguf.constants import MODEL_ARCH_NAMES, MODEL_TENSOR, MODEL_TENSORS
from tiny_models import make
from transformers import AutoConfig

from embedfilter.checkpoints import open_unembedding
from embedfilter.checkpoints.head import architectures
from embedfilter.checkpoints.head.architectures import (
    GGUF_WITHOUT_LANGUAGE_HEAD,
    gguf_tied,
    has_layer_before_head,
    tied_by_default,
)
from embedfilter.errors import CheckpointError

# ---- transformers ----------------------------------------------------------------------------

TASKS = ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT")
# Their heads are separate in transformers 5 whatever the configuration says, and were tied before.
OWN_HEAD = frozenset({"cpmant", "luke"})
# Pairs of any two models.
PAIRS = frozenset({"encoder-decoder", "vision-encoder-decoder"})
# Of sound, or of an architecture that is not a language model's.
OTHERS = frozenset({"musicgen", "musicgen_melody", "perceiver"})


def model_types() -> list[str]:
    mappings = (getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES") for task in TASKS)
    return sorted({name for mapping in mappings for name in mapping} - OTHERS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", model_types())
def test_default_is_that_of_transformers(model_type):
    try:
        config = AutoConfig.for_model(model_type)
    except Exception:  # without arguments it cannot be made
        assert tied_by_default(model_type) is not None
        return
    text = config.get_text_config()
    flags = {getattr(part, "tie_word_embeddings", None) for part in (config, text)} - {None}
    found = tied_by_default(model_type)
    if found is None:
        assert len(flags) != 1 or model_type in OWN_HEAD | PAIRS
    elif flags:
        assert found in flags


# Their tiny models cannot be run like the others: sizes that must differ, a language to be set.
NOT_RUN = frozenset({"mobilebert", "neomme", "xmod"})


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        pytest.param(model_type, name, id=model_type)
        for model_type, name in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.items()
        if tied_by_default(model_type) is True
        and model_type not in {*auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, *NOT_RUN}
    ],
)
def test_an_encoder_is_one_whose_logits_are_not_its_states_times_its_head(model_type, name):
    model = make(name, tied=True).eval()
    with torch.no_grad():
        result = model(input_ids=torch.arange(10, 26)[None], output_hidden_states=True)
        direct = model.get_output_embeddings()(result.hidden_states[-1])
    both = np.corrcoef(result.logits.numpy().ravel(), direct.numpy().ravel())[0, 1]
    assert has_layer_before_head(model_type) is bool(both < 0.9)


def test_tables_do_not_contradict_each_other():
    tables = {name: table for name, table in vars(architectures).items() if _is_table(name, table)}
    for group in (("TIED", "CODE_TIED", "UNTIED", "CODE_UNTIED"), _of_gguf(tables)):
        names = [name for table in group for name in tables[f"_{table}"]]
        assert len(names) == len(set(names))
    assert len(tables["_TIED"] | tables["_UNTIED"]) > 300


def _is_table(name, table):
    return name.startswith("_") and isinstance(table, frozenset)


def _of_gguf(tables):
    return [name[1:] for name in tables if name.startswith("_GGUF")]


@pytest.mark.parametrize(
    ("model_type", "tied"),
    [
        ("llama", False),
        ("qwen2", False),
        ("mistral", False),
        ("gpt_neox", False),
        ("baichuan", False),
        ("gemma3_text", True),
        ("gpt2", True),
        ("bert", True),
        ("t5", True),
        ("no such model", None),
    ],
)
def test_examples(model_type, tied):
    assert tied_by_default(model_type) is tied


# ---- GGUF ------------------------------------------------------------------------------------

V, D = 320, 32
GGUF_ARCHITECTURES = {
    name: MODEL_TENSOR.OUTPUT in MODEL_TENSORS[number] for number, name in MODEL_ARCH_NAMES.items()
}


# Architectures of GGUF files that hold an encoder of text and never its head.
GGUF_ENCODERS = {
    "bert",
    "eurobert",
    "gemma-embedding",
    "jina-bert-v2",
    "jina-bert-v3",
    "llama-embed",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "t5encoder",
}


def write_gguf(path: Path, architecture: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal((V, D), np.float32) for name in names}
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_embedding_length(D)
    writer.add_token_list([f"token {number}" for number in range(V)])
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.add_tensor("output_norm.weight", np.ones(D, np.float32))
    writer.add_tensor("blk.0.ffn_up.weight", random.standard_normal((2 * D, D), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.mark.parametrize("architecture", [a for a, has in GGUF_ARCHITECTURES.items() if has])
def test_output_of_gguf_is_taken(tmp_path, architecture):
    path = tmp_path / "model.gguf"
    tensors = write_gguf(path, architecture, ("token_embd.weight", "output.weight"))
    expected = tensors["output.weight"]
    if architecture == "baichuan":  # which divides its rows by their lengths
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    with open_unembedding(path) as W:
        np.testing.assert_allclose(W.rows(0, V), expected, rtol=1e-6)
        assert not W.tied


@pytest.mark.parametrize("architecture", GGUF_ARCHITECTURES)
def test_gguf_without_output(tmp_path, architecture):
    path = tmp_path / "model.gguf"
    tensors = write_gguf(path, architecture, ("token_embd.weight",))
    if gguf_tied(architecture) is not True:
        try:
            with open_unembedding(path) as W:
                doubtful = bool(W.doubts)
        except CheckpointError:
            doubtful = True
        assert doubtful
        return
    with open_unembedding(path) as W:
        np.testing.assert_array_equal(W.rows(0, V), tensors["token_embd.weight"])
        assert W.tied


def test_every_gguf_architecture_is_known():
    unsure = {name for name in GGUF_ARCHITECTURES if gguf_tied(name) is None}
    assert unsure <= GGUF_ENCODERS
    without = {name for name, has in GGUF_ARCHITECTURES.items() if not has}
    # Where the format has no place for a head, it is the embedding, or there is none.
    for name in without - GGUF_ENCODERS - GGUF_WITHOUT_LANGUAGE_HEAD:
        assert gguf_tied(name) is True
    assert len(GGUF_ARCHITECTURES) > 120


@pytest.mark.parametrize("told_by", ["pooling", "name"])
@pytest.mark.parametrize(
    ("architecture", "tied"),
    [("qwen3", False), ("llama", False), ("gemma2", True), ("bert", True), ("nomic-bert", True)],
)
def test_gguf_of_an_embedding_model(tmp_path, architecture, tied, told_by):
    """One that was untied, and saved without its head, looks like one that is tied."""
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_embedding_length(D)
    if told_by == "pooling":
        writer.add_pooling_type(gguf.PoolingType.LAST)
    else:
        writer.add_name("Some-Embedding-8B")
    writer.add_token_list([f"token {number}" for number in range(V)])
    writer.add_tensor("token_embd.weight", np.ones((V, D), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_unembedding(path) as W:
        assert bool(W.doubts) is not tied
        assert (f"{architecture} are encoders" in str(W.caution)) is ("bert" in architecture)
    with open_unembedding(path, tensor="token_embd.weight") as W:
        assert W.caution is None
