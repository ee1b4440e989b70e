"""What a model's config.json says about its unembedding matrix, as a cross-check.

An output head that is stored is taken whatever the config says: the hidden size and the
vocabulary must not contradict it, and a ``tie_word_embeddings`` that does is reported (published
checkpoints have the flag wrong). Where no head is stored the config says whether it is tied.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from embedfilter.checkpoints.base_model import base_models
from embedfilter.errors import CheckpointError
from embedfilter.files.folder import Folder
from embedfilter.files.json_file import read_json
from embedfilter.files.messages import shown

__all__ = ["ModelFacts", "facts_of", "read_config", "read_params", "tokenizer_size"]

_MAX_CONFIG = 16 << 20
_MAX_TOKENIZER = 128 << 20
# The sections that describe the language model of a multimodal one.
_TEXT_SECTIONS = ("text_config", "llm_config", "language_config")
_HIDDEN_SIZE = ("hidden_size", "n_embd", "d_model", "n_embed", "dim")
_VOCAB_SIZE = ("vocab_size", "n_vocab")
# Widths of embeddings that hidden states are mapped to before they meet the head: ALBERT, ELECTRA,
# RemBERT, OPT-350m, NeoMME.
_INNER_SIZE = ("embedding_size", "output_embedding_size", "word_embed_proj_dim", "embedding_rank")


# Settings by name, and whether the head is the input embedding where one is true.
_TIE_SETTINGS = {
    "tie_word_embeddings": True,
    "weight_tying": True,  # OLMo and LLaDA, original files
    "share_input_output_layers": True,  # OpenELM
    "tie_embeddings": True,  # Mamba, original files
    "tied_embeddings": True,  # Mistral, params.json
    "share_decoder_input_output_embed": True,  # fairseq
    "share_all_embeddings": True,
    "share_embeddings_and_output_weights": True,  # Megatron Core, NeMo
    "untie_embeddings_and_output_weights": False,  # Megatron-LM
}


@dataclass(frozen=True)
class ModelFacts:
    """Sizes that a file states about the model.

    Attributes
    ----------
    where : str
        What states them, for messages.
    hidden_sizes : tuple of int
        Hidden sizes; a multimodal model may state several. Empty: unknown.
    vocab_sizes : tuple of int
        Sizes of the vocabulary, likewise.
    tied : bool or None
        Whether the head is said to share the input embedding; None: not said.
    tied_by : str
        The setting that says so, such as "tie_word_embeddings=true".
    scale_block : tuple of int or None
        Rows and columns that share a scale of a quantised matrix; None: not said.
    folder : Folder or None
        Where the model's tokenizer may be.
    model_type : str or None
        The architecture as transformers or GGUF call it, such as "llama".
    settings : dict
        The config itself, its section of the language model over the top level.
    bases : tuple of str
        Models that a file says this one came from; others may be found beside it.
    """

    where: str
    hidden_sizes: tuple[int, ...] = ()
    vocab_sizes: tuple[int, ...] = ()
    tied: bool | None = None
    tied_by: str = ""
    scale_block: tuple[int, int] | None = None
    folder: Folder | None = None
    model_type: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    bases: tuple[str, ...] = ()

    def n_tokens(self) -> int | None:
        """Return how many tokens the tokenizer has, or else the model is said to know."""
        found = None if self.folder is None else tokenizer_size(self.folder)
        return found or min(self.vocab_sizes, default=None)

    def base_models(self) -> tuple[str, ...]:
        """Return the models that this one came from, looked up when it is asked for.

        See `embedfilter.checkpoints.base_model.base_models`; never raises.
        """
        found = () if self.folder is None else base_models(self.folder)
        return tuple(dict.fromkeys((*self.bases, *found)))

    def check(self, where: str, name: str, shape: tuple[int, ...]) -> None:
        """Raise when the tensor `name` of shape `shape` contradicts the facts.

        More rows than the vocabulary are right: matrices are padded.
        """
        if len(shape) != 2:
            return  # refused for what it is
        rows, columns = shape
        tensor = f"{where}: tensor {shown(name)} of shape {shown(shape)}"
        if self.hidden_sizes and columns not in self.hidden_sizes:
            sizes = " or ".join(map(str, self.hidden_sizes))
            if rows in self.hidden_sizes:
                raise CheckpointError(
                    f"{tensor} is transposed: expected {sizes} columns, the hidden size in "
                    f"{self.where}, found {columns} columns and {rows} rows"
                )
            raise CheckpointError(
                f"{tensor} does not fit the model: expected {sizes} columns, the hidden size in "
                f"{self.where}, found {columns}{self._inner_size(columns)}"
            )
        if self.vocab_sizes and rows < min(self.vocab_sizes):
            raise CheckpointError(
                f"{tensor} lacks rows: expected at least {min(self.vocab_sizes)}, the vocabulary "
                f"in {self.where}, found {rows}; the file may hold a part of the matrix only"
            )

    def _inner_size(self, columns: int) -> str:
        for name in _INNER_SIZE:
            if self.settings.get(name) == columns:
                return (
                    f", its {name}: hidden states are mapped to that size before the head, so "
                    "no filter of the hidden states can be had of it"
                )
        return ""

    def remark(self, *, tied: bool) -> str:
        """Return what to add to the reason when the flag disagrees with the tensors, or ''."""
        if self.tied is None or self.tied == tied:
            return ""
        found = "no separate head is stored" if tied else "a separate head is stored"
        return f"; {self.where} says {self.tied_by}, yet {found}"


def read_config(folder: Folder) -> ModelFacts | None:
    """Return what config.json in `folder` states, or None where there is no such file.

    Parameters
    ----------
    folder
        The checkpoint's folder.

    Returns
    -------
    ModelFacts or None
        The facts.
    """
    if not folder.has("config.json"):
        return None
    config = read_json(folder.open("config.json"), "the config", limit=_MAX_CONFIG)
    return facts_of(config, where="config.json", folder=folder)


def facts_of(config: dict[str, Any], *, where: str, folder: Folder | None = None) -> ModelFacts:
    """Return what a config states.

    Parameters
    ----------
    config
        As transformers writes it.
    where
        What to call it in messages.
    folder
        Where the model's tokenizer may be.

    Returns
    -------
    ModelFacts
        The facts.
    """
    # The top level comes last: for a multimodal model it may speak of the whole.
    sections = [config[key] for key in _TEXT_SECTIONS if isinstance(config.get(key), dict)]
    sections.append(config)
    return ModelFacts(
        where=where,
        hidden_sizes=_sizes(sections, _HIDDEN_SIZE),
        vocab_sizes=_sizes(sections, _VOCAB_SIZE),
        **_tied(sections[::-1]),
        scale_block=_scale_block(sections),
        folder=folder,
        model_type=next(
            (s["model_type"] for s in sections[::-1] if _is_name(s.get("model_type"))), None
        ),
        settings={key: value for section in reversed(sections) for key, value in section.items()},
    )


def read_params(folder: Folder) -> ModelFacts | None:
    """Return what params.json states, which Meta and Mistral put beside their weights.

    Parameters
    ----------
    folder
        The checkpoint's folder.

    Returns
    -------
    ModelFacts or None
        The facts; None where there is no such file, or another of that name.
    """
    if not folder.has("params.json"):
        return None
    params = read_json(folder.open("params.json"), "the parameters", limit=_MAX_CONFIG)
    sizes = _sizes([params], ("dim",))
    if not sizes:
        return None
    return ModelFacts(
        where="params.json",
        hidden_sizes=sizes,
        vocab_sizes=_sizes([params], ("vocab_size",)),  # -1 of Llama 1 and 2 says nothing
        **_tied([params]),
        folder=folder,
        settings=dict(params),
    )


def _tied(sections: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the first section that says so says of the head's being the input embedding."""
    for section in sections:
        for key, meaning in _TIE_SETTINGS.items():
            value = section.get(key)
            if isinstance(value, bool):
                return {"tied": value is meaning, "tied_by": f"{key}={str(value).lower()}"}
    return {}


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 64


