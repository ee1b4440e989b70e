"""Better, smaller text embeddings from a language model's own unembedding matrix.

>>> import embedfilter
>>> f = embedfilter.EmbedFilter.from_checkpoint("model.safetensors", ratio=2)  # doctest: +SKIP
>>> Y = f.transform(X)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from embedfilter._core import available_isas, get_isa, set_isa
from embedfilter.errors import CheckpointError, EmbedFilterError, FilterFileError
from embedfilter.filter import EmbedFilter

if TYPE_CHECKING:
    from embedfilter.checkpoints import open_unembedding

__all__ = [
    "CheckpointError",
    "EmbedFilter",
    "EmbedFilterError",
    "FilterFileError",
    "__version__",
    "available_isas",
    "get_isa",
    "open_unembedding",
    "set_isa",
]


def __getattr__(name: str) -> Any:
    # Readers of checkpoints are loaded at first use, so that importing stays light.
    if name == "open_unembedding":
        from embedfilter.checkpoints import open_unembedding  # noqa: PLC0415

        return open_unembedding
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
