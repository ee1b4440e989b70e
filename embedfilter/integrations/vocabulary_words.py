"""A sample without texts: words of a model's own vocabulary, one by one.

Their embeddings are a sample that a filter can be calibrated on. docs/calibration.md has what it is
worth, and what else was tried.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Any

import numpy as np

from embedfilter.arrays.vocabulary_sample import VocabularySample
from embedfilter.lens.vocabulary import open_vocabulary

__all__ = ["N_WORDS", "embedded_words", "vocabulary_words"]

N_WORDS = 400
"""How many are embedded if nothing else is asked for."""


_LEAST_LETTERS = 4  # shorter ones are mostly parts of words, and what every text has
_LEAST_CHARACTERS = 2  # in scripts without capitals, where a character says more
# Scripts that put no space before a word.
_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
_CHUNK = 64  # words between two steps of the progress bar
_LEAST_WORDS = 2


def embedded_words(
    model: Any, n: int, *, of: str, template: str, batch_size: int, progress: bool
) -> VocabularySample:
    """Return embeddings (n, d) float32 of words of a model's vocabulary.

    Parameters
    ----------
    model : SentenceTransformer
        Without a filter, made for a template.
    n : int
        How many words; fewer where the vocabulary has too few.
    of, template : str
        What the model and its template are called in the description.
    batch_size : int
    progress : bool
        Show a progress bar on standard error.

    Raises
    ------
    ValueError
        If the vocabulary has no two words.
    """
    from tqdm import tqdm  # noqa: PLC0415 - light import

    words = vocabulary_words(model.tokenizer)[:n]
    if len(words) < _LEAST_WORDS:
        raise ValueError(
            f"{of}: expected at least {_LEAST_WORDS} words among the vocabulary's tokens, found"
            f" {len(words)}: calibrate on embeddings of texts"
        )
    rows = []
    with tqdm(total=len(words), desc="vocabulary", unit=" words", disable=not progress) as bar:
        for first in range(0, len(words), _CHUNK):
            chunk = words[first : first + _CHUNK]
            rows.append(model.encode(chunk, batch_size=batch_size, show_progress_bar=False))
            bar.update(len(chunk))
    description = f"{len(words)} words of the vocabulary of {of}, template {template}"
    return VocabularySample.of(np.concatenate(rows).astype(np.float32, copy=False), description)


def vocabulary_words(tokenizer: Any) -> list[str]:
    """Return the whole words among a tokenizer's tokens: letters alone, in lower case.

    A word begins where the token has a space before it ("▁" of SentencePiece, "Ġ" of byte-level
    vocabularies), or no "##" in a vocabulary that marks what goes on instead (WordPiece). Of
    scripts that write no spaces, any two or more characters are taken. Special, added and unused
    tokens and single bytes are none. Words are of one script: that of most of them.

    Parameters
    ----------
    tokenizer
        Of transformers, or a ``tokenizers.Tokenizer``.

    Returns
    -------
    list of str
        Each once, in an order that is as good as random and the same everywhere, whatever the
        order of the tokens.

    Raises
    ------
    TypeError
        For another kind of tokenizer.
    """
    vocabulary = open_vocabulary(tokenizer)
    added = _added(tokenizer)
    texts = [vocabulary.text(i) for i in range(len(vocabulary)) if i not in added]
    marks_inside = not any(text.startswith(" ") for text in texts)  # with "##", as WordPiece does
    of_script: dict[str, set[str]] = {}
    for text in texts:
        word = text.removeprefix(" ")
        if _is_word(word, begins=marks_inside or text != word):
            of_script.setdefault(_script(word), set()).add(word)
    most = max(of_script.values(), key=lambda words: (len(words), max(words)), default=set())
    return sorted(most, key=_digest)


def _is_word(word: str, *, begins: bool) -> bool:
    # Marks, such as the vowel signs of Devanagari, belong to letters.
    kinds = [unicodedata.category(character)[0] for character in word]
    if len(word) < _LEAST_CHARACTERS or kinds[0] != "L" or not {*kinds} <= {"L", "M"}:
        return False
    if word.lower() != word.upper():
        return begins and word == word.lower() and len(word) >= _LEAST_LETTERS
    return begins or _script(word) in _WITHOUT_SPACES


def _script(word: str) -> str:
    """Return the script of a word's first letter, as its Unicode name begins."""
    return unicodedata.name(word[0], "").partition(" ")[0]


def _added(tokenizer: Any) -> set[int]:
    """Return the ids of tokens that stand beside the vocabulary: special ones, for instance."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    return set(backend.get_added_tokens_decoder())


def _digest(word: str) -> bytes:
    """Return a word's place in an order that is as good as random, and the same everywhere."""
    return hashlib.blake2b(word.encode(), digest_size=8).digest()