def _scale_block(sections: list[dict[str, Any]]) -> tuple[int, int] | None:
    for section in sections:
        quantisation = section.get("quantization_config")
        block = quantisation.get("weight_block_size") if isinstance(quantisation, dict) else None
        if isinstance(block, list) and len(block) == 2:
            a, b = block
            if type(a) is int and type(b) is int and min(a, b) > 0:
                return a, b
    return None


def _sizes(sections: list[dict[str, Any]], keys: tuple[str, ...]) -> tuple[int, ...]:
    found: list[int] = []
    for section in sections:
        # One spelling a section: the others may mean something else beside it.
        values = [section[key] for key in keys if key in section]
        if values and type(values[0]) is int and values[0] > 0 and values[0] not in found:
            found.append(values[0])
    return tuple(found)


def tokenizer_size(folder: Folder) -> int | None:
    """Return how many tokens the tokenizer of a model has, or None where there is none.

    Parameters
    ----------
    folder
        The folder, perhaps with a ``tokenizer.json``.

    Returns
    -------
    int or None
        One more than the greatest number of a token.
    """
    if not folder.has("tokenizer.json"):
        return None
    file = folder.open("tokenizer.json")
    tokenizer = read_json(file, "the tokenizer", limit=_MAX_TOKENIZER)
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    # Of most models a map to numbers; of Unigram ones a list in the numbers' order.
    numbers: list[Any] = [len(vocabulary) - 1] if isinstance(vocabulary, list) else []
    numbers += vocabulary.values() if isinstance(vocabulary, dict) else ()
    if isinstance(added, list):
        numbers += (token.get("id") for token in added if isinstance(token, dict))
    return max((number for number in numbers if type(number) is int), default=-1) + 1 or None
