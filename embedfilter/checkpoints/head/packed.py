"""Heads that are there in a form that is not decoded: packed by a tool, or adapted, or factored.

Which tool packed a weight is told by the tensors that lie beside it. A tool that is not in the
table is noticed all the same: what lies under a head's name, and is not a vector or a small matrix
of floats, is part of the head.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from embedfilter.checkpoints.encodings import FLOATS
from embedfilter.errors import HeadError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from embedfilter.checkpoints.checkpoint import TensorList

__all__ = [
    "LORA",
    "MARKS",
    "head_parts",
    "packed_error",
    "says_head",
    "says_other",
    "says_some_head",
    "says_state",
]

LORA = frozenset({"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_a", "lora_b"})
"""Segments of the names of adapters' tensors."""

MARKS = {
    "g_idx": "GPTQ",
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "trellis": "EXL3",
    "suh": "EXL3",
    "svh": "EXL3",
    "q_weight": "EXL2",
    "q_invperm": "EXL2",
    "q_groups": "EXL2",
    "q_scale": "EXL2",
    "W_q": "HQQ",
    "_weight_qdata": "torchao",
    "qdata": "torchao",
    "_data": "quanto",
    "codebooks": "AQLM",
    "codes": "AQLM",
    "Qidxs": "QuIP#",
    "centroids": "VPTQ",
    "indices": "VPTQ",
    "absmax": "bitsandbytes",
    "nested_absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "quant_state": "bitsandbytes",
    "SCB": "bitsandbytes",
    "weight_packed": "compressed-tensors",
    "weight_zero_point": "compressed-tensors",
    "weight_scale_2": "NVFP4",
    "weight_scale_inv": "codes with scales",
    "weight_scale": "codes with scales",
    "biases": "MLX",
    "scales": "scales beside packed codes",
    "weight_g": "weight norm",
    "weight_v": "weight norm",
    "parametrizations": "weight norm or another parametrization",
    "weight_orig": "spectral norm",
}
"""Segments of names beside a packed weight, in the order in which they are told apart."""

_SAYS_HEAD = re.compile(
    r"(lm_?)?heads?|outputs?|un_?embed\w*|\w*output_proj\w*|output_layer"
    r"|\w*logits?\w*|embed_out|generator|proj_out|lm_loss|predictions?|pred_layer|vocab_proj\w*"
    r"|out_embed\w*|output_embed\w*",
    re.ASCII,
)
# A head of something: refused where it is not decoded, and never taken by its name.
_SAYS_SOME_HEAD = re.compile(rf"{_SAYS_HEAD.pattern}|\w+_heads?", re.ASCII)
# Parts of a model that are not its language model, and heads of other things than tokens.
_SAYS_OTHER = re.compile(
    r"(mtp|answer|diffusion|draft|medusa|eagle|aux|teacher|ref_model)\w*"
    r"|(vision|visual|image|vit|video|audio|speech|encodec|vae|vq|talker|code2wav|token2wav|gen_(head|embed|aligner|vision))\w*"
    r"|\w*(classif|score|reward|value|qa_|pooler|seq_relationship|detect|box|mask_dec)\w*"
    r"|\w*norm\d*|norm_\w|ln_\w+|\w*tokenizer\w*|(acoustic|semantic)\w*|\w*(pos(ition)?_?(emb|enc)|position|wpe|rotary|token_type|segment)\w*|pos",
    re.ASCII | re.IGNORECASE,
)
# What a trainer keeps for each weight, under the weight's name.
_SAYS_STATE = re.compile(r"(momentum|grad|exp_avg|optim)\w*", re.ASCII | re.IGNORECASE)
_MOST_LISTED = 10


def says_head(name: str) -> bool:
    """Tell whether a name, without its prefixes, has a segment that says output head.

    Not in a numbered layer; numbered parts of the head itself count.
    """
    return _says(_SAYS_HEAD, name)


def says_some_head(name: str) -> bool:
    """Tell the same of a head that may be one of something else than tokens."""
    return _says(_SAYS_SOME_HEAD, name)


def _says(pattern: re.Pattern[str], name: str) -> bool:
    for part in name.split("."):
        if part.isdigit():
            return False
        if pattern.fullmatch(part):
            return True
    return False


def says_other(name: str) -> bool:
    """Tell whether a name is of a vision tower, positions, a classifier or the like."""
    return says_state(name) or any(_SAYS_OTHER.fullmatch(part) for part in name.split("."))


def says_state(name: str) -> bool:
    """Tell whether a name is that of an optimizer's state, or of a gradient, and of no weight."""
    return any(_SAYS_STATE.fullmatch(part) for part in name.split("."))


def head_parts(
    tensors: TensorList, names: Iterable[str], n_tokens: int, width: int | None
) -> list[str]:
    """Return the tensors that are part of a head in a form that is not known.

    Parameters
    ----------
    tensors
        Their shapes and types.
    names
        Of tensors whose names say head, and that are no head of a known name.
    n_tokens
        The rows of the vocabulary.
    width
        The width of the input embedding, if there is one.

    Returns
    -------
    list of str
        Codes, and tensors as large as a vocabulary; not norms, biases and small matrices, which
        heads of encoders and classifiers have beside a matrix that is tied.
    """
    return [
        name
        for name in names
        if _is_part(tensors.shape(name), tensors.dtype(name), n_tokens)
        or _is_piece(name, tensors.shape(name), n_tokens, width)
    ]


def _is_piece(name: str, shape: tuple[int, ...], n_tokens: int, width: int | None) -> bool:
    """Tell whether a tensor holds some of the rows of a head: numbered, and not just a few."""
    numbered = says_head(name) and any(
        part.rpartition("_")[2].isdigit() for part in name.split(".")
    )
    return numbered and len(shape) == 2 and shape[1] == width and 16 * shape[0] >= n_tokens


def _is_part(shape: tuple[int, ...], dtype: str, n_tokens: int) -> bool:
    size = 1
    for length in shape:
        size *= length
    if dtype not in FLOATS:
        return size > 1
    if size == max(shape, default=1) or size == 0:
        return False
    if len(shape) == 2:
        # (V, d), (d, V), or one of two factors.
        return any(is_height(length, n_tokens) for length in shape)
    return len(shape) > 2 and size >= n_tokens


def is_height(n_rows: int, n_tokens: int) -> bool:
    """Tell whether so many rows may be those of a vocabulary: padded, or without padding."""
    return abs(n_rows - n_tokens) <= n_tokens // 16


def packed_error(where: str, name: str, companions: Sequence[str]) -> HeadError:
    """Return the error for a tensor whose codes cannot be decoded, by what lies beside it."""
    parts = {part for companion in companions for part in companion.split(".")}
    scheme = next((tool for mark, tool in MARKS.items() if mark in parts), None)
    listed = ", ".join(shown(companion) for companion in companions[:_MOST_LISTED])
    if scheme is None:
        return HeadError(
            f"{where}: the output head is there in a form that is not known ({listed}): expected "
            "one matrix of plain floats, such as 'lm_head.weight'; use a checkpoint that is not "
            "packed, or pass tensor= to take another matrix"
        )
    form = "parametrised" if " norm" in scheme else "quantised"
    return HeadError(
        f"{where}: tensor {shown(name)} is {form} ({scheme}; beside it {listed}): "
        "expected plain floats, and this scheme is not supported; use an unquantised checkpoint, "
        "or pass tensor= to take another matrix"
    )
