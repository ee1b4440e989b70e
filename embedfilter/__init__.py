"""Better, smaller text embeddings from a language model's own unembedding matrix.

>>> import embedfilter
>>> f = embedfilter.EmbedFilter.from_checkpoint("model.safetensors", ratio=2)  # doctest: +SKIP
>>> Y = f.transform(X)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

if importlib.util.find_spec("embedfilter._core") is None:
    raise ImportError(
        "embedfilter's C core is not beside its Python files: this is the source folder, and the"
        " package installed elsewhere. Leave the folder, or install with 'pip install -e .'"
    )
from embedfilter.errors import CheckpointError, EmbedFilterError, FilterFileError
from embedfilter.version import __version__

if TYPE_CHECKING:
    from embedfilter._core import available_isas, get_isa, set_isa
    from embedfilter.checkpoints import open_unembedding
    from embedfilter.evaluation import evaluate
    from embedfilter.filter import EmbedFilter
    from embedfilter.integrations.encoder import encoder, vocabulary_sample
    from embedfilter.lens.diagnostics import diagnose
    from embedfilter.lens.logit_lens import LogitLens

__all__ = [
    "CheckpointError",
    "EmbedFilter",
    "EmbedFilterError",
    "FilterFileError",
    "LogitLens",
    "__version__",
    "available_isas",
    "diagnose",
    "encoder",
    "evaluate",
    "get_isa",
    "open_unembedding",
    "set_isa",
    "vocabulary_sample",
]

# Loaded at first use: importing stays light, and where EMBEDFILTER_ISA is wrong, with which the
# C core refuses to load, the command line can say so in one line.
_LAZY = {
    "evaluate": "embedfilter.evaluation",
    "EmbedFilter": "embedfilter.filter",
    "LogitLens": "embedfilter.lens.logit_lens",
    "available_isas": "embedfilter._core",
    "diagnose": "embedfilter.lens.diagnostics",
    "encoder": "embedfilter.integrations.encoder",
    "get_isa": "embedfilter._core",
    "open_unembedding": "embedfilter.checkpoints",
    "set_isa": "embedfilter._core",
    "vocabulary_sample": "embedfilter.integrations.encoder",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
