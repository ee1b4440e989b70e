"""Which tokens of a vocabulary are words, with tokenizers of each kind; and their embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from command_line import failure, run
from tiny_model import SIZES, write_tiny_model
from tokenizers import decoders, models, pre_tokenizers

import embedfilter
from embedfilter import EmbedFilter
from embedfilter.integrations.vocabulary_words import vocabulary_words

WORDS = ["water", "house", "river", "stone", "green", "music", "paper", "bread"]
NOT_WORDS = ["Water", "the", "a1bc", "it's", "co-op", "tion", "...", "USA"]


def numbered(tokens: list[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def byte_level(words: list[str], inside: list[str] = []) -> tokenizers.Tokenizer:  # noqa: B006
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = [cut.pre_tokenize_str(text)[0][0] for text in [*(f" {w}" for w in words), *inside]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE(numbered([*alphabet, *spelled]), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentence_piece(words: list[str]) -> tokenizers.Tokenizer:
    tokens = ["<unk>", "<unused7>", "<0x41>", *(f"▁{word}" for word in words), "ment", "inside"]
    tokenizer = tokenizers.Tokenizer(models.Unigram([(t, -1.0) for t in numbered(tokens)], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def word_piece(words: list[str]) -> tokenizers.Tokenizer:
    tokens = ["[UNK]", "[CLS]", "[unused1]", *words, "##inside", "##ment"]
    tokenizer = tokenizers.Tokenizer(models.WordPiece(numbered(tokens), unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, sentence_piece, word_piece])
def test_whole_words_in_lower_case(make) -> None:
    if make is word_piece:  # in which nothing tells "tion" from a word
        expected, tokenizer = {*WORDS, "tion"}, make([*WORDS, *NOT_WORDS])
    else:
        expected, tokenizer = {*WORDS}, make([*WORDS, *(w for w in NOT_WORDS if w != "tion")])
    tokenizer.add_special_tokens(["<pad>"])
    tokenizer.add_tokens(["special", " special"])
    found = vocabulary_words(tokenizer)
    assert set(found) == expected
    assert len(found) == len(expected)
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert vocabulary_words(wrapped) == found
    # The order is that of the words alone, and not that of the tokens or the alphabet.
    assert vocabulary_words(make(WORDS[::-1])) == [w for w in found if w in WORDS]
    assert [w for w in found if w in WORDS] not in (WORDS, sorted(WORDS))


@pytest.mark.parametrize(
    ("words", "inside", "expected"),
    [
        (["über", "schön", "Haus"], ["ähnlich"], ["über", "schön"]),
        (["вода", "дом", "река", "Река"], ["ский"], ["вода", "река"]),
        (["पानी", "नदी"], ["ों", "नाम"], ["पानी", "नदी"]),
        (["물이", "강"], ["에서"], ["물이"]),
        (["中文"], ["河流", "水", "今天"], ["中文", "河流", "今天"]),
        (["น้ำ"], ["บ้าน"], ["น้ำ", "บ้าน"]),
    ],
)
def test_other_scripts(words: list[str], inside: list[str], expected: list[str]) -> None:
    assert set(vocabulary_words(byte_level(words, inside))) == set(expected)


def test_the_script_of_most_words() -> None:
    assert set(vocabulary_words(byte_level([*WORDS[:3], "вода", "река"]))) == set(WORDS[:3])
    few = byte_level([WORDS[0], "вода", "река"])
    assert set(vocabulary_words(few)) == {"вода", "река"}


def test_a_vocabulary_without_words(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    expected = "expected at least 2 words among the vocabulary's tokens, found 0"
    with pytest.raises(ValueError, match=expected):
        embedfilter.vocabulary_sample(folder, device="cpu")
    assert vocabulary_words(byte_level([])) == []
    with pytest.raises(TypeError, match="tokenizer: expected"):
        vocabulary_words(7)


# ---- their embeddings ----------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, of 64 dimensions, whose vocabulary has eighty words."""
    folder = tmp_path_factory.mktemp("words")
    letters = "abcdefghij"
    tokenizer = byte_level([f"{a}{b}ord" for a in "klmnopqr" for b in letters])
    tokenizer.add_special_tokens(["</s>"])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), bos_token_id=None, eos_token_id=0,
        tie_word_embeddings=True, **SIZES,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("template", ["prompteol", "echo", "mean"])
def test_words_in_their_template(folder: Path, template: str) -> None:
    V = embedfilter.vocabulary_sample(folder, template=template, n=30, device="cpu")
    plain = embedfilter.encoder(folder, template=template, ratio=1, normalize=False, device="cpu")
    words = vocabulary_words(plain.tokenizer)[:30]
    assert V.dtype == np.float32
    np.testing.assert_allclose(V, plain.encode(words), atol=1e-5)
    f = EmbedFilter.from_checkpoint(folder, kind="late")
    g = f.calibrate(V, n_components=8)
    sample = g.metadata["calibration_sample"]
    assert (
        sample
        == f"30 words of the vocabulary of {'/'.join(folder.parts[-2:])}, template {template}"
    )
    unit = embedfilter.vocabulary_sample(
        folder, template=template, n=30, normalize=True, device="cpu", batch_size=7
    )
    np.testing.assert_allclose(unit, V / np.linalg.norm(V, axis=1, keepdims=True), atol=1e-5)


