"""Embeddings of a model's own words, which are known for what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["VocabularySample", "description_of"]


class VocabularySample(np.ndarray[Any, np.dtype[np.float32]]):
    """Embeddings (n, d) float32 of words; parts and copies of them are arrays as any.

    Attributes
    ----------
    description : str
        Of which model, which words, in which template; "" for what was made of the array.
    """

    description: str

    def __array_finalize__(self, _: object) -> None:
        self.description = ""

    @classmethod
    def of(cls, rows: NDArray[np.float32], description: str) -> VocabularySample:
        """Return a view of rows, described."""
        sample = rows.view(cls)
        sample.description = description
        return sample


def description_of(X: object) -> str:
    """Return what a vocabulary's sample says of itself, "" for any other array."""
    return X.description if isinstance(X, VocabularySample) else ""
