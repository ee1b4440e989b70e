"""Reading the unembedding matrix of a model from its checkpoint, in row blocks."""

from __future__ import annotations

from embedfilter.checkpoints.opening import open_unembedding
from embedfilter.checkpoints.unembedding import Unembedding

__all__ = ["Unembedding", "open_unembedding"]
