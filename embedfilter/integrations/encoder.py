"""Embedding models out of causal language models, with a filter at their end.

The ways to take an embedding are those of arXiv 2606.07502's code. Where a text is only put into
the model, all modules are sentence-transformers' own; where it is put into a template, the first
one is `TemplateTransformer`.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
except ImportError as error:
    raise ImportError(
        "embeddings from language models need sentence-transformers 6 or later: "
        'pip install "embedfilter[encode]"'
    ) from error

from embedfilter.checkpoints.base_head import open_for
from embedfilter.checkpoints.locating import check_named, ollama_file
from embedfilter.checkpoints.sentence_transformers import POOLING, saved_template
from embedfilter.errors import CheckpointError, warn_user
from embedfilter.files.endings import GGUF, ending
from embedfilter.files.folder import exists
from embedfilter.files.messages import source_name
from embedfilter.filter import EmbedFilter, as_filter
from embedfilter.fitting.kinds import check_n_components, resolve_n_components
from embedfilter.integrations.gguf_reading import parsed_once
from embedfilter.integrations.model_card import describe, keep_description
from embedfilter.integrations.saved_encoder import reopened
from embedfilter.integrations.sentence_transformers import append_filter, check_matrix
from embedfilter.integrations.vocabulary_words import N_WORDS, embedded_words

__all__ = ["TEMPLATES", "TemplateTransformer", "encoder", "template_for", "vocabulary_sample"]

TEMPLATES = {
    "prompteol": 'Summarize the sentence: "{text}" in one word:"',
    "echo": "Rewrite the following paragraph: {text}. The rewritten paragraph: {text}",
}
"""The text that a model reads, by the name of the template."""

_MAX_TOKENS = 512  # of a text
_LEAST_WORDS, _MOST_WORDS = 2, 1_000_000  # of a vocabulary
_DTYPES = ("float32", "float16", "bfloat16")


class TemplateTransformer(Transformer):  # type: ignore[misc]  # untyped
    """A Transformer that reads each text inside a template.

    Batches are padded on the left. A text of more than 512 tokens keeps its first and its last
    256. What follows pools the states of one part of the prompt: for "prompteol" its last token,
    for "echo" the tokens of the second copy, which the attention mask that this module passes on
    is confined to.

    Parameters
    ----------
    model_name_or_path : str
        As for Transformer.
    template : {"prompteol", "echo"}
    **kwargs
        As for Transformer.
    """

    config_keys = [*Transformer.config_keys, "template"]  # noqa: RUF012 - as in the base class

    def __init__(self, model_name_or_path: str, *, template: str, **kwargs: Any) -> None:
        super().__init__(model_name_or_path, **kwargs)
        self.template = template
        self.tokenizer.padding_side = "left"

    def preprocess(
        self, inputs: Sequence[str], prompt: str | None = None, **_: Any
    ) -> dict[str, Any]:
        """Turn texts into the model's inputs; `prompt` is put before each text."""
        texts = [self._shortened((prompt or "") + _text(given)) for given in inputs]
        template = TEMPLATES[self.template]
        prompts = [template.replace("{text}", text) for text in texts]
        features, ends = self._tokens(prompts)
        if "position_ids" in inspect.signature(self.model.forward).parameters:
            positions = features["attention_mask"].cumsum(dim=1) - 1
            features["position_ids"] = positions.clamp(min=0)
        if self.template == "echo":
            # The space before the copy belongs to its first token, so a token is told by its end.
            starts = torch.tensor([len(p) - len(t) for p, t in zip(prompts, texts, strict=True)])
            second = features["attention_mask"] * (ends > starts[:, None])
            if not (has_some := second.any(dim=1)).all():
                warn_user(
                    "sentences: found an empty text, which has no second copy: its embedding is"
                    " the state of the template's last token"
                )
                second[~has_some, -1] = 1
            features["second_copy"] = second
        return features

    def _tokens(self, prompts: list[str]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return ids and mask of prompts, and where tokens end in them: each (n, tokens).

        What a tokenizer puts behind a text, such as the end of a sequence, is left out: the state
        of the template's own last token is asked for.
        """
        encoded = self.tokenizer(prompts, return_offsets_mapping=True, verbose=False)
        ends = [[end for _, end in offsets] for offsets in encoded["offset_mapping"]]
        lengths = [max(i + 1 for i, end in enumerate(row) if end) for row in ends]
        shape = (len(prompts), max(lengths))
        ids = torch.full(shape, self.tokenizer.pad_token_id)
        mask, of_ends = torch.zeros(2, *shape, dtype=torch.long)
        for row, n in enumerate(lengths):
            ids[row, -n:] = torch.tensor(encoded["input_ids"][row][:n])
            of_ends[row, -n:] = torch.tensor(ends[row][:n])
            mask[row, -n:] = 1
        return {"input_ids": ids, "attention_mask": mask}, of_ends

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add the states of all tokens, and leave the mask of those to pool."""
        second_copy = features.pop("second_copy", None)
        result: dict[str, Any] = super().forward(features, **kwargs)
        if second_copy is not None:
            result["attention_mask"] = second_copy
        return result

    def _shortened(self, text: str) -> str:
        tokens = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(tokens) <= _MAX_TOKENS:
            return text
        half = _MAX_TOKENS // 2
        decoded: str = self.tokenizer.decode(tokens[:half] + tokens[-half:])
        return decoded


def encoder(
    model: str | os.PathLike[str],
    *,
    template: str | None = None,
    ratio: float | None = None,
    n_components: int | None = None,
    kind: str | None = None,
    filter: EmbedFilter | str | os.PathLike[str] | None = None,  # noqa: A002 - what it is
    calibrate: str | None = None,
    base: str | os.PathLike[str] | None = None,
    normalize: bool = True,
    device: str | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    progress: bool = False,
) -> SentenceTransformer:
    """Make an embedding model of a causal language model: ``encoder("model").encode(texts)``.

    The embeddings are the model's last hidden states, after its final norm, pooled, filtered and
    scaled to unit length. The templates are those of arXiv 2606.07502.

    Parameters
    ----------
    model : str or path
        A folder of transformers, a GGUF file, "ollama:NAME[:TAG]", or the id of a model on the
        Hugging Face Hub, "owner/name", or of a GGUF file there, "owner/name/file.gguf". The folder
        of a model that this function made and ``save_pretrained`` wrote is opened as it was saved,
        its filter with it, if nothing but how it runs is asked for; with a filter's options it is
        a language model like any other.
    template : {"prompteol", "echo", "mean"}, optional
        "prompteol" asks for the text in one word, and takes the state of the last token. "echo"
        repeats the text, and takes the mean over the second copy, whose tokens have seen the
        whole text. "mean" is the mean over the text's own tokens, of which it takes 512 at most.
        By default that of a saved model, else "prompteol".
    ratio, n_components, kind
        Of the filter that is fitted to the model: see `EmbedFilter.from_checkpoint`. Ratio 1
        leaves the embeddings as they are. The kind is "edge", if calibrated "late".
    filter : EmbedFilter or path, optional
        This one instead, fitted, and perhaps calibrated, before; or the file of one.
    calibrate : {"vocabulary"}, optional
        Calibrate the filter on words of the model's own vocabulary (`vocabulary_sample`), which
        takes one to three minutes on two cores, and no data. For texts of one's own see
        `EmbedFilter.calibrate`.
    base : path or id, optional
        Fit the filter to the head of this model instead, which `model` was made of: for embedding
        models that were saved without their head.
    normalize : bool
        Whether embeddings have unit length. Those of a saved model are scaled as they were.
    device : str, optional
        Where the model runs: "cpu", "cuda", ...; by default, as sentence-transformers chooses.
    dtype : {"float32", "float16", "bfloat16"}
        Of the model's weights.
    revision : str, optional
        For a model on the Hub: a branch, a tag or a commit. Not of the base.
    progress : bool
        Show a progress bar of the calibration on standard error.

    Returns
    -------
    SentenceTransformer
        A model like any other. Saved, a "mean" model loads anywhere; those with a template load
        where embedfilter is installed, with ``trust_remote_code=True``.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not make a filter, or a filter that does not suit the model.
    CheckpointError
        If the model's unembedding matrix cannot be read.
    ImportError
        Without sentence-transformers.
    """
    _check_model(model)
    asked = (filter, ratio, n_components, kind, calibrate, base)
    own = saved_template(model)
    if own is not None and template in (None, own) and all(option is None for option in asked):
        if revision is not None:
            raise ValueError(
                f"revision: expected None for the local source {os.fspath(model)},"
                f" found {revision!r}"
            )
        _check_choices(own or "mean", dtype)
        saved = reopened(model, TemplateTransformer, dtype, device, normalize=normalize)
        keep_description(saved, Path(model))
        return saved
    template = template_for(model, template)
    _check_choices(template, dtype, calibrate)
    if filter is not None and (ratio, n_components, kind) != (None, None, None):
        raise ValueError("filter: expected no ratio, n_components or kind beside it, found some")
    is_fitted = filter is None and (ratio != 1 or n_components is not None)
    if base is not None and not is_fitted:
        other = "ratio 1" if filter is None else "filter"
        raise ValueError(f"base: expected a filter to fit to it, found {other}")
    if calibrate is not None and filter is None and not is_fitted:
        raise ValueError("calibrate: expected a filter to calibrate, found ratio 1")
    filter = _given(filter, calibrate)  # noqa: A001
    k = None if filter is None else filter.n_components
    if is_fitted:
        kind = kind or ("edge" if calibrate is None else "late")
        of_source: dict[str, Any] = {"base": base, "revision": revision if base is None else None}
        with open_for(model, **of_source) as W:
            d = W.shape[1]
        k = resolve_n_components(d, ratio=ratio, n_components=n_components, kind=kind)
        # Principal axes are looked for among more directions than are kept.
        most = k if calibrate is None else max(k, d // 2)
        filter = EmbedFilter.from_checkpoint(  # noqa: A001
            model, n_components=most, kind=kind, **of_source
        )
    if filter is not None and (base is not None or not is_fitted):
        check_matrix(filter, model, os.fspath(model), revision=revision)
    result = _unfiltered(model, template, device, dtype, revision)
    width = result.get_embedding_dimension()
    if filter is not None and filter.n_features_in != width:
        raise ValueError(
            f"{os.fspath(model)}: expected hidden states of the {filter.n_features_in} dimensions"
            f" that the filter takes, found {width}"
        )
    if filter is not None and calibrate is not None:
        sample = _vocabulary_of(result, model, template, progress=progress)
        filter = filter.calibrate(sample, n_components=k)  # noqa: A001
    if filter is not None:
        append_filter(filter, result, normalize=normalize)
    elif normalize:
        result.append(Normalize())
    describe(result, source_name(os.fspath(model)), template, filter)
    return result.eval()


def vocabulary_sample(
    model: str | os.PathLike[str],
    *,
    template: str | None = None,
    n: int = N_WORDS,
    normalize: bool = False,
    batch_size: int = 32,
    device: str | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    progress: bool = False,
) -> NDArray[np.float32]:
    """Embed words of a model's own vocabulary: a sample for `EmbedFilter.calibrate` without data.

    Each word is a text of its own; they are the same for the same vocabulary. `calibrate` knows
    the array for what it is, and says so in the filter's metadata (calibration_sample); parts and
    copies of it are a sample like any other.

    Parameters
    ----------
    model, template, device, dtype, revision
        As for `encoder`; the template is that of the embeddings that will be filtered.
    n : int
        How many words; fewer where the vocabulary has too few.
    normalize : bool
        Scale rows to unit length: if, and only if, the embeddings that will be filtered are.
    batch_size : int
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    (n, d) float32
        Not filtered.

    Raises
    ------
    TypeError, ValueError
        For wrong arguments, or a vocabulary without words.
    ImportError
        Without sentence-transformers.
    """
    template = template_for(model, template)
    _check_choices(template, dtype)
    if check_n_components(n, _MOST_WORDS, "n") < _LEAST_WORDS:
        raise ValueError(f"n: expected from {_LEAST_WORDS} to {_MOST_WORDS}, found {n}")
    embed = _unfiltered(model, template, device, dtype, revision)
    if normalize:
        embed.append(Normalize())
    return _vocabulary_of(embed, model, template, n, batch_size, progress)


def template_for(model: str | os.PathLike[str], template: str | None) -> str:
    """Return the template that a model is read with, where none is asked for its own."""
    _check_model(model)
    own = saved_template(model) if template is None else template
    if own == "":
        raise CheckpointError(
            f"{os.fspath(model)}: expected a model that pools by the mean, as it was saved without"
            " a template, found another pooling: name a template, or embed with"
            " SentenceTransformer"
        )
    return own or "prompteol"


def _given(
    source: EmbedFilter | str | os.PathLike[str] | None, calibrate: str | None
) -> EmbedFilter | None:
    """Return the filter that was given, if one was."""
    if source is None:
        return None
    f = as_filter(source)
    if calibrate is not None and f.mean is not None:
        raise ValueError("filter: expected one that is not calibrated yet, found a calibrated one")
    return f


def _check_choices(template: str, dtype: str, calibrate: str | None = None) -> None:
    if calibrate not in (None, "vocabulary"):
        raise ValueError(f"calibrate: expected 'vocabulary' or None, found {calibrate!r}")
    known = (*TEMPLATES, "mean")
    if template not in known:
        raise ValueError(f"template: expected one of {', '.join(known)}, found {template!r}")
    if dtype not in _DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(_DTYPES)}, found {dtype!r}")


def _vocabulary_of(
    embed: SentenceTransformer,
    model: str | os.PathLike[str],
    template: str,
    n: int = N_WORDS,
    batch_size: int = 32,
    progress: bool = False,
) -> NDArray[np.float32]:
    return embedded_words(
        embed.eval(),
        n,
        of=source_name(os.fspath(model)),
        template=template,
        batch_size=batch_size,
        progress=progress,
    )


def _unfiltered(
    model: str | os.PathLike[str],
    template: str,
    device: str | None,
    dtype: str,
    revision: str | None,
) -> SentenceTransformer:
    """Return the model and the pooling of a template."""
    first = _transformer(os.fspath(model), template, dtype, revision)
    mode = "lasttoken" if template == "prompteol" else "mean"
    pooling = Pooling(first.get_embedding_dimension(), pooling_mode=mode)
    result = SentenceTransformer(modules=OrderedDict({"0": first, POOLING: pooling}), device=device)
    if template != "mean" and not _is_causal(result):
        warn_user(
            f"{os.fspath(model)}: the template {template!r} is for models whose tokens see what is"
            " before them alone, and this one's see what follows: take template='mean'"
        )
    return result


def _check_model(model: str | os.PathLike[str]) -> None:
    """Raise for what transformers would ask the Hub for, again and again, and not find there."""
    if isinstance(model, bytes) or not isinstance(model, (str, os.PathLike)):
        raise TypeError(f"model: expected a path or an id, found {type(model).__name__}")
    if not os.fspath(model):
        raise ValueError("model: expected a path or an id, found an empty text")
    check_named(model)
    path = Path(model)
    if exists(path) and path.is_file() and ending(path) not in GGUF:
        raise CheckpointError(
            f"{path}: expected a folder of transformers, a GGUF file or an id on the Hub, found"
            " another file"
        )


def _is_causal(model: SentenceTransformer) -> bool:
    """Tell whether the first token's state is the same whatever follows."""
    ids = torch.tensor([[3, 4, 5], [3, 6, 7]], device=model.device)
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        first = model[0].model.eval()(**features).last_hidden_state[:, 0].float()
    return bool(torch.allclose(first[0], first[1], rtol=1e-2, atol=1e-3 * float(first.abs().max())))


def _transformer(model: str, template: str, dtype: str, revision: str | None) -> Transformer:
    of_ollama = ollama_file(model)
    path = of_ollama or Path(model)
    common: dict[str, Any] = {} if revision is None else {"revision": revision}
    opening: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if of_ollama is not None or ending(path) in GGUF:
        common["gguf_file"] = path.name
        model = str(path.parent) if path.exists() else "/".join(path.parts[:2])
        opening = parsed_once()
    arguments: dict[str, Any] = {
        "model_kwargs": common | {"dtype": getattr(torch, dtype)},
        "processor_kwargs": common,
        "config_kwargs": common,
    }
    if template == "mean":
        # A model for chats would else read each text as a message of one.
        plain = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
        arguments |= {
            "max_seq_length": _MAX_TOKENS,
            "modality_config": plain,
            "module_output_name": "token_embeddings",
        }
    else:
        arguments["template"] = template
    with opening:
        first = (Transformer if template == "mean" else TemplateTransformer)(model, **arguments)
    if first.tokenizer.pad_token is None:
        first.tokenizer.pad_token = first.tokenizer.eos_token or first.tokenizer.unk_token
    if "gguf_file" in common and all(p.is_floating_point() for p in first.model.parameters()):
        # transformers has decoded the weights, and yet would refuse to save them.
        first.model.hf_quantizer = None
        if hasattr(first.model.config, "quantization_config"):
            del first.model.config.quantization_config
    return first


def _text(given: object) -> str:
    if not isinstance(given, str):
        raise TypeError(f"sentences: expected texts, found {type(given).__name__}")
    return given
