"""Which tensor of a checkpoint is the unembedding matrix.

An output head where there is one. The input embedding serves as the head (tied) where something
says so: the config, or the architecture. Where nothing does, or the config says that it is not
tied, it is taken with a doubt, which whoever fits a filter is warned of: models saved for embedding
texts lack their head. A head that is there in a form that is not decoded, and a second matrix of
the vocabulary's height of which no name says what it is, are refused.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from embedfilter.checkpoints.head.architectures import gguf_tied, tied_by_default
from embedfilter.checkpoints.head.names import (
    GGUF_NAMES,
    NameTable,
    Outline,
    is_numbered,
    names_head,
    plain_name,
)
from embedfilter.checkpoints.head.packed import (
    head_parts,
    is_height,
    packed_error,
    says_head,
    says_other,
    says_some_head,
    says_state,
)
from embedfilter.errors import CheckpointError, HeadError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedfilter.checkpoints.checkpoint import TensorList
    from embedfilter.checkpoints.config import ModelFacts

__all__ = ["Choice", "choose", "choose_embedding", "is_tied", "same_matrix"]

# What can be applied, where nothing else lies beside the weight.
_SCALES = frozenset({"weight_scale", "weight_scale_inv", "SCB", "_scale"})
_WEIGHT_NORM = (
    ("weight_v", "weight_g"),
    ("parametrizations.weight.original1", "parametrizations.weight.original0"),
)
_MOST_LISTED = 10
_T5 = frozenset({"t5", "mt5", "umt5"})
_COMPARED_ROWS = 1024


@dataclass(frozen=True)
class Choice:
    """The chosen tensor.

    Attributes
    ----------
    name : str
        Its name.
    tied : bool
        True when it is the input embedding and no separate head exists.
    reason : str
        Why it was chosen.
    scale : str or None
        The tensor of scales that its codes are to be multiplied with.
    gain : str or None
        The tensor of the rows' lengths, where its own rows are directions only (weight norm).
    doubts : tuple of str
        Why it may not be the unembedding matrix, and what to pass.
    """

    name: str
    tied: bool
    reason: str
    scale: str | None = None
    gain: str | None = None
    doubts: tuple[str, ...] = ()


def choose(
    tensors: TensorList,
    table: NameTable,
    tensor: str | None = None,
    known: Choice | None = None,
    facts: ModelFacts | None = None,
) -> Choice:
    """Choose the unembedding matrix.

    Parameters
    ----------
    tensors
        The tensors that exist.
    table
        The names to look for.
    tensor
        A tensor's exact name, which overrides the choice.
    known
        What the source itself says, which is then only checked for scales and adapters.
    facts
        What else is known of the model.

    Returns
    -------
    Choice
        The tensor's name, and why.

    Raises
    ------
    HeadError
        If there is none, several that differ, or one that is not decoded.
    """
    outline = Outline.of(tensors.names)
    embeddings = _find_embeddings(outline, table)
    heads = outline.find(table.heads)
    if not heads and embeddings:
        heads = _find_short_heads(tensors, outline, table, embeddings)
    far_heads = [] if heads else outline.find_endings(table.heads, table.endings)
    other = says_state if embeddings else says_other
    far_heads = [name for name in far_heads if not other(plain_name(name))]
    if tensor is not None:
        tied = tensor in embeddings and not heads and not far_heads
        choice = _named(tensors, tensor, tied=tied)
    elif known is not None:
        choice = known
    elif heads:
        name = _only_one(tensors, heads)
        choice = Choice(name, tied=False, reason=f"{shown(name)} is the output head")
    elif far_heads:
        # Beside an embedding at a known place, a head at an unknown one may belong to another
        # part: a draft model, a second tower.
        near = [name for group in table.embeddings for name in outline.find(group)]
        apart = near or _of_other_parts(outline, table, far_heads)
        if apart:
            raise _ambiguous(tensors, far_heads + apart)
        name = _only_one(tensors, far_heads)
        choice = Choice(name, tied=False, reason=f"{shown(name)} is the output head, by its ending")
    else:
        choice = _without_known_head(tensors, outline, table, embeddings, facts)
    return _with_companions(tensors, outline, choice)


# ---- a head of a known name -------------------------------------------------------------------


def _find_embeddings(outline: Outline, table: NameTable) -> list[str]:
    for group in table.embeddings:
        found = outline.find(group)
        if found:
            return found
    every = [name for group in table.embeddings for name in group]
    found = outline.find_endings(every, table.endings)
    return [name for name in found if not says_state(plain_name(name))]


def _find_short_heads(
    tensors: TensorList, outline: Outline, table: NameTable, embeddings: Sequence[str]
) -> list[str]:
    """Find heads with short names, which have the shape of the input embedding."""
    heads = outline.find(table.heads_beside_embedding)
    if not heads:
        return []
    shapes = {tensors.shape(name) for name in embeddings}
    return [name for name in heads if tensors.shape(name) in shapes]


def _of_other_parts(outline: Outline, table: NameTable, heads: Sequence[str]) -> list[str]:
    """Return the input embeddings that are in another part of the model than the heads."""
    every = [name for group in table.embeddings for name in group]
    endings = sorted(table.heads, key=len, reverse=True)
    plain = map(plain_name, heads)
    prefixes = tuple(
        head.removesuffix(next(e for e in endings if head.endswith(e))) for head in plain
    )
    return [
        name
        for name in outline.find_endings(every, table.endings)
        if not plain_name(name).startswith(prefixes)
        and not says_other(plain_name(name))
        and "encoder" not in name.split(".")
    ]


def _named(tensors: TensorList, tensor: str, *, tied: bool) -> Choice:
    if tensor in tensors.names:
        return Choice(tensor, tied=tied, reason="named by tensor=")
    # Names inside numbered layers are many and rarely meant.
    outer = [name for name in tensors.names if not is_numbered(name)]
    near = difflib.get_close_matches(tensor, outer[:1000], n=5, cutoff=0.4) or outer[:5]
    hint = f"; names near it: {', '.join(shown(name) for name in near)}" if near else ""
    raise CheckpointError(f"{tensors.where}: has no tensor {shown(tensor)}{hint}")


def _only_one(tensors: TensorList, names: Sequence[str]) -> str:
    first = names[0]
    for other in names[1:]:
        if not same_matrix(tensors, first, other):
            raise _ambiguous(tensors, names)
    return first


def same_matrix(tensors: TensorList, first: str, second: str) -> bool:
    """Return whether two tensors are the same matrix, stored twice."""
    shape = tensors.shape(first)
    if len(shape) != 2 or shape != tensors.shape(second):
        return False
    if tensors.dtype(first) != tensors.dtype(second):
        return False
    rows, other = tensors.rows(first), tensors.rows(second)
    starts = range(0, shape[0], _COMPARED_ROWS)
    return all(
        np.array_equal(rows.read(start, stop), other.read(start, stop))
        for start, stop in ((start, min(start + _COMPARED_ROWS, shape[0])) for start in starts)
    )


# ---- no head of a known name ------------------------------------------------------------------


def _without_known_head(
    tensors: TensorList,
    outline: Outline,
    table: NameTable,
    embeddings: Sequence[str],
    facts: ModelFacts | None,
) -> Choice:
    """Choose a head by what its name says, or the input embedding; refuse what is neither."""
    unpacked = _of_weight_norm(outline, (*table.heads, *table.heads_beside_embedding))
    if unpacked is not None:
        return unpacked
    _refuse_packed_head(tensors, outline, table, embeddings)
    if outline.adapters:
        raise _none_found(tensors, outline)
    embedding = _only_one(tensors, embeddings) if embeddings else None
    if embedding is not None and len(tensors.shape(embedding)) != 2:
        # It will be refused for its shape.
        return choose_embedding(embedding, len(tensors.names), table, facts)
    others = _unnumbered(outline, table)
    n_tokens = _n_tokens(tensors, embedding, others, facts)
    if n_tokens is None:
        raise _none_found(tensors, outline)
    tall = [name for name in others if _is_tall(tensors, name, n_tokens)]
    named = [name for name in tall if names_head(name)]
    parts = [name for name in others if says_some_head(plain_name(name)) and name not in named]
    width = None if embedding is None else tensors.shape(embedding)[1]
    parts = head_parts(tensors, parts, n_tokens, width)
    if parts:
        raise packed_error(tensors.where, parts[0], parts)
    # A classifier has a head, too, but no vocabulary.
    known_height = embedding is not None or bool(facts and facts.vocab_sizes)
    known_height |= any("emb" in plain_name(name) for name in tall if name not in named)
    beside = [] if embedding is None else [embedding]
    if named and known_height and _of_one_width(tensors, [*named, *beside]):
        name = _only_one(tensors, named)
        return Choice(name, tied=False, reason=f"{shown(name)} is the output head, by its name")
    if embedding is None:
        raise _none_found(tensors, outline)
    tied, _ = _tying(table, facts)
    rivals = [name for name in tall if _is_rival(tensors, name, embedding, tied)]
    if rivals:
        raise _ambiguous(tensors, [embedding, *rivals])
    return choose_embedding(embedding, len(tensors.names), table, facts)


def choose_embedding(
    name: str, n_tensors: int, table: NameTable, facts: ModelFacts | None
) -> Choice:
    """Return the choice of the input embedding, with a doubt unless something says it is tied."""
    tied, why = _tying(table, facts)
    if tied:
        reason = f"no output head among {n_tensors} tensors, and {why}: "
        reason += f"the input embedding {shown(name)} serves (tied)"
        return Choice(name, tied=True, reason=reason)
    reason = (
        f"no output head among {n_tensors} tensors: the input embedding {shown(name)} was taken"
    )
    return Choice(name, tied=True, reason=reason, doubts=(_doubt(name, tied, why),))


def _doubt(embedding: str, tied: bool | None, why: str) -> str:
    if tied is None:
        return (
            f"no output head is stored, and {why}: the input embedding {shown(embedding)} was "
            f"taken, which may not be the unembedding matrix; pass tensor={embedding!r} if it is, "
            "or the model that it was made of, which has the head, as base=MODEL (--base MODEL)"
        )
    return (
        f"{why}, yet no output head is stored, as in a model saved for embedding texts: the input "
        f"embedding {shown(embedding)} was taken, which is probably not the unembedding matrix; "
        "give the model that it was made of, which has the head, as base=MODEL (--base MODEL), or "
        f"pass tensor={embedding!r} if it is right"
    )


def _is_untied_t5(facts: ModelFacts) -> bool:
    """Tell whether a T5 is of the later kind, which transformers 5 writes down as tied.

    Its config keeps the flag that was read as ``scale_decoder_outputs``.
    """
    gated = str(facts.settings.get("feed_forward_proj", "")).startswith("gated")
    return gated or facts.settings.get("scale_decoder_outputs") is False


def is_tied(facts: ModelFacts) -> bool | None:
    """Tell whether a model of transformers ties its head, None where nothing tells."""
    if facts.model_type in _T5 and _is_untied_t5(facts):
        return False
    if facts.tied is not None or facts.model_type is None:
        return facts.tied
    tied = tied_by_default(facts.model_type)
    # Of a model of several parts the language model's may be known.
    return tied_by_default(str(facts.settings.get("model_type"))) if tied is None else tied


def _tying(table: NameTable, facts: ModelFacts | None) -> tuple[bool | None, str]:
    """Return whether the head is tied, None where nothing tells, and what says so."""
    if facts is None:
        return None, "there is no config.json to say that it is tied"
    if table is GGUF_NAMES:
        return _gguf_tying(facts)
    if facts.model_type in _T5 and _is_untied_t5(facts):
        return False, f"{facts.where} is that of T5 1.1, whose head is a matrix of its own"
    if facts.tied is not None:
        return facts.tied, f"{facts.where} says {facts.tied_by}"
    kind, tied = facts.model_type, is_tied(facts)
    if tied is None:
        return None, f"{facts.where} does not say that it is tied (model_type {shown(kind)})"
    how = "shares" if tied else "does not share"
    return tied, f"{kind} {how} it with the input embedding unless its config says otherwise"


def _gguf_tying(facts: ModelFacts) -> tuple[bool | None, str]:
    kind = facts.model_type
    pooled = any(key.endswith(".pooling_type") for key in facts.settings)
    pooled |= "embed" in str(facts.settings.get("general.name", "")).lower()
    tied = None if kind is None else gguf_tied(kind, pooled=pooled)
    if tied is None:
        return None, f"the architecture {shown(kind)} does not say that it is tied"
    if pooled and not tied:
        return False, f"the metadata say that this is an embedding model ({kind})"
    how = "share" if tied else "do not share"
    return tied, f"models of the architecture {kind} {how} it with the input embedding"


def _unnumbered(outline: Outline, table: NameTable) -> list[str]:
    """Return the tensors that may be a head: of no layer, tower, classifier, nor an embedding."""
    embeddings = {name for group in table.embeddings for name in group}
    ends = tuple(f".{name}" for name in embeddings & table.endings)
    groups = [*outline.weights.items(), *outline.packed.items()]
    return [
        full_name
        for name, full_names in groups
        if not says_other(name) and (says_some_head(name) or not is_numbered(name))
        if not (name in embeddings or name.endswith(ends))
        for full_name in full_names
    ]


def _n_tokens(
    tensors: TensorList, embedding: str | None, others: Sequence[str], facts: ModelFacts | None
) -> int | None:
    """Return the rows of the vocabulary, as far as something tells."""
    if embedding is not None:
        return tensors.shape(embedding)[0]
    if facts is not None and facts.vocab_sizes:
        return min(facts.vocab_sizes)
    heights = [
        tensors.shape(name)[0]
        for name in others
        if says_head(plain_name(name)) and len(tensors.shape(name)) == 2
    ]
    return max(heights, default=None)


def _is_tall(tensors: TensorList, name: str, n_tokens: int) -> bool:
    shape = tensors.shape(name)
    return len(shape) == 2 and is_height(shape[0], n_tokens) and shape[1] > 1


def _of_one_width(tensors: TensorList, names: Sequence[str]) -> bool:
    return len({tensors.shape(name)[1] for name in names}) == 1


def _is_rival(tensors: TensorList, name: str, embedding: str, tied: bool | None) -> bool:
    """Tell whether a tall matrix may be the head as well as the input embedding may."""
    if same_matrix(tensors, name, embedding):
        return False
    if name.startswith(embedding.removesuffix("weight")):
        return False  # of the embedding's own module, such as its codes
    plain = plain_name(name)
    other_width = tensors.shape(name)[1] != tensors.shape(embedding)[1]
    # Tables for each layer and the like, of a model that is known to be tied.
    return not (tied and other_width and "emb" in plain and not says_head(plain))


# ---- packed forms ------------------------------------------------------------------------------


def _of_weight_norm(outline: Outline, wanted: Sequence[str]) -> Choice | None:
    """Return a head that is stored as directions and lengths of its rows."""
    for name in wanted:
        companions = outline.packed.get(name, [])
        for direction, length in _WEIGHT_NORM:
            found = {c: c.removesuffix(f".{direction}") for c in companions}
            matrix = next((c for c, owner in found.items() if owner != c), None)
            gain = None if matrix is None else f"{found[matrix]}.{length}"
            if matrix is not None and gain in companions and len(companions) == 2:
                reason = f"{shown(matrix)} is the output head, its rows' lengths in {shown(gain)}"
                return Choice(matrix, tied=False, reason=reason, gain=gain)
    return None


def _with_companions(tensors: TensorList, outline: Outline, choice: Choice) -> Choice:
    """Return the choice with its scales; refuse what else changes the meaning of the tensor."""
    if choice.gain is not None:
        return choice
    plain = plain_name(choice.name)
    if plain in outline.adapters:
        raise CheckpointError(
            f"{tensors.where}: tensor {shown(choice.name)} has a LoRA adapter "
            f"({shown(outline.adapters[plain][0])}); merge the adapter into the model first"
        )
    companions = outline.packed.get(plain, [])
    if not companions:
        return _with_unknown_siblings(tensors, choice)
    if len(companions) == 1 and companions[0].rpartition(".")[2] in _SCALES:
        return replace(choice, scale=companions[0])
    raise packed_error(tensors.where, choice.name, companions)


def _with_unknown_siblings(tensors: TensorList, choice: Choice) -> Choice:
    """Return the choice with a doubt if something beside it may change what it means."""
    owner = choice.name.removesuffix("weight")
    if owner == choice.name:
        return choice
    beside = [
        name
        for name in tensors.names
        if name.startswith(owner) and name not in (choice.name, f"{owner}bias")
        if "." not in name.removeprefix(owner) and max(tensors.shape(name), default=1) > 1
    ]
    if not beside:
        return choice
    listed = ", ".join(map(shown, beside[:_MOST_LISTED]))
    doubt = (
        f"beside {shown(choice.name)} lies {listed}, which the model may multiply it with, and "
        "which was not applied; pass the matrix as an array if it does, or tensor= if it does not"
    )
    return replace(choice, doubts=(*choice.doubts, doubt))


def _refuse_packed_head(
    tensors: TensorList, outline: Outline, table: NameTable, embeddings: Sequence[str]
) -> None:
    """Raise when the tensor that would be chosen is there in packed form only."""
    wanted = [*table.heads, *table.heads_beside_embedding]
    if not embeddings:
        wanted += [name for group in table.embeddings for name in group]
    endings = tuple(f".{name}" for name in wanted if name in table.endings)
    for name, companions in outline.packed.items():
        if name in wanted or name.endswith(endings):
            raise packed_error(tensors.where, name, companions)


# ---- refusals ----------------------------------------------------------------------------------


def _ambiguous(tensors: TensorList, names: Sequence[str]) -> HeadError:
    listed = ", ".join(
        f"{shown(name)} {shown(tensors.shape(name))}" for name in names[:_MOST_LISTED]
    )
    return HeadError(
        f"{tensors.where}: expected one unembedding matrix, found {len(names)} that differ: "
        f"{listed}; pass tensor= with the name of the right one"
    )


def _none_found(tensors: TensorList, outline: Outline) -> HeadError:
    if outline.adapters:
        return HeadError(
            f"{tensors.where}: a LoRA adapter without the output head of its base model; "
            "merge the adapter into the model first"
        )
    matrices: list[str] = []
    for name in tensors.names:
        try:
            shape = tensors.shape(name)
        except CheckpointError:  # a shard that is not there; the others are listed
            continue
        if len(shape) == 2:
            matrices.append(f"{shown(name)} {shape}")
        if len(matrices) == _MOST_LISTED:
            matrices.append("...")
            break
    listed = ", ".join(matrices) if matrices else "none"
    return HeadError(
        f"{tensors.where}: expected an output head (such as lm_head.weight) or an input embedding "
        f"among {len(tensors.names)} tensors, found neither; two-dimensional tensors: {listed}; "
        "pass tensor= to name one"
    )
