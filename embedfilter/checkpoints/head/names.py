"""Which tensor of a checkpoint is the unembedding matrix.

The tensors that exist decide: an output head where there is one, else the input
embedding, which then serves as the head (tied). The names of the families are
the tables below; names are compared after the prefixes that wrappers add have
been taken off.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from embedfilter.errors import CheckpointError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from embedfilter.checkpoints.checkpoint import TensorList

__all__ = [
    "GGUF_NAMES",
    "MODEL_NAMES",
    "Choice",
    "NameTable",
    "choose",
    "packed_error",
]


@dataclass(frozen=True)
class NameTable:
    """Names of the unembedding matrix in one family of formats, without prefixes.

    Attributes
    ----------
    heads : tuple of str
        Output heads.
    heads_beside_embedding : tuple of str
        Short names that are output heads only where an input embedding is
        stored too; elsewhere they may be the head of a classifier.
    embeddings : tuple of tuple of str
        Input embeddings; the first group with a match serves.
    endings : frozenset of str
        Names that are also recognised at the end of a longer name.
    """

    heads: tuple[str, ...]
    heads_beside_embedding: tuple[str, ...]
    embeddings: tuple[tuple[str, ...], ...]
    endings: frozenset[str] = frozenset()


MODEL_NAMES = NameTable(
    heads=(
        "lm_head.weight",  # Llama, Mistral, Qwen, Gemma, GPT-2, Falcon, OPT, T5 and most others
        "lm_head.linear.weight",  # Phi-1 and Phi-2, old files
        "lm_head.decoder.weight",  # RoBERTa, XLM-R, MPNet
        "lm_head.out_proj.weight",  # T5Gemma
        "decoder.lm_head.weight",  # Pix2Struct
        "lm_loss.weight",  # XLNet
        "embed_out.weight",  # GPT-NeoX, Pythia
        "cls.predictions.decoder.weight",  # BERT, DeBERTa
        "predictions.decoder.weight",  # ALBERT
        "vocab_projector.weight",  # DistilBERT
        "generator_lm_head.weight",  # ELECTRA
        "head.decoder.weight",  # UltraBERT
        "pred_layer.proj.weight",  # XLM, Flaubert
        "mlm_head.decoder.weight",  # FLAVA, which has two
        "mmm_text_head.decoder.weight",
        "output_projection.weight",  # BioGPT, TrOCR
        "decoder.output_projection.weight",  # fairseq
        "ff_out.weight",  # OLMo, LLaDA and Molmo, original files
        "unembedding.weight",  # gpt-oss, original files
        "unembed.weight",  # Inkling, Evo
        "to_logits.weight",  # x-transformers
        "word_embeddings_for_head.weight",  # Megatron, Persimmon's original files
        "log_softmax.mlp.layer0.weight",  # NeMo's decoders of speech, Cohere ASR
    ),
    heads_beside_embedding=(
        "output.weight",  # original Llama, Mistral's consolidated files, InternLM2
        "output_layer.weight",  # ChatGLM, Megatron
        "head.weight",  # RWKV and DeepSeek, original files
        "decoder.weight",  # ModernBERT
        "proj_out.weight",  # Whisper, Moonshine
        "final_proj.weight",  # fairseq2
        "cls.weight",  # UltraBERT, as it is saved
    ),
    embeddings=(
        ("shared.weight",),  # T5, BART: the encoder's and the decoder's copies follow it
        (
            "embed_tokens.weight",  # Llama, Mistral, Qwen, Gemma, Phi-3 and most others
            "wte.weight",  # GPT-2, GPT-J, MPT, DBRX
            "embd.wte.weight",  # Phi-1 and Phi-2, old files
            "embed_in.weight",  # GPT-NeoX
            "word_embeddings.weight",  # Falcon, BLOOM
            "embedding.word_embeddings.weight",  # ChatGLM
            "embeddings.word_embeddings.weight",  # BERT and its relatives
            "tok_embeddings.weight",  # original Llama, InternLM2
            "embeddings.tok_embeddings.weight",  # ModernBERT
            "embeddings.weight",  # Mamba, RWKV
            "embedding.weight",  # Mamba, original files
            "emb.weight",  # RWKV, original files
            "embed.weight",  # DeepSeek, original files; Inkling
            "embedder.weight",  # Gemma, original files
            "token_embeddings.weight",  # OpenELM
            "embedding_layer.weight",  # Evo
            "token_emb.weight",  # x-transformers, where the class of embeddings is torch's
            "token_emb.emb.weight",
            "tokens_embed.weight",  # GPT
            "word_embedding.weight",  # XLNet
            "w.weight",  # CTRL
        ),
        (
            "decoder.embed_tokens.weight",  # OPT; T5 and BART without the shared tensor
            "decoder_frontend.embed.weight",  # fairseq2
            "decoder.token_embedding.weight",  # Whisper, original files
            "transf_decoder._embedding.token_embedding.weight",  # NeMo, Cohere ASR
        ),
        ("encoder.embed_tokens.weight",),
    ),
    endings=frozenset(
        {
            "lm_head.weight",
            "cls.predictions.decoder.weight",  # the decoder of a pair
            "embed_out.weight",
            "embed_tokens.weight",
            "embed_in.weight",
            "word_embeddings.weight",
            "tok_embeddings.weight",
            "wte.weight",
        }
    ),
)
"""Names in safetensors files, as transformers and the models' authors write them."""

