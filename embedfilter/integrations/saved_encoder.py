"""Models that `embedfilter.encoder` made, opened as ``save_pretrained`` wrote them."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from embedfilter.checkpoints.sentence_transformers import MODULES, read_modules
from embedfilter.errors import CheckpointError
from embedfilter.files.folder import Folder
from embedfilter.files.json_file import read_json
from embedfilter.files.messages import shown

__all__ = ["reopened"]

_SETTINGS = "config_sentence_transformers.json"
_MAX_BYTES = 1 << 20


def reopened(
    model: str | os.PathLike[str],
    template_transformer: type[Transformer],
    dtype: str,
    device: str | None,
    *,
    normalize: bool,
) -> SentenceTransformer:
    """Open a model that was saved, module by module: no code of the folder's own is run.

    Parameters
    ----------
    model : path
        A folder.
    template_transformer : type
        The class of modules that put texts into templates.
    dtype, device, normalize
        As for `embedfilter.encoder`.

    Returns
    -------
    SentenceTransformer

    Raises
    ------
    CheckpointError
        If the folder is not whole, or has other modules.
    ValueError
        If the embeddings are wanted without unit length, and have it.
    """
    stock = (Transformer, Pooling, Dense, Normalize)
    known = {kind.__name__: kind for kind in (*stock, template_transformer)}
    folder = Folder(Path(model))
    listed = read_modules(folder)
    where = folder.path / MODULES
    names = [module.name for module in listed]
    if not all(names) or len({*names}) < len(names):
        raise CheckpointError(f"{where}: expected modules with names that differ, found {names}")
    for module in listed:
        ours = module.type.startswith(("sentence_transformers.", "embedfilter."))
        if module.kind not in known or not ours:
            raise CheckpointError(
                f"{where}: expected modules of sentence-transformers ({', '.join(known)}), found"
                f" {shown(module.type)}"
            )
        if module.kind == "Dense":
            file = folder.folder(module.path).open("config.json")
            function = read_json(file, "the module's config", limit=_MAX_BYTES).get(
                "activation_function"
            )
            if function != "torch.nn.modules.linear.Identity":
                raise CheckpointError(
                    f"{file.path}: expected a filter, which is linear, found {shown(function)}"
                )
    if not normalize and any(module.kind == "Normalize" for module in listed):
        raise ValueError(
            "normalize: expected True for a saved model whose embeddings have unit length"
        )
    weights = {"model_kwargs": {"dtype": getattr(torch, dtype)}}
    modules = {}
    for kind, path, name, _ in listed:
        options: dict[str, Any] = weights if issubclass(known[kind], Transformer) else {}
        try:
            modules[name] = known[kind].load(str(folder.path), subfolder=path, **options)
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder.path / path}: expected a saved {kind}: {_first_line(error)}"
            ) from error
    result = SentenceTransformer(modules=OrderedDict(modules), device=device, **_settings(folder))
    return result.to(getattr(torch, dtype)).eval()


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _settings(folder: Folder) -> dict[str, Any]:
    """Return what a model was saved with beside its modules."""
    if not folder.has(_SETTINGS):
        return {}
    file = folder.open(_SETTINGS)
    found = read_json(file, "the model's settings", limit=_MAX_BYTES)
    prompts = found.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise CheckpointError(f"{file.path}: expected prompts by name, found {shown(prompts)}")
    names = ("default_prompt_name", "similarity_fn_name", "truncate_dim")
    return {"prompts": prompts} | {name: found[name] for name in names if found.get(name)}
