"""The head of a base model, for a model that was made of it and has lost its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from embedfilter.checkpoints.opening import open_unembedding, read_facts
from embedfilter.errors import warn_user

if TYPE_CHECKING:
    from embedfilter.checkpoints.unembedding import Unembedding

__all__ = ["check_vocabularies", "open_for"]

# Vocabularies are padded to multiples of 64 to 256 rows, and fine-tuning adds a few tokens.
_PADDING, _SOME_TOKENS = 64, 256
_MOST_APART = 0.05


def open_for(
    model: Any, base: Any, *, tensor: str | None = None, revision: str | None = None
) -> Unembedding:
    """Open the unembedding matrix for a model: its own, or that of the model it was made of.

    Parameters
    ----------
    model
        As for `open_unembedding`; with a base a path or an id, of which the config alone is read.
    base
        Where the head is, as for `open_unembedding`; None: in the model itself.
    tensor
        The tensor of the base, or else of the model, to take.
    revision
        Of a model on the Hub, without a base.

    Returns
    -------
    Unembedding
        With a base its `fitted_for` is the model.

    Raises
    ------
    CheckpointError
        As `open_unembedding`; or the model's config cannot be read.
    ValueError, TypeError
        The base's head does not suit the model, or arguments contradict each other.
    """
    if base is None:
        return open_unembedding(model, tensor=tensor, revision=revision)
    if revision is not None:
        raise ValueError(
            f"revision: expected None with a base, found {revision!r}: of which of the two it is"
            " is not said; for one of the base's, fit to the base alone"
        )
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(
            "source: expected a path or an id, as there is a base, found"
            f" {type(model).__name__}; or fit to the base alone"
        )
    name = os.fsdecode(model).encode("utf-8", "backslashreplace").decode()
    facts = read_facts(model)
    W = open_unembedding(base, tensor=tensor)
    try:
        if facts is not None and facts.hidden_sizes and W.shape[1] not in facts.hidden_sizes:
            sizes = " or ".join(map(str, facts.hidden_sizes))
            raise ValueError(
                f"base: expected a model of the hidden size {sizes}, as {name} has, found"
                f" {W.shape[1]} in {W.source}"
            )
        if facts is not None and facts.vocab_sizes:
            check_vocabularies(W.shape[0], W.source, facts.vocab_sizes, name)
    except BaseException:
        W.close()
        raise
    W.fitted_for = name
    return W


def check_vocabularies(n_rows: int, base: str, sizes: tuple[int, ...], name: str) -> None:
    """Tell when a vocabulary is not that of the model whose head is taken.

    Fine-tuning keeps the tokens, but may add some; and matrices are padded.

    Parameters
    ----------
    n_rows
        Rows of the head.
    base
        Whose it is.
    sizes
        Tokens, or rows, of the model that it is taken for; one that fits is enough.
    name
        That model.

    Raises
    ------
    ValueError
        If they differ by more than a twentieth.

    Warns
    -----
    UserWarning
        If they differ by more than padding.
    """
    size = min(sizes, key=lambda size: abs(size - n_rows))
    apart = abs(size - n_rows)
    found = f"{base} has {n_rows} tokens, {name} has {size}"
    if apart > max(_PADDING, _MOST_APART * max(size, n_rows)):
        raise ValueError(f"expected models of one vocabulary, found two: {found}")
    if apart > _SOME_TOKENS:
        warn_user(
            f"{found}, which is more than padding: make sure that the one was made of the other"
        )
