"""Embedding models out of language models, beside a direct computation with transformers."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import tokenizers
import torch
import transformers
from command_line import failure, run
from tiny_model import write_tiny_model

import embedfilter
from embedfilter import CheckpointError, EmbedFilter

PROMPTEOL = 'Summarize the sentence: "{}" in one word:"'
ECHO = "Rewrite the following paragraph: {0}. The rewritten paragraph: {0}"
TEXTS = [
    "A cat sat on the mat.",
    'The stock market fell (again) today, said "analysts" {all of them}!',
    "naïve café",
    "rain",
]
LONG = " ".join(f"word{i}" for i in range(400))  # over 512 tokens


class Model(NamedTuple):
    folder: Path
    f: EmbedFilter


@pytest.fixture(scope="module", params=["tiny", pytest.param("SmolLM2", marks=pytest.mark.long)])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model's folder, and where its filter comes from."""
    if request.param == "tiny":
        folder = write_tiny_model(tmp_path_factory.mktemp("tiny"))
        return Model(folder, EmbedFilter.from_checkpoint(folder))
    smollm2 = request.getfixturevalue("smollm2")
    folder = request.getfixturevalue("smollm2_folder")
    return Model(folder, EmbedFilter.from_checkpoint(smollm2))


@pytest.fixture(scope="module")
def folder(model: Model) -> Path:
    return model.folder


@pytest.fixture(scope="module")
def f(model: Model) -> EmbedFilter:
    return model.f


@pytest.fixture(scope="module")
def direct(folder: Path) -> tuple[Any, Any]:
    """The model and the tokenizer by transformers alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return transformers.AutoModel.from_pretrained(folder).eval(), tokenizer


def states(direct: tuple[Any, Any], prompt: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the states (tokens, d) of one prompt, alone, and where its tokens end in it."""
    model, tokenizer = direct
    encoded = tokenizer(prompt, return_tensors="pt", return_offsets_mapping=True)
    ends = encoded.pop("offset_mapping")[0, :, 1].numpy()
    with torch.inference_mode():
        return model(**encoded).last_hidden_state[0].numpy(), ends


def prompteol(direct: tuple[Any, Any], text: str) -> np.ndarray:
    return states(direct, PROMPTEOL.format(text))[0][-1]


def echo(direct: tuple[Any, Any], text: str) -> np.ndarray:
    prompt = ECHO.format(text)
    rows, ends = states(direct, prompt)
    return rows[ends > len(prompt) - len(text)].mean(axis=0)


def mean(direct: tuple[Any, Any], text: str) -> np.ndarray:
    return states(direct, text)[0].mean(axis=0)


@pytest.mark.parametrize("way", [prompteol, echo, mean])
def test_it_agrees_with_transformers(
    folder: Path, direct: tuple[Any, Any], f: EmbedFilter, way: Callable[..., np.ndarray]
) -> None:
    model = embedfilter.encoder(folder, template=way.__name__, device="cpu")
    expected = f.transform(np.array([way(direct, text) for text in TEXTS]))
    for batch_size in (1, 2, len(TEXTS)):
        found = model.encode(TEXTS, batch_size=batch_size)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("way", "template"), [(prompteol, PROMPTEOL), (echo, ECHO)])
def test_long_texts_keep_their_ends(
    folder: Path, direct: tuple[Any, Any], way: Callable[..., np.ndarray], template: str
) -> None:
    model = embedfilter.encoder(folder, template=way.__name__, ratio=1, device="cpu")
    tokens = direct[1](LONG)["input_ids"]
    assert len(tokens) > 512
    short = direct[1].decode(tokens[:256] + tokens[-256:])
    expected = way(direct, short)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(model.encode(LONG), expected, atol=1e-4)


@pytest.mark.parametrize("template", ["prompteol", "mean"])
def test_saved_and_reloaded(folder: Path, f: EmbedFilter, tmp_path: Path, template: str) -> None:
    from sentence_transformers import SentenceTransformer

    model = embedfilter.encoder(folder, template=template, ratio=4, device="cpu")
    assert model.get_embedding_dimension() == f.n_features_in // 4
    model.save_pretrained(str(tmp_path))
    stock = template == "mean"
    again = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=not stock)
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    # It says how it is loaded, and what it is; who opens and saves it again keeps that.
    card = (tmp_path / "README.md").read_text()
    assert ("trust_remote_code=True" in card) != stock
    assert f"filtered from {f.n_features_in} by embedfilter (kind edge)" in card
    assert f"(2, {f.n_features_in // 4})" in card
    assert str(folder.parent) not in card
    embedfilter.encoder(tmp_path, device="cpu").save_pretrained(str(tmp_path / "again"))
    assert (tmp_path / "again" / "README.md").read_text() == card


