"""From the tensors of an open checkpoint to its unembedding matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedfilter.checkpoints.encodings import BLOCKS, CODES, FLOATS
from embedfilter.checkpoints.head.names import Choice, NameTable, choose, packed_error
from embedfilter.checkpoints.head.scales import scaled_rows
from embedfilter.checkpoints.unembedding import Unembedding, head_shape
from embedfilter.errors import CheckpointError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from embedfilter.checkpoints.checkpoint import Checkpoint
    from embedfilter.checkpoints.config import ModelFacts

__all__ = ["open_head"]


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
        choice = choose(checkpoint, table, tensor, known)
        where, name = checkpoint.file_of(choice.name), choice.name
        reason = choice.reason
        _check_dtype(checkpoint, choice)
        # A tensor that the user names may be any matrix of the file.
        if facts is not None and tensor is None:
            facts.check(where, name, checkpoint.shape(name))
            reason += facts.remark(tied=choice.tied)
        shape = head_shape(where, name, checkpoint.shape(name))
        if choice.scale is None:
            rows = checkpoint.rows(name)
        else:
            block = facts.scale_block if facts is not None else None
            rows = scaled_rows(checkpoint, name, choice.scale, shape, block)
        dtype = checkpoint.dtype(name)
        checkpoint.close(keep=name)
    except BaseException:
        checkpoint.close()
        raise
    return Unembedding(
        rows,
        source=source,
        name=name,
        shape=shape,
        dtype=dtype,
        tied=choice.tied,
        reason=reason,
        facts=facts,
    )


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
