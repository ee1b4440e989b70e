"""Models of sentence-transformers: a folder with ``modules.json``, or an open one.

Such a model is a chain: a Transformer, pooling, and perhaps more. The unembedding matrix is
the Transformer's, and speaks of its hidden states; pooling by a mean or by one token and
scaling to unit length leave them in their space, other modules do not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from embedfilter.errors import CheckpointError, warn_user
from embedfilter.files.folder import Folder
from embedfilter.files.json_file import read_json
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FILTER",
    "MODULES",
    "POOLING",
    "Module",
    "read_modules",
    "saved_template",
    "transformer_folder",
    "warn_of_module",
]

MODULES = "modules.json"
"""The file that says that a folder is one of these."""

FILTER = "embedfilter"
"""The name of the Dense module that is a filter."""
POOLING = "embedfilter-pooling"
"""The name of the Pooling module of a model that `embedfilter.encoder` made."""

_MAX_BYTES = 1 << 20
_TEMPLATE_TRANSFORMER = "TemplateTransformer"  # of `embedfilter.encoder`
_TRANSFORMERS = ("Transformer", _TEMPLATE_TRANSFORMER)
_KEEP_THE_SPACE = frozenset({*_TRANSFORMERS, "Normalize", "Dropout"})


class Module(NamedTuple):
    """A module of a model.

    Attributes
    ----------
    kind, type : str
        The name of its class, without and with the Python module that has it.
    path : str
        Its folder; "" for the model's own.
    name : str
    """

    kind: str
    path: str
    name: str
    type: str


def read_modules(folder: Folder) -> list[Module]:
    """Return the modules of a model, in order.

    Parameters
    ----------
    folder
        A folder with ``modules.json``.

    Returns
    -------
    list of Module

    Raises
    ------
    CheckpointError
        The file is damaged, or names what is not in the folder.
    """
    file = folder.open(MODULES)
    modules = []
    listed = read_json(file, "the list of modules", limit=_MAX_BYTES, kind=list)
    for number, module in enumerate(listed):
        what = f"{file.path}: module {number}"
        if not isinstance(module, dict) or not all(
            isinstance(module.get(key), str) for key in ("type", "path")
        ):
            raise CheckpointError(
                f"{what}: expected an object with type and path, found {shown(module)}"
            )
        kind, path = module["type"].rpartition(".")[2], module["path"]
        # Joined to the folder's path, so it must stay a name in it.
        if path in (".", "..") or not path.isprintable() or {*"/\\:"} & set(path):
            raise CheckpointError(
                f"{what}: expected as path the name of a folder, found {shown(path)}"
            )
        modules.append(Module(kind, path, str(module.get("name", "")), module["type"]))
    return modules


def saved_template(model: str | os.PathLike[str]) -> str | None:
    """Return the template of a model that was saved with a filter, or by `embedfilter.encoder`.

    Parameters
    ----------
    model
        A folder, or whatever else a model may be given by.

    Returns
    -------
    str or None
        "mean" for a model that pools so, without a template; "" where it pools as no template
        does; None for what is not known to be such a model.

    Raises
    ------
    CheckpointError
        The folder's files are damaged.
    """
    if not (Path(model) / MODULES).is_file():
        return None
    folder = Folder(Path(model))
    modules = read_modules(folder)
    if modules and modules[0].kind == _TEMPLATE_TRANSFORMER:
        config = read_json(
            folder.open("sentence_bert_config.json"), "the module's config", limit=_MAX_BYTES
        )
        return str(config.get("template"))
    if not {FILTER, POOLING} & {module.name for module in modules}:
        return None
    pooled = [_pooling(folder.folder(m.path), m.kind) for m in modules if m.kind == "Pooling"]
    return "mean" if len(pooled) == 1 and _modes(pooled[0]) == ["mean"] else ""


def transformer_folder(folder: Folder) -> Folder:
    """Return the folder of the Transformer module, which holds a model's checkpoint.

    Parameters
    ----------
    folder
        A folder with ``modules.json``.

    Returns
    -------
    Folder
        Often the same.

    Warns
    -----
    UserWarning
        When modules follow that take the embeddings out of the hidden states' space.
    """
    found: Folder | None = None
    modules = read_modules(folder)
    for kind, path, name, _ in modules:
        inner = folder.folder(path) if path else folder
        if found is None and kind in _TRANSFORMERS:
            found = inner
        elif found is not None and name != FILTER:  # which is known to be linear
            warn_of_module(str(folder.path), path, kind, _pooling(inner, kind))
    if found is None:
        kinds = ", ".join(shown(module.kind) for module in modules) or "none"
        raise CheckpointError(
            f"{folder.path / MODULES}: expected a Transformer among the modules, found {kinds}"
        )
    return found


def warn_of_module(where: str, name: str, kind: str, config: Mapping[str, Any]) -> None:
    """Warn when a module takes embeddings out of the space of the hidden states.

    Parameters
    ----------
    where
        The model, for the message.
    name
        The module's name.
    kind
        The name of its class.
    config
        What is known of it.
    """
    if kind in _KEEP_THE_SPACE or (kind == "Pooling" and not _takes_maximum(config)):
        return
    what = "pools by the maximum" if kind == "Pooling" else "is trained or not linear"
    warn_user(
        f"{where}: the module {shown(name)} ({kind}) after the language model {what}: the model's "
        "embeddings are not in the space of its unembedding matrix, and a filter fitted to that "
        "does not suit them; take embeddings from before this module"
    )


def _pooling(folder: Folder, kind: str) -> dict[str, Any]:
    if kind != "Pooling" or not folder.has("config.json"):
        return {}
    config = read_json(folder.open("config.json"), "the pooling's config", limit=_MAX_BYTES)
    return dict(config)


def _modes(config: Mapping[str, Any]) -> list[Any]:
    """Return how a Pooling module pools: one name, or several."""
    mode = config.get("pooling_mode")  # since version 5.4; before, a flag for each mode
    if mode is None:
        names = {"mean_tokens": "mean", "max_tokens": "max"}
        flags = (key.removeprefix("pooling_mode_") for key, on in config.items() if on is True)
        return [names.get(flag, flag) for flag in flags]
    return list(mode) if isinstance(mode, (list, tuple)) else [mode]


def _takes_maximum(config: Mapping[str, Any]) -> bool:
    return "max" in _modes(config)