@pytest.mark.parametrize("template", ["prompteol", "echo", "mean"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_what_was_saved_is_opened_as_it_was(
    folder: Path, f: EmbedFilter, tmp_path: Path, template: str, calibrated: bool
) -> None:
    options: dict[str, Any] = {"ratio": 4}
    if calibrated:
        sample = np.random.default_rng(0).standard_normal((200, f.n_features_in)) + 1.0
        options = {"filter": f.calibrate(sample, n_components=16), "normalize": False}
    model = embedfilter.encoder(folder, template=template, device="cpu", **options)
    model.prompts, model.default_prompt_name = {"query": "about "}, "query"
    saved = tmp_path / "saved"
    model.save_pretrained(str(saved))
    expected = model.encode(TEXTS)
    for asked in ({}, {"template": template}):
        again = embedfilter.encoder(saved, device="cpu", **asked)
        np.testing.assert_allclose(again.encode(TEXTS), expected, atol=1e-6)
    again.save_pretrained(str(tmp_path / "once more"))
    third = embedfilter.encoder(tmp_path / "once more", device="cpu")
    np.testing.assert_allclose(third.encode(TEXTS), expected, atol=1e-6)


def test_a_folder_to_be_served(folder: Path, f: EmbedFilter, tmp_path: Path) -> None:
    """docs/sentence-transformers.md: stock modules, spelt as all servers read them."""
    from sentence_transformers import SentenceTransformer

    plain = embedfilter.encoder(folder, template="mean", ratio=1, normalize=False, device="cpu")
    served = f.to_sentence_transformers(plain, out=tmp_path / "served")
    expected = embedfilter.encoder(folder, template="mean", filter=f, device="cpu").encode(TEXTS)
    again = SentenceTransformer(str(served), device="cpu", local_files_only=True)
    np.testing.assert_allclose(again.encode(TEXTS), expected, atol=1e-6)
    ours = embedfilter.encoder(served, device="cpu")
    np.testing.assert_allclose(ours.encode(TEXTS), expected, atol=1e-6)
    modules = json.loads((served / "modules.json").read_text())
    assert [m["type"] for m in modules] == [
        f"sentence_transformers.models.{kind}"
        for kind in ("Transformer", "Pooling", "Dense", "Normalize")
    ]
    pooling = json.loads((served / "1_Pooling" / "config.json").read_text())
    assert [name for name, on in pooling.items() if on is True] == [
        "pooling_mode_mean_tokens",
        "include_prompt",
    ]


def test_clients_that_send_the_template(folder: Path, f: EmbedFilter, tmp_path: Path) -> None:
    """docs/sentence-transformers.md: stock modules do PromptEOL, of a model for chats too."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    chats = shutil.copytree(folder, tmp_path / "chats")
    tokenizer = transformers.AutoTokenizer.from_pretrained(chats)
    tokenizer.chat_template = "{% for m in messages %}user: {{ m['content'] }}\n{% endfor %}"
    tokenizer.save_pretrained(chats)
    sent = [PROMPTEOL.format(text) for text in TEXTS]
    expected = embedfilter.encoder(folder, template="prompteol", filter=f, device="cpu")
    plain = embedfilter.encoder(chats, template="mean", ratio=1, normalize=False, device="cpu")
    plain[1] = Pooling(f.n_features_in, pooling_mode="lasttoken")
    served = f.to_sentence_transformers(plain, out=tmp_path / "served")
    stock = SentenceTransformer(str(served), device="cpu", local_files_only=True)
    np.testing.assert_allclose(stock.encode(sent), expected.encode(TEXTS), atol=1e-5)
    # Not of the folder itself, which is why the page says how it is made.
    message = SentenceTransformer(str(chats), device="cpu", local_files_only=True)
    assert "user: " in message.tokenizer.decode(message.preprocess(sent[:1])["input_ids"][0])


@pytest.mark.parametrize("template", ["prompteol", "echo", "mean"])
def test_what_was_saved_is_a_source_like_its_model(
    folder: Path, f: EmbedFilter, tmp_path: Path, template: str, recwarn: pytest.WarningsRecorder
) -> None:
    """Its own template is the default wherever a model is taken."""
    saved = tmp_path / "saved"
    embedfilter.encoder(folder, template=template, ratio=4, device="cpu").save_pretrained(
        str(saved)
    )
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{text}\n" for text in TEXTS * 5))
    recwarn.clear()
    plain = embedfilter.encoder(folder, template=template, ratio=1, device="cpu")
    same = embedfilter.encoder(saved, ratio=1, device="cpu")
    np.testing.assert_allclose(same.encode(TEXTS), plain.encode(TEXTS), atol=1e-6)
    components = EmbedFilter.from_checkpoint(folder).components
    np.testing.assert_allclose(EmbedFilter.from_checkpoint(saved).components, components, atol=1e-6)
    assert str(f.n_features_in) in run("inspect", saved).stdout
    run("encode", saved, texts, "-o", tmp_path / "e.npy")
    expected = embedfilter.encoder(saved, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(np.load(tmp_path / "e.npy")[: len(TEXTS)], expected, atol=1e-5)
    assert not [w for w in recwarn if "trained or not linear" in str(w.message)]


def _changed(folder: Path, name: str, change: Any) -> Path:
    """Change a JSON file of a saved model."""
    file = folder / name
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("modules.json", lambda m: m[0].update(type="custom_st.Transformer"), "found 'custom_st"),
        ("modules.json", lambda m: m[3].update(type="x.Classifier"), "found 'x.Classifier'"),
        ("modules.json", lambda m: m[0].update(name=""), "names that differ"),
        ("modules.json", lambda m: m[0].update(name="3"), "names that differ"),
        ("modules.json", lambda m: m[2].update(path="7_Dense"), "7_Dense"),
        ("2_Dense/config.json", lambda c: c.update(activation_function="evil.f"), "'evil.f'"),
        ("2_Dense/config.json", lambda c: c.pop("in_features"), "expected a saved Dense"),
        ("config_sentence_transformers.json", lambda c: c.update(prompts=["x"]), "prompts by name"),
        ("sentence_bert_config.json", lambda c: c.pop("template"), "template: expected one of"),
        ("sentence_bert_config.json", lambda c: c.update(template="evil"), "found 'evil'"),
    ],
)
def test_saved_models_that_are_not_whole(
    folder: Path, tmp_path: Path, name: str, change: Any, message: str
) -> None:
    embedfilter.encoder(folder, ratio=4, device="cpu").save_pretrained(str(tmp_path))
    _changed(tmp_path, name, change)
    with pytest.raises((CheckpointError, ValueError), match=message) as caught:
        embedfilter.encoder(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_saved_models_other_settings(folder: Path, tmp_path: Path) -> None:
    model = embedfilter.encoder(folder, template="mean", ratio=1, device="cpu")
    model.truncate_dim = 5
    model.save_pretrained(str(tmp_path))
    again = embedfilter.encoder(tmp_path, device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    with pytest.raises(ValueError, match="^revision: expected None"):
        embedfilter.encoder(tmp_path, revision="main", device="cpu")


def test_another_pooling_has_no_template(folder: Path, tmp_path: Path) -> None:
    embedfilter.encoder(folder, template="mean", ratio=4, device="cpu").save_pretrained(
        str(tmp_path)
    )
    _changed(tmp_path, "1_Pooling/config.json", lambda c: c.update(pooling_mode="cls"))
    with pytest.raises(CheckpointError, match="found another pooling: name a template"):
        embedfilter.encoder(tmp_path, ratio=1, device="cpu")


def test_names_that_are_none(folder: Path) -> None:
    with pytest.raises(ValueError, match="^model: expected a path or an id, found an empty text$"):
        embedfilter.encoder("")
    with pytest.raises(TypeError, match="^model: expected a path or an id, found bytes$"):
        embedfilter.encoder(os.fsencode(folder))  # type: ignore[arg-type]


def test_a_second_filter_is_refused(folder: Path, f: EmbedFilter, tmp_path: Path) -> None:
    model = embedfilter.encoder(folder, template="mean", ratio=4, device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    for target, out in ((model, None), (tmp_path / "saved", tmp_path / "out")):
        with pytest.raises(ValueError, match="expected a model without a filter"):
            f.to_sentence_transformers(target, out)
    assert not (tmp_path / "out").exists()


def test_a_saved_model_keeps_its_scale(folder: Path, tmp_path: Path) -> None:
    embedfilter.encoder(folder, ratio=4, device="cpu").save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="^normalize: expected True"):
        embedfilter.encoder(tmp_path, normalize=False, device="cpu")


def test_a_filter_of_unit_rows_gets_them(folder: Path, f: EmbedFilter, tmp_path: Path) -> None:
    """A filter that was calibrated on unit rows, and one on rows as they are, in the model."""
    raw = embedfilter.encoder(folder, ratio=1, normalize=False, device="cpu").encode(TEXTS * 4)
    rows = raw + np.random.default_rng(0).standard_normal(raw.shape).astype(np.float32) / 4
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for sample, scaled in ((rows, raw), (unit, raw / np.linalg.norm(raw, axis=1, keepdims=True))):
        g = f.calibrate(sample, n_components=16)
        model = embedfilter.encoder(folder, filter=g, device="cpu")
        np.testing.assert_allclose(model.encode(TEXTS * 4), g.transform(scaled), atol=2e-5)
        model.save_pretrained(str(tmp_path / str(len(model))))
        again = embedfilter.encoder(tmp_path / str(len(model)), device="cpu")
        np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


def test_a_prompt_and_a_filter_of_ones_own(folder: Path, f: EmbedFilter) -> None:
    model = embedfilter.encoder(folder, filter=f.truncate(20), device="cpu")
    whole = embedfilter.encoder(folder, device="cpu")
    with_prompt = model.encode(["cat", "dog"], prompt="animal: ")
    expected = whole.encode(["animal: cat", "animal: dog"])[:, :20]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(with_prompt, expected, atol=1e-5)


def test_a_filter_in_a_file(folder: Path, f: EmbedFilter, tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    f.truncate(20).save(path)
    expected = embedfilter.encoder(folder, filter=f.truncate(20), device="cpu").encode(TEXTS)
    for given in (path, str(path)):
        found = embedfilter.encoder(folder, filter=given, device="cpu").encode(TEXTS)
        np.testing.assert_array_equal(found, expected)


def test_half_precision(folder: Path) -> None:
    model = embedfilter.encoder(folder, dtype="bfloat16", device="cpu")
    assert model[0].model.dtype == torch.bfloat16
    expected = embedfilter.encoder(folder, device="cpu").encode(TEXTS)
    cosines = np.sum(model.encode(TEXTS) * expected, axis=1)
    assert cosines.min() > 0.98


def save_random(folder: Path, tokenizer: Any, architecture: str, **sizes: int) -> None:
    """Save a small random model with this tokenizer."""
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **sizes
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("architecture", "sizes"),
    [
        ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}),
        (
            "Qwen2",
            {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
            | {"num_key_value_heads": 2, "intermediate_size": 64},
        ),
    ],
)
def test_padding_changes_nothing(
    folder: Path, tmp_path: Path, architecture: str, sizes: dict[str, int]
) -> None:
    # Learned positions, as GPT-2 has, would show padding that is not accounted for.
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    save_random(tmp_path, tokenizer, architecture, **sizes)
    for template in ("prompteol", "echo"):
        model = embedfilter.encoder(tmp_path, template=template, device="cpu")
        alone = np.array([model.encode(text) for text in TEXTS])
        np.testing.assert_allclose(model.encode(TEXTS), alone, atol=1e-5)


# ---- What tokenizers and models do ----------------------------------------------------------


def test_what_a_tokenizer_appends_is_not_pooled(tmp_path: Path) -> None:
    """The end of a sequence, behind a text, is no part of the template."""
    plain, ends = write_tiny_model(tmp_path / "plain"), write_tiny_model(tmp_path / "ends")
    tokenizer = tokenizers.Tokenizer.from_file(str(ends / "tokenizer.json"))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 0)]
    )
    tokenizer.save(str(ends / "tokenizer.json"))
    assert transformers.AutoTokenizer.from_pretrained(ends)("a")["input_ids"][-1] == 0
    for template in ("prompteol", "echo"):
        expected, found = (
            embedfilter.encoder(folder, template=template, ratio=1, device="cpu").encode(TEXTS)
            for folder in (plain, ends)
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_echo_of_an_empty_text(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    model = embedfilter.encoder(folder, template="echo", ratio=1, device="cpu")
    with pytest.warns(UserWarning, match="empty text, which has no second copy"):
        found = model.encode(["", "rain"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    direct = transformers.AutoModel.from_pretrained(folder).eval(), tokenizer
    expected = states(direct, ECHO.format(""))[0][-1]
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), atol=1e-5)


def test_templates_are_for_causal_models(tmp_path: Path) -> None:
    """An encoder's first token sees what follows."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(write_tiny_model(tmp_path / "tiny"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), intermediate_size=64, bos_token_id=0, eos_token_id=0, **sizes
    )
    torch.manual_seed(0)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    for template in ("prompteol", "echo"):
        with pytest.warns(UserWarning, match="this one's see what follows: take template='mean'"):
            embedfilter.encoder(tmp_path / "bert", template=template, ratio=1, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        embedfilter.encoder(tmp_path / "bert", template="mean", ratio=1, device="cpu")


@pytest.mark.parametrize(
    "name",
    ["./absent", "../a/b", "a/b/c", "/no/where", "~/absent", "absent.gguf", "a/b.safetensors"],
)
def test_names_that_are_none_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedfilter.integrations.encoder._transformer", pytest.fail)
    for make in (functools.partial(embedfilter.encoder, ratio=1), embedfilter.vocabulary_sample):
        with pytest.raises(CheckpointError, match=f"^{re.escape(name)}: no such file or folder"):
            make(name)


def test_a_file_that_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedfilter.integrations.encoder._transformer", pytest.fail)
    path = tmp_path / "texts.txt"
    path.write_text("one\n")
    with pytest.raises(CheckpointError, match=r"texts\.txt: expected a folder .* another file$"):
        embedfilter.encoder(path, ratio=1)


# ---- Arguments, and the command line --------------------------------------------------------


def test_wrong_arguments(folder: Path, f: EmbedFilter, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=r"template: expected one of prompteol, echo, mean"):
        embedfilter.encoder(folder, template="none")
    with pytest.raises(ValueError, match=r"dtype: expected one of float32"):
        embedfilter.encoder(folder, dtype="int8")
    with pytest.raises(ValueError, match=r"filter: expected no ratio"):
        embedfilter.encoder(folder, filter=f, ratio=2)
    with pytest.raises(ValueError, match=r"n: expected from 2 to 1000000, found 1"):
        embedfilter.vocabulary_sample(folder, n=1)
    other = EmbedFilter.from_matrix(rng.standard_normal((2000, f.n_features_in)))
    with pytest.raises(ValueError, match=r"another unembedding matrix"):
        embedfilter.encoder(folder, filter=other)
    with pytest.raises(TypeError, match=r"sentences: expected texts, found tuple"):
        embedfilter.encoder(folder, ratio=1, device="cpu").encode([("a", "b")])


def test_encode_command(folder: Path, f: EmbedFilter, tmp_path: Path) -> None:
    texts, output = tmp_path / "texts.txt", tmp_path / "out.npy"
    texts.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    done = run("encode", folder, texts, "-o", output, "--ratio", 4, "--device", "cpu", "--json")
    assert '"rows": 4' in done.stdout
    expected = embedfilter.encoder(folder, ratio=4, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(np.load(output), expected, atol=1e-5)


def test_encode_command_writes_tables(folder: Path, tmp_path: Path) -> None:
    """The embeddings of each kind of file are the same, and other columns stay."""
    texts, npy = tmp_path / "texts.jsonl", tmp_path / "out.npy"
    rows = [{"id": i, "text": text, "topic": f"té{i}"} for i, text in enumerate(TEXTS)]
    texts.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    for name in ("out.npy", "out.parquet", "out.jsonl"):
        run("encode", folder, texts, "-o", tmp_path / name, "--ratio", 4, "--device", "cpu")
    expected = np.load(npy)
    assert expected.dtype == np.float32
    of_parquet = pq.read_table(tmp_path / "out.parquet").to_pylist()
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    for found in (of_parquet, [json.loads(line) for line in lines]):
        embeddings = np.array([row.pop("embedding") for row in found], np.float32)
        np.testing.assert_array_equal(embeddings, expected)
        assert found == rows


def test_encode_command_refuses(folder: Path, tmp_path: Path) -> None:
    texts, output = tmp_path / "texts.txt", tmp_path / "out.npy"
    texts.write_text("one\n\nthree\n", encoding="utf-8")
    assert "texts.txt: expected a text in line 2" in failure("encode", folder, texts, "-o", output)
    texts.write_bytes(b"one\n\xff\n")
    assert "texts.txt: expected UTF-8 in line 2" in failure("encode", folder, texts, "-o", output)
    texts.write_bytes(b"")
    assert "texts.txt: expected texts, found an empty" in failure(
        "encode", folder, texts, "-o", output
    )
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]
