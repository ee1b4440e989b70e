"""Embedding models that were saved without their head, and the filter of the model before.

A base model with a head of its own; a fine-tune of it as AutoModel saves it, without the head;
and the same in a model of sentence-transformers.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import tokenizers
import torch
import transformers
from click.testing import CliRunner, Result
from command_line import failure, run
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

import embedfilter
from embedfilter import CheckpointError, EmbedFilter, evaluate
from embedfilter.checkpoints import open_unembedding
from embedfilter.commands.main import main
from embedfilter.errors import HeadError
from embedfilter.files.messages import source_name
from embedfilter.integrations import sentence_transformers as integration

D, V = 32, 320
TEXTS = ["a cat sat on the mat", "the dog", "stocks fell", "rain in spring", "tax law", "a song"]
SIZES = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}


def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the bytes, and an end."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def language_model(folder: Path, d: int = D, vocabulary: int = V) -> Path:
    config = transformers.Qwen2Config(
        hidden_size=d, vocab_size=vocabulary, tie_word_embeddings=False, **SIZES
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # a spectrum with an edge, and not that of the input embedding
        model.lm_head.weight *= torch.linspace(0.5, 3, d)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedding") / "model"
    tuned = transformers.AutoModel.from_pretrained(base)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    tuned.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    return folder


@pytest.fixture(scope="module")
def st_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("st") / "model"
    first = Transformer(str(model))
    pooling = Pooling(first.get_embedding_dimension(), pooling_mode="lasttoken")
    SentenceTransformer(modules=[first, pooling], device="cpu").save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def f(base: Path) -> EmbedFilter:
    found = EmbedFilter.from_checkpoint(base)
    assert found.metadata["tensor"] == "lm_head.weight"
    return found


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def unfiltered(st_model: Path) -> NDArray:
    model = SentenceTransformer(str(st_model), device="cpu", local_files_only=True)
    return np.asarray(model.encode(TEXTS))


# ---- The filter of the base model on the embedding model ------------------------------------


def test_in_a_folder(f: EmbedFilter, st_model: Path, tmp_path: Path) -> None:
    out = f.to_sentence_transformers(st_model, tmp_path / "out")
    again = SentenceTransformer(str(out), device="cpu", local_files_only=True)
    np.testing.assert_allclose(again.encode(TEXTS), f.transform(unfiltered(st_model)), atol=1e-5)


def test_in_an_open_model(f: EmbedFilter, st_model: Path) -> None:
    opened = SentenceTransformer(str(st_model), device="cpu", local_files_only=True)
    f.to_sentence_transformers(opened)
    np.testing.assert_allclose(opened.encode(TEXTS), f.transform(unfiltered(st_model)), atol=1e-5)


def test_the_command_export(f: EmbedFilter, st_model: Path, tmp_path: Path) -> None:
    f.save(tmp_path / "f.safetensors")
    done = invoke("export", tmp_path / "f.safetensors", st_model, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "modules.json").is_file()


@pytest.mark.parametrize("template", ["prompteol", "mean"])
def test_encoder(f: EmbedFilter, base: Path, model: Path, tmp_path: Path, template: str) -> None:
    f.save(tmp_path / "f.safetensors")
    plain = embedfilter.encoder(model, template=template, ratio=1, normalize=False, device="cpu")
    expected = f.transform(plain.encode(TEXTS))
    for options in ({"filter": f}, {"filter": tmp_path / "f.safetensors"}, {"base": base}):
        found = embedfilter.encoder(model, template=template, device="cpu", **options)
        np.testing.assert_allclose(found.encode(TEXTS), expected, atol=1e-5)
    half = embedfilter.encoder(model, template=template, base=base, ratio=4, device="cpu")
    assert half.get_embedding_dimension() == D // 4


def test_the_command_encode(f: EmbedFilter, base: Path, model: Path, tmp_path: Path) -> None:
    texts, output = tmp_path / "texts.txt", tmp_path / "out.npy"
    texts.write_text("\n".join(TEXTS), encoding="utf-8")
    done = invoke("encode", model, texts, "-o", output, "--base", base, "--device", "cpu")
    assert done.exit_code == 0, done.output
    expected = embedfilter.encoder(model, filter=f, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(np.load(output), expected, atol=1e-5)


def test_evaluate(base: Path, model: Path, tmp_path: Path) -> None:
    texts = [f"{text}, {number}" for text in TEXTS for number in ("one", "two", "three")]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    done = run(
        *("evaluate", tmp_path / "texts.txt", "--json", "--dimensions", f"{D},8"),
        *("--encode-with", model, "--base", base),
    )
    assert {"edge", "late"} <= {result["method"] for result in json.loads(done.stdout)["results"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few rows
        rows = embedfilter.encoder(model, ratio=1, normalize=False, device="cpu").encode(texts)
        expected = evaluate(rows, base, dimensions=[D, 8])
    found = {(r["method"], r["dimension"]): r for r in json.loads(done.stdout)["results"]}
    for result in json.loads(expected.to_json())["results"]:
        if result["method"] in ("edge", "late"):
            assert found[result["method"], result["dimension"]] == result


# ---- What it is fitted for --------------------------------------------------------------------


def test_fit(f: EmbedFilter, base: Path, model: Path, st_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "f.safetensors"
    for name in (model, st_model):
        done = run("fit", name, "--base", base, "-o", output)
        assert f"from lm_head.weight of {base} ({V} x {D}" in done.stdout
        again = EmbedFilter.load(output)
        assert again == f
        assert again.metadata["source"] == source_name(str(base))
        assert again.metadata["fitted_for"] == source_name(str(name))
        assert again == EmbedFilter.from_checkpoint(name, base=base)
    facts = json.loads(run("inspect", output, "--json").stdout)
    assert facts["fitted_for"] == source_name(str(st_model))


def test_a_gguf_file_says_its_sizes_too(base: Path, smollm2: Path, tmp_path: Path) -> None:
    line = failure("fit", smollm2, "--base", base, "-o", tmp_path / "f")
    assert f"base: expected a model of the hidden size 576, as {smollm2} has, found 32" in line


def test_what_does_not_fit_together(
    base: Path, model: Path, tmp_path: Path, f: EmbedFilter
) -> None:
    output = tmp_path / "f.safetensors"
    narrow = language_model(tmp_path / "narrow", d=16)
    line = failure("fit", model, "--base", narrow, "-o", output)
    assert f"expected a model of the hidden size 32, as {model} has, found 16 in {narrow}" in line
    other = language_model(tmp_path / "other", vocabulary=500)
    line = failure("fit", model, "--base", other, "-o", output)
    assert f"one vocabulary, found two: {other} has 500 tokens, {model} has 320" in line
    assert "nowhere: no such file" in failure("fit", "nowhere", "--base", base, "-o", output)
    assert "nowhere: no such file" in failure("fit", model, "--base", "nowhere", "-o", output)
    line = failure("fit", model, "--base", base, "-o", output, "--revision", "main")
    assert "revision: expected None with a base" in line
    line = failure("fit", model, "--base", base, "-o", base / "config.json")
    assert "expected an output apart from the checkpoint" in line
    with pytest.raises(TypeError, match=r"source: expected a path or an id"):
        EmbedFilter.from_checkpoint(f.components, base=base)
    assert not output.exists()

    with pytest.raises(ValueError, match=r"base: expected a filter to fit to it, found ratio 1"):
        embedfilter.encoder(model, base=base, ratio=1)
    with pytest.raises(ValueError, match=r"base: expected a filter to fit to it, found filter"):
        embedfilter.encoder(model, base=base, filter=f)
    with pytest.raises(
        ValueError, match=r"base: expected a model of the hidden size 32.* found 16"
    ):
        embedfilter.encoder(model, base=narrow)
    with pytest.raises(ValueError, match=r"base: expected encode_with with it"):
        evaluate(TEXTS, base=base)
    with pytest.raises(ValueError, match=r"base: expected no source beside it"):
        evaluate(TEXTS, f, base=base, encode_with=model)
    with pytest.raises(ValueError, match=r"base: expected a model of the hidden size 32"):
        evaluate(TEXTS, base=narrow, encode_with=model)


def test_the_base_is_named_where_it_is_doubted(st_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(st_model, folder)
    card = "---\nbase_model:\n- Qwen/Qwen3-8B-Base\n---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    with pytest.warns(UserWarning, match=r"names? .*'Qwen/Qwen3-8B-Base'"):
        EmbedFilter.from_checkpoint(folder)
    assert "Qwen/Qwen3-8B-Base" in run("inspect", folder).stdout
    for damaged in (b"---\nbase_model: [", b"\xff", b""):
        (folder / "README.md").write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"probably not the unembedding matrix"):
            EmbedFilter.from_checkpoint(folder)


# ---- What still does not suit -----------------------------------------------------------------


def test_another_width(st_model: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    f = EmbedFilter.from_matrix(rng.standard_normal((V, 16)))
    with pytest.raises(ValueError, match=r"the 16 dimensions that the filter takes, found 32"):
        f.to_sentence_transformers(st_model, tmp_path / "out")


def test_another_vocabulary(st_model: Path, model: Path, tmp_path: Path) -> None:
    f = EmbedFilter.from_checkpoint(language_model(tmp_path / "other", vocabulary=600))
    message = r"one vocabulary, found two: the filter's matrix \(.*other\) has 600 .* has 320"
    with pytest.raises(ValueError, match=message):
        f.to_sentence_transformers(st_model, tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        embedfilter.encoder(model, filter=f)


def test_a_few_more_tokens_are_told(f: EmbedFilter) -> None:
    metadata = {**f.metadata, "rows": "32768"}
    larger = EmbedFilter(
        f.components, f.component_indices, f.singular_values, kind=f.kind, metadata=metadata
    )
    for rows, told in ((32768, False), (32768 - 256, False), (32768 + 3, False), (32000, True)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            integration._check_vocabulary(larger, (rows,), "model")
        assert bool(caught) == told, rows
    assert "has 32768 tokens, model has 32000, which is more than padding" in str(caught[0].message)


def test_a_known_head_is_compared_as_ever(f: EmbedFilter, base: Path, tmp_path: Path) -> None:
    other = language_model(tmp_path / "other")
    torch.manual_seed(1)
    with torch.no_grad():
        changed = transformers.AutoModelForCausalLM.from_pretrained(other)
        changed.lm_head.weight.copy_(torch.randn(V, D))
        changed.save_pretrained(other)
    with pytest.raises(ValueError, match=r"found one with another unembedding matrix"):
        embedfilter.encoder(other, filter=f)
    with pytest.raises(ValueError, match=r"found one with another unembedding matrix"):
        embedfilter.encoder(other, base=base)


def test_a_filter_of_the_wrong_matrix_is_told(model: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"config\.json says tie_word_embeddings=false, yet"):
        own = EmbedFilter.from_checkpoint(model)
    own.save(tmp_path / "f.safetensors")  # it is told whenever the filter is used
    with pytest.warns(UserWarning, match=r"fitted to a matrix that is in doubt: config\.json says"):
        embedfilter.encoder(model, filter=tmp_path / "f.safetensors", device="cpu")
    with warnings.catch_warnings():  # and not where the user has said what to take
        warnings.simplefilter("error")
        named = EmbedFilter.from_checkpoint(model, tensor=own.metadata["tensor"])
        embedfilter.encoder(model, filter=named, device="cpu")


# ---- No head that can be read -----------------------------------------------------------------


def test_a_packed_head(f: EmbedFilter, model: Path, tmp_path: Path) -> None:
    """GPTQ's codes in place of the only matrix of the vocabulary's shape."""
    tensors = {
        f"embed_tokens.{part}": np.zeros((D, 8), np.int32)
        for part in ("qweight", "qzeros", "g_idx")
    }
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    with pytest.raises(HeadError, match="GPTQ"):
        open_unembedding(tmp_path)
    integration.check_matrix(f, tmp_path, "packed")


def refused(*_: Any, **__: Any) -> Any:
    raise HeadError("model: the head is packed")


def test_by_sizes_alone(
    f: EmbedFilter, model: Path, st_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integration, "open_unembedding", refused)
    f.to_sentence_transformers(st_model, tmp_path / "out")
    opened = SentenceTransformer(str(st_model), device="cpu", local_files_only=True)
    f.to_sentence_transformers(opened)
    assert opened.get_embedding_dimension() == D // 2
    embedfilter.encoder(model, filter=f, device="cpu")
    narrow = EmbedFilter.from_matrix(np.random.default_rng(0).standard_normal((V, 16)))
    with pytest.raises(ValueError, match=r"the 16 dimensions that the filter takes, found 32"):
        narrow.to_sentence_transformers(st_model, tmp_path / "other")
    with pytest.raises(ValueError, match=r"the 16 dimensions that the filter takes, found 32"):
        embedfilter.encoder(model, filter=narrow)
    many = EmbedFilter.from_matrix(np.random.default_rng(0).standard_normal((900, D)))
    with pytest.raises(ValueError, match=r"one vocabulary, found two"):
        embedfilter.encoder(model, filter=many)
    monkeypatch.setattr(integration, "read_facts", lambda *_, **__: None)
    with pytest.raises(ValueError, match=r"expected hidden states of the 16 dimensions"):
        embedfilter.encoder(model, filter=narrow)


def test_a_damaged_file_is_an_error(f: EmbedFilter, model: Path) -> None:
    broken = model.parent / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((model / "config.json").read_bytes())
    (broken / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        integration.check_matrix(f, broken, "broken")
