"""Meta's layout of weights: ``consolidated.00.pth``, ``consolidated.01.pth``, and ``params.json``.

A model is cut for as many GPUs as it has parts, and each part has a piece of every matrix under
the same name. The rows of the output head, one for a token, follow one another (fairscale's
ColumnParallelLinear); of the input embedding the columns do in Llama 1 and 2, the rows in later
ones. What is put together is compared with ``params.json``, as a part looks like a whole.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from embedfilter.checkpoints.config import read_config, read_params
from embedfilter.checkpoints.formats.joined import JoinedParts
from embedfilter.checkpoints.formats.torch_file import TorchFile
from embedfilter.errors import CheckpointError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedfilter.checkpoints.checkpoint import Checkpoint
    from embedfilter.checkpoints.config import ModelFacts
    from embedfilter.files.folder import Folder
    from embedfilter.files.input_file import InputFile

__all__ = ["CONSOLIDATED", "open_consolidated"]

CONSOLIDATED = re.compile(r"consolidated\.(\d{1,4})\.(?:pth|pt)", re.ASCII | re.IGNORECASE)
"""Names of the parts, the number in group 1."""

_HEAD, _EMBEDDING = "output.weight", "tok_embeddings.weight"
_QUERIES = "layers.0.attention.wq.weight"


def open_consolidated(
    folder: Folder, file: InputFile, tensor: str | None, facts: ModelFacts | None
) -> tuple[Checkpoint, ModelFacts | None]:
    """Open a part of a model in Meta's layout, and the others beside it.

    Parameters
    ----------
    folder
        The folder that holds it.
    file
        The part, open; closed with the result.
    tensor
        The name of the tensor to take.
    facts
        What is known of the model.

    Returns
    -------
    Checkpoint
        The whole.
    ModelFacts or None
        What is known of it, from ``params.json`` where nothing was.
    """
    parts: list[Checkpoint] = [TorchFile(file)]
    try:
        facts = facts or read_config(folder) or read_params(folder)
        names = {int(match[1]): name for name in folder.names() if (match := _match(name))}
        given = _match(file.path.name)
        number = int(given[1]) if given else 0
        missing = [n for n in range(max(names, default=0) + 1) if n not in names]
        if missing:
            raise CheckpointError(
                f"{file.path}: a part of a model in Meta's layout: expected all of 0 to "
                f"{max(names)} beside it, found none with the number "
                f"{', '.join(map(str, missing[:5]))}; give the folder with all parts"
            )
        for other in sorted(names):
            if other != number:
                parts.insert(other, TorchFile(folder.open(names[other])))
        if tensor is not None and len(parts) == 1:
            return parts[0], facts  # the user knows what it is
        if not {_HEAD, _EMBEDDING} & set(parts[0].names):
            if len(parts) == 1:
                return parts[0], facts
            raise CheckpointError(
                f"{file.path}: one of {len(parts)} parts: expected {_HEAD} or {_EMBEDDING}, by "
                "which Meta's layout is known, found neither; give the whole model in one file"
            )
        axes = _axes(parts, facts)
        if tensor in parts[0].names and tensor not in (_HEAD, _EMBEDDING):
            raise CheckpointError(
                f"{file.path}: tensor {shown(tensor)}: one of {len(parts)} parts, cut in a way "
                "that is not known; give the whole model in one file"
            )
    except BaseException:
        for part in parts:
            part.close()
        raise
    return (JoinedParts(parts, axes) if len(parts) > 1 else parts[0]), facts


def _match(name: str) -> re.Match[str] | None:
    return CONSOLIDATED.fullmatch(name)


def _axes(parts: Sequence[Checkpoint], facts: ModelFacts | None) -> dict[str, int]:
    """Return along which axis the matrices are cut, after checking that all parts are there."""
    first, n = parts[0], len(parts)
    where = first.where
    shapes = {name: first.shape(name) for name in (_HEAD, _EMBEDDING) if name in first.names}
    for part in parts:
        for name, shape in shapes.items():
            found = part.shape(name) if name in part.names else None
            if found != shape or part.dtype(name) != first.dtype(name) or len(shape) != 2:
                raise CheckpointError(
                    f"{part.where}: tensor {shown(name)}: expected a part of shape {shape} and "
                    f"{first.dtype(name)}, as in {where}, found {found or 'none'}"
                )
    if facts is None or not facts.hidden_sizes:
        raise CheckpointError(
            f"{where}: a file in Meta's layout, perhaps a part of several: expected params.json "
            "with dim beside it, by which a part is told from a whole, found none; give the "
            "folder with params.json and all parts, or tensor= where the file is whole"
        )
    wanted = _n_parts(first, facts)
    if wanted not in (None, n):
        raise _incomplete(where, n, f"{wanted} parts by {facts.where}")
    head, embedding = shapes.get(_HEAD), shapes.get(_EMBEDDING)
    axes: dict[str, int] = {}
    rows = 0
    certain = wanted is not None
    if head is not None:
        _check_width(where, _HEAD, head, facts)
        rows, axes[_HEAD] = n * head[0], 0
    if embedding is not None:
        axis, certain_by_it = _cut(where, embedding, n, rows, facts)
        certain = certain or certain_by_it
        if axis is not None:
            axes[_EMBEDDING] = axis
        total = embedding[0] * (n if axis == 0 else 1)
        if rows not in (0, total):
            raise _incomplete(where, n, f"{total} rows of {_HEAD}, as of {_EMBEDDING}", rows)
        rows = total
    if facts.vocab_sizes and rows < min(facts.vocab_sizes):
        raise _incomplete(where, n, f"{min(facts.vocab_sizes)} tokens by {facts.where}", rows)
    if not (certain or facts.vocab_sizes):
        raise CheckpointError(
            f"{where}: a file in Meta's layout, perhaps a part of several: nothing tells whether "
            f"all parts are there: expected a vocab_size > 0 in {facts.where}; set it, or give "
            "another format of the model"
        )
    return axes


def _n_parts(first: Checkpoint, facts: ModelFacts) -> int | None:
    """Return how many parts there are by a layer's size, None where it does not tell."""
    if _QUERIES not in first.names:
        return None
    heads, head_dim = facts.settings.get("n_heads"), facts.settings.get("head_dim")
    whole = facts.hidden_sizes[0]
    if type(heads) is int and type(head_dim) is int:
        whole = heads * head_dim
    rows = first.shape(_QUERIES)[0]
    return whole // rows if rows and whole % rows == 0 else None


