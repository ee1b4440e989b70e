"""The names that output heads and input embeddings have, family by family.

Names are compared after the prefixes that wrappers add have been taken off.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embedfilter.checkpoints.head.packed import LORA, MARKS, says_head, says_other

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "GGUF_NAMES",
    "MODEL_NAMES",
    "NameTable",
    "Outline",
    "is_numbered",
    "names_embedding",
    "names_head",
    "plain_name",
    "speak_of_head",
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


@dataclass
class Outline:
    """The names of a checkpoint by what they mean, from one pass over them.

    Attributes
    ----------
    weights : dict
        The tensors' names by their name without prefixes.
    packed, adapters : dict
        What lies beside a packed weight, and adapters, by the weight's name without prefixes.
    """

    weights: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    packed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    adapters: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, names: Iterable[str]) -> Outline:
        """Sort names by what they mean."""
        outline = cls()
        for name in names:
            parts = name.split(".")
            mark = next((i for i, p in enumerate(parts) if p in LORA or p in MARKS), None)
            if mark is None:
                outline.weights[plain_name(name)].append(name)
                continue
            owner = parts[:mark]
            if owner[-1:] != ["weight"]:
                owner.append("weight")
            kind = outline.adapters if parts[mark] in LORA else outline.packed
            kind[plain_name(".".join(owner))].append(name)
        return outline

    def find(self, names: Iterable[str]) -> list[str]:
        """Return the tensors of these names."""
        return [found for name in names for found in self.weights.get(name, ())]

    def find_endings(self, names: Iterable[str], endings: frozenset[str]) -> list[str]:
        """Return the tensors whose names end in one of `names` that is in `endings`."""
        wanted = tuple(f".{name}" for name in names if name in endings)
        found = []
        for name, full_names in self.weights.items():
            # Numbered places are copies inside a model: extra prediction heads, per-layer tables.
            if name.endswith(wanted) and not is_numbered(name):
                found += full_names
        return found


def is_numbered(name: str) -> bool:
    """Tell whether a name is of a numbered layer, head or expert."""
    return any(part.isdigit() for part in name.split("."))


def plain_name(name: str) -> str:
    """Return a name without the segments that wrappers and containers add."""
    parts = name.split(".")
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


def names_embedding(name: str, table: NameTable) -> bool:
    """Tell whether a name is that of an input embedding, with or without its "weight"."""
    plain = plain_name(name).removesuffix(".weight")
    known = {other.removesuffix(".weight") for group in table.embeddings for other in group}
    return plain in known


def names_head(name: str) -> bool:
    """Tell whether a tensor's name is that of a whole head: "head.weight", or "output" itself."""
    plain, last = plain_name(name), name.rpartition(".")[2]
    owner = plain.rpartition(".")[0].rpartition(".")[2]
    whole = says_head(last) or (last == "weight" and says_head(owner))
    return whole and not is_numbered(plain) and not says_other(plain)


def speak_of_head(names: Iterable[str]) -> bool:
    """Tell whether an output head, plain or packed, is among names in the style of transformers.

    Shapes, which the choice itself needs, are not looked at: that is cheap where it would cost
    the header of each file of many.
    """
    outline, table = Outline.of(names), MODEL_NAMES
    known = (*table.heads, *table.heads_beside_embedding)
    endings = tuple(f".{name}" for name in known if name in table.endings)
    return (
        bool(outline.find(known) or outline.find_endings(table.heads, table.endings))
        or any(name in known or name.endswith(endings) for name in outline.packed)
        or any(map(names_head, outline.weights))
    )
