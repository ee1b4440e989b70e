"""Rows of an unembedding matrix that stand for no token of their own: zeros, and copies.

Vocabularies are padded to round numbers. Rows of zeros do not move the singular vectors, but
many copies of one row add a direction of their own.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedfilter.errors import warn_user

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from embedfilter.checkpoints.unembedding import Unembedding

__all__ = ["RowCounts", "count_rows", "warn_of_copies"]

# Copies of one row: a few are ordinary, over a twentieth of the rows is a flaw.
_MOST_COPIES, _LARGEST_SHARE = 16, 0.05
_SAMPLE_GROUPS, _GROUP_ROWS = 64, 16


@dataclass(frozen=True)
class RowCounts:
    """How many rows of a matrix are not of their own.

    Attributes
    ----------
    zero : int
        Rows of zeros.
    copies : int
        Other rows that equal an earlier one.
    """

    zero: int
    copies: int


def count_rows(
    blocks: Iterable[tuple[int, NDArray[Any]]], progress: Callable[[int], object] | None = None
) -> RowCounts:
    """Count the rows of zeros and the copies among all rows.

    Parameters
    ----------
    blocks
        Row blocks of floats, as from `Unembedding.blocks`.
    progress
        Called with the number of rows after each block.

    Returns
    -------
    RowCounts
        The counts; rows are compared by 64 bits of a hash.
    """
    n_zero = 0
    hashes = []
    for _, rows in blocks:
        is_zero = _is_zero(rows)
        n_zero += int(is_zero.sum())
        hashes.append(_hashes(rows)[~is_zero])
        if progress is not None:
            progress(len(rows))
    found = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    return RowCounts(n_zero, len(found) - len(np.unique(found)))


def warn_of_copies(W: Unembedding) -> None:
    """Warn when copies of one row, not of zeros, are a large share of a sample of the rows.

    Parameters
    ----------
    W
        The open matrix.
    """
    V = W.shape[0]
    n_groups = min(_SAMPLE_GROUPS, -(-V // _GROUP_ROWS))
    starts = [V * group // n_groups for group in range(n_groups + 1)]
    groups = [(start, min(start + _GROUP_ROWS, end)) for start, end in itertools.pairwise(starts)]
    # As they are stored, which takes no decoding.
    raw = np.concatenate([W.stored_rows(start, stop) for start, stop in groups])
    numbers = np.concatenate([np.arange(start, stop) for start, stop in groups])
    _, first, counts = np.unique(_hashes(raw), return_index=True, return_counts=True)
    for found in np.flatnonzero(counts > max(_MOST_COPIES, _LARGEST_SHARE * len(raw))):
        row = int(numbers[first[found]])
        if W.rows(row, row + 1).any():
            warn_user(
                f"{W.source}: tensor '{W.name}': about {counts[found] / len(raw):.0%} of its "
                f"{V} rows are copies of row {row}, as where a vocabulary is padded with one row "
                "that is not zero; they add a direction of their own to the spectrum"
            )


def _words(rows: NDArray[Any]) -> NDArray[Any]:
    """Return the bits of rows as the largest integers that their length allows."""
    return rows.view(f"u{math.gcd(8, rows.shape[1] * rows.itemsize)}")


def _is_zero(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows are zeros, of either sign."""
    bits = np.dtype(f"u{rows.itemsize}")
    without_sign = np.full(rows.shape[1], np.iinfo(bits).max >> 1, bits)[None]
    zero: NDArray[np.bool_] = ~(_words(rows) & _words(without_sign)).any(axis=1)
    return zero


def _hashes(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a number for each row: the same for copies, others by chance of 1 in 2^64 only."""
    words = _words(rows)
    factors = np.random.default_rng(0).integers(1 << 64, size=words.shape[1], dtype=np.uint64)
    hashes: NDArray[np.uint64] = words.astype(np.uint64, copy=False) @ (factors | np.uint64(1))
    return hashes