def _cut(
    where: str, shape: tuple[int, ...], n: int, head_rows: int, facts: ModelFacts
) -> tuple[int | None, bool]:
    """Return along which axis the input embedding is cut, and whether that tells how often."""
    rows, columns = shape
    width = facts.hidden_sizes[0]
    if columns in facts.hidden_sizes:
        if n == 1:
            # Llama 1 and 2, which state no vocabulary, cut the columns where they cut.
            return None, True
        return (None if rows == head_rows else 0), False
    if columns and width % columns == 0:
        if width // columns != n:
            raise _incomplete(where, n, f"{width // columns} parts, of {columns} columns each")
        return 1, True
    raise CheckpointError(
        f"{where}: tensor {shown(_EMBEDDING)} of shape {shape}: expected {width} columns, the "
        f"hidden size in {facts.where}, or an n-th of them"
    )


def _check_width(where: str, name: str, shape: tuple[int, ...], facts: ModelFacts) -> None:
    if shape[1] not in facts.hidden_sizes:
        raise CheckpointError(
            f"{where}: tensor {shown(name)} of shape {shape}: expected {facts.hidden_sizes[0]} "
            f"columns, the hidden size in {facts.where}; it is cut in a way that is not known: "
            "give another format of the model"
        )


def _incomplete(where: str, n: int, wanted: str, rows: int | None = None) -> CheckpointError:
    found = f"{n} {'part' if n == 1 else 'parts'}" + (f" with {rows}" if rows is not None else "")
    return CheckpointError(
        f"{where}: a part of a model in Meta's layout: expected {wanted}, found {found}; give "
        "the folder with all parts, consolidated.00.pth and so on, and params.json"
    )
