"""Matrices that are cut into parts, each in a file of its own, as training in parallel cuts them.

Of the tensors of such a checkpoint every file has a part under the same name. How a tensor was
cut the files do not say; that of the two that are looked at is worked out in `layouts`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from embedfilter.checkpoints.checkpoint import Checkpoint, StoredRows

__all__ = ["JoinedParts", "JoinedRows"]


class JoinedRows:
    """Rows of a matrix whose parts lie in several places.

    Parameters
    ----------
    parts
        The rows of each part, in order; closed with this object.
    counts
        How many rows each has.
    axis
        0: the parts' rows follow one another; 1: each has some columns of all rows.
    """

    def __init__(self, parts: Sequence[StoredRows], counts: Sequence[int], *, axis: int) -> None:
        self._parts = parts
        self._ends = list(itertools.accumulate(counts, initial=0))
        self._axis = axis

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the stored bytes of rows `start` to `stop`, shape (stop - start, row_bytes)."""
        if self._axis == 1:
            return np.concatenate([part.read(start, stop) for part in self._parts], axis=1)
        places = zip(self._parts, itertools.pairwise(self._ends), strict=True)
        pieces = [
            part.read(max(start, first) - first, min(stop, end) - first)
            for part, (first, end) in places
            if max(start, first) < min(stop, end)
        ]
        return np.concatenate(pieces) if pieces else self._parts[0].read(0, 0)

    def decode(self, raw: NDArray[np.uint8], start: int) -> NDArray[Any]:
        """Decode bytes that `read` returned; `start` plays no part here."""
        return self._parts[0].decode(raw, start)

    def close(self) -> None:
        """Close the parts."""
        for part in self._parts:
            part.close()


class JoinedParts:
    """The parts of a checkpoint each of which has a part of every tensor.

    Parameters
    ----------
    parts
        The open parts in their order; closed with this object.
    axes
        Of tensors that are cut, the axis along which their parts follow one another. The others
        are taken from the first part.

    Attributes
    ----------
    where : str
        The path of the first part, for messages.
    """

    def __init__(self, parts: Sequence[Checkpoint], axes: Mapping[str, int]) -> None:
        self.where = parts[0].where
        self._parts = parts
        self._axes = dict(axes)

    @property
    def names(self) -> Sequence[str]:
        """The tensors' names."""
        return self._parts[0].names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, whole."""
        shape = list(self._parts[0].shape(name))
        axis = self._axes.get(name)
        if axis is not None:
            shape[axis] = sum(part.shape(name)[axis] for part in self._parts)
        return tuple(shape)

    def dtype(self, name: str) -> str:
        """Return the storage type of a tensor."""
        return self._parts[0].dtype(name)

    def rows(self, name: str) -> StoredRows:
        """Return the rows of a matrix, whole."""
        axis = self._axes.get(name)
        if axis is None:
            return self._parts[0].rows(name)
        counts = [part.shape(name)[0] for part in self._parts]
        return JoinedRows([part.rows(name) for part in self._parts], counts, axis=axis)

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return all bytes of a tensor, shape (n_bytes,)."""
        if name not in self._axes:
            return self._parts[0].read(name)
        return self.rows(name).read(0, self.shape(name)[0]).reshape(-1)

    def file_of(self, name: str) -> str:
        """Return the path of the first part."""
        return self.where

    def doubts(self) -> tuple[str, ...]:
        """Return why a head may be missing among the names: nothing."""
        return ()

    def remark(self, name: str) -> str:
        """Return that a tensor was put together, where it was."""
        if name not in self._axes:
            return ""
        what = ("rows", "columns")[self._axes[name]]
        return f"; put together from {len(self._parts)} parts, its {what} one after another"

    def close(self, keep: str | None = None) -> None:
        """Close the parts, but those that hold the tensor `keep`."""
        for part in self._parts:
            part.close(keep if keep in self._axes or part is self._parts[0] else None)
