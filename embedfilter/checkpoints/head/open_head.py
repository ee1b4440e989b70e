"""From the tensors of an open checkpoint to its unembedding matrix."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from embedfilter.checkpoints.encodings import BLOCKS, CODES, FLOATS, decode
from embedfilter.checkpoints.head.architectures import has_layer_before_head
from embedfilter.checkpoints.head.choose import Choice, choose
from embedfilter.checkpoints.head.names import NameTable, names_head, plain_name
from embedfilter.checkpoints.head.packed import packed_error, says_head
from embedfilter.checkpoints.head.scales import scaled_rows
from embedfilter.checkpoints.head.transforms import (
    NormalisedRows,
    has_normalised_head,
    logit_notes,
)
from embedfilter.checkpoints.unembedding import Unembedding, head_shape
from embedfilter.errors import CheckpointError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedfilter.checkpoints.checkpoint import Checkpoint, StoredRows
    from embedfilter.checkpoints.config import ModelFacts

__all__ = ["open_head"]

# What follows the name of a head's module.
_STEM = re.compile(r"\.(weight(_v)?|parametrizations\.weight\.original1)$")


def open_head(
    checkpoint: Checkpoint,
    table: NameTable,
    *,
    source: str,
    tensor: str | None = None,
    facts: ModelFacts | None = None,
    known: Choice | None = None,
) -> Unembedding:
    """Return the unembedding matrix of a checkpoint.

    Parameters
    ----------
    checkpoint
        The open checkpoint; closed with the result.
    table
        The names to look for.
    source
        The source as it was given.
    tensor
        The name of the tensor to take.
    facts
        What else is known of the model.
    known
        What the source itself says that its head is.

    Returns
    -------
    Unembedding
        The open matrix; only the file that holds it stays open.
    """
    try:
        choice = choose(checkpoint, table, tensor, known, facts)
        where, name = checkpoint.file_of(choice.name), choice.name
        reason = choice.reason
        _check_dtype(checkpoint, choice)
        # A tensor that the user names may be any matrix of the file.
        if facts is not None and tensor is None:
            facts.check(where, name, checkpoint.shape(name))
            if not choice.doubts:
                reason += facts.remark(tied=choice.tied)
        shape = head_shape(where, name, checkpoint.shape(name))
        rows, notes = _rows(checkpoint, choice, shape, facts)
        if facts is not None and has_normalised_head(facts):
            if tensor is None or names_head(name):
                rows = NormalisedRows(rows)
                notes += ("rows were divided by their lengths, as the model does (NormHead)",)
            else:
                notes += ("the model divides its head's rows by their lengths; these are not it",)
        bias = _bias(checkpoint, table, choice, shape[0])
        # Looked up for a doubt alone, as it may cost a request.
        bases = facts.base_models() if facts is not None and choice.doubts else ()
        doubts = choice.doubts
        if bases:
            named = " or ".join(map(shown, bases))
            doubts = tuple(f"{doubt}; its files name as its base model {named}" for doubt in doubts)
        dtype = checkpoint.dtype(name)
        checkpoint.close(keep=name)
    except BaseException:
        checkpoint.close()
        raise
    W = Unembedding(
        rows,
        source=source,
        name=name,
        shape=shape,
        dtype=dtype,
        tied=choice.tied,
        reason=reason,
        facts=facts,
        doubts=doubts,
        notes=notes,
        bias=bias,
    )
    if facts is not None and has_layer_before_head(facts.model_type) and tensor is None:
        W.caution = _of_encoders(str(facts.model_type), name)
    return W


def _of_encoders(architecture: str, name: str) -> str:
    return (
        f"models of the architecture {architecture} are encoders, not language models: their"
        " hidden states pass another layer before this matrix, which does not say what they write;"
        " on their embeddings a filter has done no better than cutting coordinates at random;"
        f" embedfilter evaluate measures it, and tensor={name!r} says that it is meant"
    )


def _rows(
    checkpoint: Checkpoint, choice: Choice, shape: tuple[int, int], facts: ModelFacts | None
) -> tuple[StoredRows, tuple[str, ...]]:
    """Return the rows as the model multiplies with them, and what was, or need not be, applied."""
    rows: StoredRows
    notes: tuple[str, ...] = ()
    if choice.scale is None:
        rows = checkpoint.rows(choice.name)
    else:
        block = facts.scale_block if facts is not None else None
        rows = scaled_rows(checkpoint, choice.name, choice.scale, shape, block)
        notes = (f"codes were multiplied with the scales {shown(choice.scale)}",)
    if choice.gain is not None:
        lengths = _vector(checkpoint, choice.gain, shape[0])
        rows = NormalisedRows(rows, lengths)
        notes += (f"rows were given the lengths in {shown(choice.gain)} (weight norm)",)
    return rows, notes + (() if facts is None else logit_notes(facts))


def _vector(checkpoint: Checkpoint, name: str, n: int) -> NDArray[np.float32]:
    """Return a tensor of n floats as (n,) float32."""
    shape, dtype = checkpoint.shape(name), checkpoint.dtype(name)
    if dtype not in FLOATS or math.prod(shape) != n or max(shape, default=0) != n:
        raise CheckpointError(
            f"{checkpoint.file_of(name)}: tensor {shown(name)}: expected {n} floats, found {dtype}"
            f" of shape {shown(shape)}"
        )
    numbers = decode(dtype, checkpoint.read(name)[None])
    return np.asarray(numbers, np.float32).reshape(n)


def _bias(
    checkpoint: Checkpoint, table: NameTable, choice: Choice, n_tokens: int
) -> NDArray[np.float32] | None:
    """Return what the model adds to the logits: beside its head, or where a tied one would be."""
    heads = [choice.name]
    if choice.tied:
        heads = [*table.heads, *table.heads_beside_embedding]
    owners = [plain_name(_STEM.sub("", name)) for name in heads]
    # Beside the head first: where both are stored, the one around it is a copy, or not in use.
    around = [owner.rpartition(".")[0] for owner in owners if "." in owner]
    known = [*(f"{owner}.bias" for owner in (*owners, *around)), "final_logits_bias"]
    by_name = {plain_name(name): name for name in checkpoint.names if name.endswith("bias")}
    if choice.tied:
        known += [name for name in by_name if name.endswith(".bias") and says_head(name)]
    for name in (by_name[plain] for plain in known if plain in by_name):
        shape = checkpoint.shape(name)
        if max(shape, default=0) == math.prod(shape) == n_tokens:
            bias = _vector(checkpoint, name, n_tokens)
            return bias if bias.any() else None
    return None


def _check_dtype(checkpoint: Checkpoint, choice: Choice) -> None:
    dtype = checkpoint.dtype(choice.name)
    where = checkpoint.file_of(choice.name)
    if choice.scale is not None:
        if dtype not in CODES:
            raise packed_error(where, choice.name, [choice.scale])
        return
    if dtype in FLOATS or dtype in BLOCKS:
        return
    shape = shown(checkpoint.shape(choice.name))
    raise CheckpointError(
        f"{where}: tensor {shown(choice.name)} of shape {shape}: expected one of "
        f"{', '.join(FLOATS)}, {', '.join(CODES)} with scales, or a block type of GGUF, "
        f"found {dtype}, {_not_read(dtype)}"
    )


def _not_read(dtype: str) -> str:
    if dtype.startswith(("F8", "F6", "F4")):
        return "which is not supported: its numbers mean nothing without their scales"
    if dtype.startswith(("U", "I", "BOOL")):
        return "the codes of a quantised matrix, which are not supported"
    return "which is not supported"