GGUF_NAMES = NameTable(
    heads=("output.weight",),
    heads_beside_embedding=(),
    embeddings=(("token_embd.weight",),),
)
"""Names in GGUF files."""

# Segments that a wrapper adds anywhere in a name.
_WRAPPERS = frozenset(
    {
        "module",  # DataParallel
        "_orig_mod",  # torch.compile
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",  # Lightning
        "base_layer",  # PEFT, beside an adapter
    }
)
# Segments at the start of a name that say which model the tensor belongs to.
_CONTAINERS = frozenset(
    {
        "base_model",  # PEFT
        "model",
        "language_model",
        "llm",
        "net",  # a module around a model, by custom
        "text_model",
        "auto_model",  # sentence-transformers
        "transformer",
        "gpt_neox",
        "backbone",
        "rwkv",
        "bert",
        "deberta",
        "roberta",
        "xlm_roberta",
        "mpnet",
        "distilbert",
        "electra",
        "albert",
        "led",
        "biogpt",
        "ultrabert",
        "flava",
    }
)
_LORA = frozenset({"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_a", "lora_b"})
# Tensors that lie beside a packed weight, in the order in which they are told apart.
_SCHEMES = {
    "g_idx": "GPTQ",
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
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
}
# Scales that can be applied, where nothing else lies beside the weight.
_SCALES = frozenset({"weight_scale", "weight_scale_inv"})
_MOST_LISTED = 10
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
    doubts : tuple of str
        Why it may not be the unembedding matrix, and what to pass.
    """

    name: str
    tied: bool
    reason: str
    scale: str | None = None
    doubts: tuple[str, ...] = ()


@dataclass
class _Outline:
    """The names of a checkpoint by what they mean, from one pass over them."""

    # Weights by their name without prefixes.
    weights: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    # Companions of a packed weight, and adapters, by the weight's name without prefixes.
    packed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    adapters: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def find(self, names: Iterable[str]) -> list[str]:
        return [found for name in names for found in self.weights.get(name, ())]

    def find_endings(self, names: Iterable[str], endings: frozenset[str]) -> list[str]:
        wanted = tuple(f".{name}" for name in names if name in endings)
        found = []
        for name, full_names in self.weights.items():
            # Numbered places are copies inside a model: extra prediction heads, per-layer tables.
            if name.endswith(wanted) and not any(part.isdigit() for part in name.split(".")):
                found += full_names
        return found


def choose(
    tensors: TensorList,
    table: NameTable,
    tensor: str | None = None,
    known: Choice | None = None,
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

    Returns
    -------
    Choice
        The tensor's name, and why.
    """
    outline = _outline(tensors.names)
    embeddings = _find_embeddings(outline, table)
    heads = outline.find(table.heads)
    if not heads and embeddings:
        heads = _find_short_heads(tensors, outline, table, embeddings)
    far_heads = [] if heads else outline.find_endings(table.heads, table.endings)
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
        if near:
            raise _ambiguous(tensors, far_heads + near)
        name = _only_one(tensors, far_heads)
        choice = Choice(name, tied=False, reason=f"{shown(name)} is the output head, by its ending")
    else:
        _refuse_packed_head(tensors, outline, table, embeddings)
        if not embeddings or outline.adapters:
            raise _none_found(tensors, outline)
        name = _only_one(tensors, embeddings)
        reason = (
            f"no output head among {len(tensors.names)} tensors, "
            f"so the input embedding {shown(name)} serves (tied)"
        )
        choice = Choice(name, tied=True, reason=reason)
    return replace(choice, scale=_scale_of(tensors, outline, choice.name))


def _outline(names: Iterable[str]) -> _Outline:
    outline = _Outline()
    for name in names:
        parts = name.split(".")
        mark = next((i for i, part in enumerate(parts) if part in _LORA or part in _SCHEMES), None)
        if mark is None:
            outline.weights[_plain(parts)].append(name)
            continue
        owner = parts[:mark]
        if owner[-1:] != ["weight"]:
            owner.append("weight")
        kind = outline.adapters if parts[mark] in _LORA else outline.packed
        kind[_plain(owner)].append(name)
    return outline


