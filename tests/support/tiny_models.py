"""Tiny models with random weights of every language model that transformers has."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tiny_configs import CHANGES, CUT, INDEXES, NUMBERS, PER_STAGE, START
from torch import nn

__all__ = ["make", "shrunk"]


def shrunk(value: Any, name: Any = None) -> Any:
    """A part of a configuration with small numbers; `name` is that of the value."""
    if isinstance(value, dict):
        if name == "per_layer_config":
            return {key: part for key, part in value.items() if int(key) < 2}
        return {key: shrunk(part, key) for key, part in value.items() if key not in _LABELS}
    if isinstance(value, list) and value:
        return _shrunk_list(value, name)
    if type(value) is int and isinstance(name, str) and value > 0:
        if name in NUMBERS:
            return min(value, NUMBERS[name])
        if name.endswith(("_id", "_index")) and value > 5:  # a token's
            return 6 + sum(map(ord, name)) % 200
    return value


def _shrunk_list(value: list[Any], name: Any) -> list[Any]:
    if name in CUT:
        return [value[0], value[-1]]
    if name in PER_STAGE:
        return [PER_STAGE[name]] * len(value)
    return [1] if name in INDEXES else [2] if name == "eos_token_id" else value


_LABELS = ("id2label", "label2id")


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, change in changes.items():
        # What names an architecture is a whole section.
        if isinstance(change, dict) and "model_type" not in change:
            change = _merged(result.get(key) or {}, change)  # noqa: PLW2901
        result[key] = change
    return result


def make(name: str, *, tied: bool | None = None, **changes: Any) -> nn.Module:
    """A model of the class `name` with random weights.

    `tied` sets what its configuration says of its head, in all sections; None leaves the default.
    `changes` are made last.
    """
    transformers.utils.logging.disable_progress_bar()
    model_class = getattr(transformers, name)
    start = model_class.config_class(**START.get(name, {})).to_dict()
    settings = _merged(_merged(shrunk(start), CHANGES.get(name, {})), changes)
    config = model_class.config_class.from_dict(settings)
    if tied is not None:
        for section in (config, config.get_text_config()):
            section.tie_word_embeddings = tied
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.normal_()
    return model