def test_encoder(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = ["a text", "and another", "the third"]
    plain = embedfilter.encoder(folder, ratio=1, normalize=False, device="cpu").encode(texts)
    V = embedfilter.vocabulary_sample(folder, device="cpu")
    assert len(V) == 80
    capfd.readouterr()
    for options, kind, width in (
        ({"ratio": 8}, "late", 8),
        ({}, "late", 32),
        ({"ratio": 4, "kind": "edge"}, "edge", 16),
        ({"n_components": 40}, "late", 40),
    ):
        model = embedfilter.encoder(folder, calibrate="vocabulary", device="cpu", **options)
        f = EmbedFilter.from_checkpoint(folder, n_components=max(32, width), kind=kind)
        expected = f.calibrate(V, n_components=width).transform(plain)
        np.testing.assert_allclose(model.encode(texts), expected, atol=1e-4)
    assert "vocabulary" not in capfd.readouterr().err  # transformers shows a bar of its own
    f = EmbedFilter.from_checkpoint(folder)
    model = embedfilter.encoder(
        folder, filter=f, calibrate="vocabulary", device="cpu", progress=True
    )
    assert "80/80" in capfd.readouterr().err
    np.testing.assert_allclose(model.encode(texts), f.calibrate(V)(plain), atol=1e-4)


def test_wrong_arguments(folder: Path) -> None:
    with pytest.raises(ValueError, match="calibrate: expected 'vocabulary' or None, found 'x'"):
        embedfilter.encoder(folder, calibrate="x")
    with pytest.raises(ValueError, match="calibrate: expected a filter to calibrate, found ratio"):
        embedfilter.encoder(folder, calibrate="vocabulary", ratio=1)
    f = EmbedFilter.from_checkpoint(folder)
    calibrated = f.calibrate(np.random.default_rng(0).standard_normal((20, 64)))
    with pytest.raises(ValueError, match="expected one that is not calibrated"):
        embedfilter.encoder(folder, filter=calibrated, calibrate="vocabulary", device="cpu")
    with pytest.raises(ValueError, match="n: expected from 1"):
        embedfilter.vocabulary_sample(folder, n=0)
    with pytest.raises(ValueError, match="template: expected one of"):
        embedfilter.vocabulary_sample(folder, template="none")


def test_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    f = EmbedFilter.from_checkpoint(folder, kind="late")
    f.save(tmp_path / "f")
    V = embedfilter.vocabulary_sample(folder, template="echo", device="cpu")
    options = ("--vocabulary", folder, "--template", "echo", "-o", tmp_path / "g")
    done = run("calibrate", tmp_path / "f", *options, "--components", 8, "--raw")
    assert "calibrated on 80 words of the vocabulary of " in done.stdout
    X = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    expected = f.calibrate(V, n_components=8)
    g = EmbedFilter.load(tmp_path / "g")
    np.testing.assert_allclose(g(X), expected(X), atol=1e-5)
    assert g.metadata == expected.metadata
    np.save(tmp_path / "X.npy", X)
    facts = json.loads(
        run("calibrate", tmp_path / "f", tmp_path / "X.npy", *options, "--json").stdout
    )
    assert facts["rows"] == 50
    assert facts["vocabulary"].startswith("80 words")
    np.testing.assert_allclose(
        EmbedFilter.load(tmp_path / "g")(X), f.calibrate(X, prior=V)(X), atol=1e-4
    )
    unit = embedfilter.vocabulary_sample(folder, template="echo", normalize=True, device="cpu")
    for scaled in ([], ["--unit"]):  # as `encode` writes rows
        run("calibrate", tmp_path / "f", *options, *scaled)
        found = EmbedFilter.load(tmp_path / "g")(X)
        np.testing.assert_allclose(found, f.calibrate(unit)(X), atol=1e-4)
    np.save(tmp_path / "unit.npy", X / np.linalg.norm(X, axis=1, keepdims=True))
    run("calibrate", tmp_path / "f", tmp_path / "unit.npy", *options)  # words as the rows
    beside_unit = f.calibrate(np.load(tmp_path / "unit.npy"), prior=unit)
    np.testing.assert_allclose(EmbedFilter.load(tmp_path / "g")(X), beside_unit(X), atol=1e-4)
    (tmp_path / "texts.txt").write_text("one text\nanother\n", encoding="utf-8")
    run("encode", folder, tmp_path / "texts.txt", "-o", tmp_path / "Y.npy",
        "--ratio", 8, "--calibrate", "vocabulary", "--device", "cpu")  # fmt: skip
    model = embedfilter.encoder(folder, ratio=8, calibrate="vocabulary", device="cpu")
    np.testing.assert_allclose(
        np.load(tmp_path / "Y.npy"), model.encode(["one text", "another"]), atol=1e-5
    )
    assert "expected EMBEDDINGS, or --vocabulary MODEL" in failure(
        "calibrate", tmp_path / "f", "-o", tmp_path / "h"
    )


# ---- a real model --------------------------------------------------------------


@pytest.mark.long
def test_smollm2_finds_more_paraphrases(smollm2_folder: Path, demo_embeddings) -> None:
    """At an eighth of the dimensions, without data; these pairs had no part in any choice."""
    V = embedfilter.vocabulary_sample(smollm2_folder, n=200, device="cpu")
    pairs = demo_embeddings["PromptEOL"].reshape(2, 240, -1)

    def found(f: EmbedFilter) -> float:
        left, right = f(pairs[0]), f(pairs[1])
        return float(np.mean(np.argmax(left @ right.T, axis=1) == np.arange(240)))

    late = EmbedFilter.from_checkpoint(smollm2_folder, kind="late")
    g = late.calibrate(V, n_components=72)
    assert found(g) > found(EmbedFilter.from_checkpoint(smollm2_folder, ratio=8)) + 0.1
    few = pairs[:, ::24].reshape(20, -1)
    assert found(late.calibrate(few, n_components=72, prior=V)) > found(late.truncate(72))
