r"""The tokens of a model as text: from a GGUF file, a ``tokenizer.json`` or a list.

Pieces are stored in one of two spellings. Byte-level ones write each byte as a character that
can be printed (a space as "Ġ"); the others write a space as "▁" and, where they fall back to
bytes, a byte as "<0x0A>". Either is undone here. Bytes that are not UTF-8, such as a piece with
half a character, are shown as escapes: "\xe2\x80".
"""

from __future__ import annotations

import copy
import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfilter.checkpoints.formats.gguf import GgufFile
from embedfilter.checkpoints.layouts.hub_cache import snapshot_in
from embedfilter.checkpoints.locating import ollama_file
from embedfilter.errors import CheckpointError
from embedfilter.files.endings import GGUF, SAFETENSORS, TORCH, ending
from embedfilter.files.folder import Folder, exists
from embedfilter.files.input_file import InputFile
from embedfilter.files.messages import NOT_THERE
from embedfilter.files.part_names import first_parts

__all__ = ["Vocabulary", "find_vocabulary", "open_vocabulary", "visible"]

_TOKENIZER = "tokenizer.json"
_MAX_TOKENIZER = 1 << 28
_MAX_TOKENS = 1 << 24
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# What GGUF calls the tokenizers whose pieces are byte-level.
_BYTE_LEVEL_KINDS = ("gpt2",)


class Vocabulary:
    """The text of each token.

    Parameters
    ----------
    texts : sequence of str or None
        By id; None where there is no token.
    source : str
        Where they come from.
    make_tokenizer : callable, optional
        Returns the ``tokenizers.Tokenizer`` that cuts texts into these tokens.

    Attributes
    ----------
    is_beside : bool
        Whether it was found in a file beside the model's, which may be of another.
    """

    def __init__(
        self,
        texts: Sequence[str | None],
        source: str,
        make_tokenizer: Callable[[], Any] | None = None,
    ) -> None:
        self._texts = texts
        self._make_tokenizer = make_tokenizer
        self.source = source
        self.is_beside = False

    def __len__(self) -> int:
        return len(self._texts)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tokens, source={self.source!r})"

    def text(self, token: int) -> str:
        """Return the text of a token, "#" and its id where there is none."""
        found = self._texts[token] if 0 <= token < len(self._texts) else None
        return f"#{token}" if found is None else found

    def count(self, texts: Iterable[str], size: int) -> NDArray[np.int64]:
        """Return how often each token occurs in texts.

        Parameters
        ----------
        texts : iterable of str
        size : int
            The length of the result; tokens beyond it are left out.

        Returns
        -------
        (size,) int64

        Raises
        ------
        ValueError
            If the vocabulary came without what cuts texts into tokens.
        ImportError
            If tokenizers is not installed.
        """
        if self._make_tokenizer is None:
            raise ValueError(
                "tokenizer: expected one that cuts texts into tokens (a tokenizer.json, or the"
                f" 'gpt2' kind in a GGUF file) to count them, found {self.source}"
            )
        tokenizer = self._make_tokenizer()
        counts = np.zeros(size, np.int64)
        for text in texts:
            ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
            np.add.at(counts, ids[ids < size], 1)
        return counts


def visible(text: str) -> str:
    """Return a token's text in one line where nothing is lost: spaces as "␣", others escaped."""
    return "".join(
        "␣" if character == " " else character
        if character.isprintable()
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )  # fmt: skip


def find_vocabulary(source: Any) -> Vocabulary | None:
    """Return the vocabulary that comes with a checkpoint, None where there is none.

    Parameters
    ----------
    source
        As for `open_unembedding`. A GGUF file has one inside; beside other files, or in their
        folder, there may be a ``tokenizer.json``. A GGUF file beside another file may be of any
        model, and is not taken. For models on the Hub none is looked for.

    Raises
    ------
    CheckpointError
        If it cannot be read.
    ImportError
        If there is a ``tokenizer.json`` and tokenizers is not installed.
    """
    if not isinstance(source, (str, bytes, os.PathLike)):
        return None
    path = ollama_file(source) or Path(os.fsdecode(source))
    if not exists(path):
        return None
    if not path.is_dir():
        file = InputFile(path)
        if file.read(0, min(file.size, 4)).tobytes() == b"GGUF":
            return _from_gguf(file)
        file.close()
        folder = Folder(path.parent)
        return _from_json(folder.open(_TOKENIZER)) if folder.has(_TOKENIZER) else None
    folder = Folder(snapshot_in(path))
    if folder.has(_TOKENIZER):
        return _from_json(folder.open(_TOKENIZER))
    names = folder.names()
    files = first_parts(name for name in names if ending(name) in GGUF)
    found = _from_gguf(folder.open(files[0])) if len(files) == 1 else None
    if found is not None:
        found.is_beside = any(ending(name) in (*SAFETENSORS, *TORCH) for name in names)
    return found


