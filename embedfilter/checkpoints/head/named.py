"""Whether names speak of an output head, to know before all headers are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedfilter.checkpoints.head.names import MODEL_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["names_a_head"]

_WEIGHT = ".weight"
# A short name after more segments than wrappers add is that of something else.
_MOST_BEFORE = 2


def names_a_head(names: Iterable[str]) -> bool:
    """Return whether an output head, plain or packed, is among the names of tensors.

    Parameters
    ----------
    names
        Names of tensors in the style of transformers or of a model's authors.

    Returns
    -------
    bool
        Less strict than the choice itself, which needs shapes.
    """
    return any(
        _is_head(name)
        for name in names
        # Numbered places are copies inside a model.
        if not any(part.isdigit() for part in name.split("."))
    )


def _is_head(name: str) -> bool:
    dotted = f".{name}"
    for head in MODEL_NAMES.heads:
        stem = f".{head.removesuffix(_WEIGHT)}."
        _, found, rest = dotted.partition(stem)
        # Of a packed head something else than `weight` is there, or something below it.
        if found and (rest.startswith("weight") or (rest != "bias" and "." not in rest)):
            return True
    return any(
        dotted.endswith(f".{head}") and name.count(".") <= head.count(".") + _MOST_BEFORE
        for head in MODEL_NAMES.heads_beside_embedding
    )