def _plain(parts: Sequence[str]) -> str:
    """Join the segments of a name without those that wrappers and containers add."""
    kept: list[str] = []
    skip_next = False
    for position, part in enumerate(parts):
        if skip_next:
            skip_next = False
        elif part == "modules_to_save":
            # PEFT puts the adapter's name after it: ….modules_to_save.default.weight
            skip_next = position + 2 < len(parts)
        elif part not in _WRAPPERS and (kept or part not in _CONTAINERS):
            kept.append(part)
    return ".".join(kept)


def _find_embeddings(outline: _Outline, table: NameTable) -> list[str]:
    for group in table.embeddings:
        found = outline.find(group)
        if found:
            return found
    every = [name for group in table.embeddings for name in group]
    return outline.find_endings(every, table.endings)


def _find_short_heads(
    tensors: TensorList, outline: _Outline, table: NameTable, embeddings: Sequence[str]
) -> list[str]:
    """Find heads with short names, which have the shape of the input embedding."""
    heads = outline.find(table.heads_beside_embedding)
    if not heads:
        return []
    shapes = {tensors.shape(name) for name in embeddings}
    return [name for name in heads if tensors.shape(name) in shapes]


def _named(tensors: TensorList, tensor: str, *, tied: bool) -> Choice:
    if tensor in tensors.names:
        return Choice(tensor, tied=tied, reason="named by tensor=")
    # Names inside numbered layers are many and rarely meant.
    outer = [name for name in tensors.names if not any(p.isdigit() for p in name.split("."))]
    near = difflib.get_close_matches(tensor, outer[:1000], n=5, cutoff=0.4) or outer[:5]
    hint = f"; names near it: {', '.join(shown(name) for name in near)}" if near else ""
    raise CheckpointError(f"{tensors.where}: has no tensor {shown(tensor)}{hint}")


def _only_one(tensors: TensorList, names: Sequence[str]) -> str:
    first = names[0]
    for other in names[1:]:
        if not _same(tensors, first, other):
            raise _ambiguous(tensors, names)
    return first


def _same(tensors: TensorList, first: str, second: str) -> bool:
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


def _scale_of(tensors: TensorList, outline: _Outline, name: str) -> str | None:
    """Return the tensor of scales beside a weight; refuse what else changes its meaning."""
    plain = _plain(name.split("."))
    if plain in outline.adapters:
        raise CheckpointError(
            f"{tensors.where}: tensor {shown(name)} has a LoRA adapter "
            f"({shown(outline.adapters[plain][0])}); merge the adapter into the model first"
        )
    companions = outline.packed.get(plain, [])
    if not companions:
        return None
    if len(companions) == 1 and companions[0].rpartition(".")[2] in _SCALES:
        return companions[0]
    raise packed_error(tensors.where, name, companions)


def _refuse_packed_head(
    tensors: TensorList, outline: _Outline, table: NameTable, embeddings: Sequence[str]
) -> None:
    """Raise when the tensor that would be chosen is there in packed form only."""
    wanted = [*table.heads, *table.heads_beside_embedding]
    if not embeddings:
        wanted += [name for group in table.embeddings for name in group]
    endings = tuple(f".{name}" for name in wanted if name in table.endings)
    for name, companions in outline.packed.items():
        if name in wanted or name.endswith(endings):
            raise packed_error(tensors.where, name, companions)


def packed_error(where: str, name: str, companions: Sequence[str]) -> CheckpointError:
    """Return the error for a tensor whose codes cannot be decoded, by what lies beside it."""
    parts = {part for companion in companions for part in companion.split(".")}
    scheme = next(scheme for mark, scheme in _SCHEMES.items() if mark in parts)
    listed = ", ".join(shown(companion) for companion in companions[:_MOST_LISTED])
    return CheckpointError(
        f"{where}: tensor {shown(name)} is quantised ({scheme}; beside it {listed}): "
        "expected plain floats, and this scheme is not supported; use an unquantised checkpoint, "
        "or pass tensor= to take another matrix"
    )


def _ambiguous(tensors: TensorList, names: Sequence[str]) -> CheckpointError:
    listed = ", ".join(
        f"{shown(name)} {shown(tensors.shape(name))}" for name in names[:_MOST_LISTED]
    )
    return CheckpointError(
        f"{tensors.where}: expected one unembedding matrix, found {len(names)} that differ: "
        f"{listed}; pass tensor= with the name of the right one"
    )


def _none_found(tensors: TensorList, outline: _Outline) -> CheckpointError:
    if outline.adapters:
        return CheckpointError(
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
    return CheckpointError(
        f"{tensors.where}: expected an output head (such as lm_head.weight) or an input embedding "
        f"among {len(tensors.names)} tensors, found neither; two-dimensional tensors: {listed}; "
        "pass tensor= to name one"
    )