def open_vocabulary(tokenizer: Any) -> Vocabulary:
    """Return the vocabulary of a tokenizer that a user hands over.

    Parameters
    ----------
    tokenizer
        A ``tokenizer.json``, a GGUF file, the folder of either; a ``tokenizers.Tokenizer``; one
        of transformers that is built on it; or the texts of the tokens, by id.

    Raises
    ------
    CheckpointError
        If the file cannot be read, or there is none.
    TypeError
        For anything else.
    """
    if isinstance(tokenizer, (str, bytes, os.PathLike)):
        path = Path(os.fsdecode(tokenizer))
        if not exists(path) and ollama_file(tokenizer) is None:
            raise CheckpointError(f"{path}: {NOT_THERE}")
        is_json = ending(path) == ".json"
        found = _from_json(InputFile(path)) if is_json else find_vocabulary(tokenizer)
        if found is None:
            raise CheckpointError(f"{path}: expected a tokenizer.json or a GGUF file, found none")
        return found
    tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)  # of transformers
    if hasattr(tokenizer, "id_to_token"):
        return _from_tokenizer(tokenizer, type(tokenizer).__name__)
    if isinstance(tokenizer, Sequence) and all(isinstance(text, str) for text in tokenizer):
        return Vocabulary(list(tokenizer), "a list")
    raise TypeError(
        "tokenizer: expected a path, a tokenizers.Tokenizer or the tokens' texts, found"
        f" {type(tokenizer).__name__}"
    )


# ---- formats ----------------------------------------------------------------


def _from_gguf(file: InputFile) -> Vocabulary | None:
    checkpoint = GgufFile(file)
    try:
        tokens = checkpoint.strings("tokenizer.ggml.tokens")
        if tokens is None:
            return None
        pieces = [token.decode("utf-8", "backslashreplace") for token in tokens]
        byte_level = checkpoint.tokenizer in _BYTE_LEVEL_KINDS
        merges = checkpoint.strings("tokenizer.ggml.merges") if byte_level else None
    finally:
        checkpoint.close()
    make = None if merges is None else functools.partial(_byte_level_bpe, file.path, pieces, merges)
    return Vocabulary([_text(piece, byte_level) for piece in pieces], str(file.path), make)


def _byte_level_bpe(path: PurePath, pieces: list[str], merges: list[bytes]) -> Any:
    """Return what cuts texts into byte-level pieces.

    Words are cut as GPT-2 does. Models differ there, in digits for instance.
    """
    tokenizers = _tokenizers(path)
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    pairs = (tuple(merge.decode("utf-8", "backslashreplace").split(" ")) for merge in merges)
    known = [
        pair for pair in pairs if len(pair) == 2 and vocabulary.keys() >= {*pair, "".join(pair)}
    ]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, known))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def _from_json(file: InputFile) -> Vocabulary:
    try:
        tokenizers = _tokenizers(file.path)
        if file.size > _MAX_TOKENIZER:
            raise CheckpointError(
                f"{file.path}: expected at most {_MAX_TOKENIZER} bytes, found {file.size}"
            )
        text = file.read(0, file.size).tobytes()
    finally:
        file.close()
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(text)
    except Exception as error:  # tokenizers raises no narrower class
        raise CheckpointError(f"{file.path}: not a tokenizer.json: {error}") from None
    return _from_tokenizer(tokenizer, str(file.path))


def _tokenizers(path: PurePath) -> Any:
    try:
        import tokenizers  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise ImportError(f'{path}: to read its tokens: pip install "embedfilter[lens]"') from error
    return tokenizers


def _from_tokenizer(tokenizer: Any, source: str) -> Vocabulary:
    """Return the vocabulary of a ``tokenizers.Tokenizer``."""
    byte_level = "ByteLevel" in {*_kinds(tokenizer.decoder), *_kinds(tokenizer.pre_tokenizer)}
    pieces = tokenizer.get_vocab(with_added_tokens=True)
    # Ids may have gaps, even wide ones.
    largest = max((i for i in pieces.values() if i < _MAX_TOKENS), default=-1)
    texts: list[str | None] = [None] * (largest + 1)
    added = tokenizer.get_added_tokens_decoder()  # which are cut out of a text as they are
    for piece, i in pieces.items():
        if i <= largest:
            texts[i] = piece if i in added else _text(piece, byte_level)
    return Vocabulary(texts, source, lambda: _for_counting(tokenizer))


def _for_counting(tokenizer: Any) -> Any:
    """Return a copy of a tokenizer that neither pads nor truncates."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _kinds(part: Any) -> list[str]:
    """Return the types of a part of a tokenizer and of those it is made of."""
    return [] if part is None else re.findall(r'"type":\s*"(\w+)"', part.__getstate__().decode())


# ---- pieces -----------------------------------------------------------------


@functools.cache
def _byte_of_character() -> Mapping[str, int]:
    """Return the byte that each character of a byte-level piece stands for.

    Bytes that print as Latin-1 characters stand for themselves, the others, in order, for the
    characters from 256 on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {chr(byte): byte for byte in plain}
    return table | {chr(256 + i): byte for i, byte in enumerate(others)}


def _text(piece: str, byte_level: bool) -> str:
    """Return the text that a piece writes."""
    if byte_level:
        table = _byte_of_character()
        if not all(character in table for character in piece):
            return piece  # added to the vocabulary as it is
        written = bytes(table[character] for character in piece)
    elif byte := _BYTE.fullmatch(piece):
        written = bytes([int(byte[1], 16)])
    else:
        return piece.replace("▁", " ")
    return written.decode("utf-8", "backslashreplace")
