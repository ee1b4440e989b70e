"""Two halves of the rows, so that no row is scored by a method that was fitted on it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

__all__ = ["halves"]

# Unit vectors nearer than this are taken for one text: encoded in another batch, and rounded to
# float16, a text's embedding moves by less.
_SAME = 1e-3
_SKETCH = 8
# A half may hold so much of the rows; beyond, links between rows are given up.
_LARGEST_SHARE = 0.75


def halves(
    unit: NDArray[np.float32],
    links: NDArray[np.int64],
    order: NDArray[Any],
) -> NDArray[np.bool_]:
    """Split rows in two halves of nearly equal size.

    Rows that are duplicates, and rows that are linked, are kept on one side. Groups are dealt
    out in turn, in ascending `order` of their first rows.

    Parameters
    ----------
    unit : (n, d) float32
        Rows of unit length.
    links : (m, 2) int64
        Rows that belong together: the two of a pair, a query and its document.
    order : (n,) array
        Such as labels, so that both halves have rows of each.

    Returns
    -------
    (n,) bool
        Whether a row is in the second half.

    Raises
    ------
    ValueError
        If the rows are duplicates of too few.

    Warns
    -----
    UserWarning
        If there are duplicates, or links had to be given up.
    """
    n = len(unit)
    same = _duplicates(unit)
    if len(same):
        n_copies = n - connected_components(_graph(same, n))[0]
        warnings.warn(
            f"{n_copies} of {n} rows are duplicates of others; duplicates were kept in one half,"
            " so that nothing is scored that was fitted on",
            stacklevel=2,
        )
    side = _deal(np.concatenate([same, links]), order, n)
    if _is_lopsided(side) and len(links):
        warnings.warn(
            "the pairs or judgements link nearly all rows with one another, so that no two halves"
            " are apart; the rows were split one by one, and what crosses the halves is left out",
            stacklevel=2,
        )
        side = _deal(same, order, n)
    if _is_lopsided(side):
        raise ValueError(
            f"X: expected rows that differ, found {n_copies} of {n} that are duplicates of others"
        )
    return side


def _is_lopsided(side: NDArray[np.bool_]) -> bool:
    share = float(side.mean())
    return max(share, 1 - share) > _LARGEST_SHARE


def _deal(links: NDArray[np.int64], order: NDArray[Any], n: int) -> NDArray[np.bool_]:
    """Give each group of linked rows to the half that is smaller so far."""
    n_groups, group = connected_components(_graph(links, n))
    by_order = np.argsort(order, kind="stable")
    seen, first = np.unique(group[by_order], return_index=True)
    sizes = np.bincount(group, minlength=n_groups)
    side_of = np.zeros(n_groups, bool)
    counts = [0, 0]
    for g in seen[np.argsort(first)]:
        smaller = int(counts[1] < counts[0])
        side_of[g] = smaller
        counts[smaller] += int(sizes[g])
    return np.asarray(side_of[group])


def _graph(links: NDArray[np.int64], n: int) -> coo_array:
    return coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(n, n))


def _duplicates(unit: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return pairs of rows (m, 2) that link all rows that are (nearly) the same."""
    rows = np.ascontiguousarray(unit).view(np.dtype((np.void, unit.itemsize * unit.shape[1])))
    _, first, which = np.unique(rows.reshape(-1), return_index=True, return_inverse=True)
    exact = np.stack([np.arange(len(unit)), first[which]], axis=1)
    exact = exact[exact[:, 0] != exact[:, 1]]
    # Rows so near are as near along a few directions, in which a tree finds them.
    distinct = unit[first]
    width = min(_SKETCH, unit.shape[1])
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((unit.shape[1], width)))[
        0
    ].astype(np.float32)
    near = cKDTree(distinct @ directions).query_pairs(_SAME, output_type="ndarray")
    gaps = np.concatenate(
        [
            np.linalg.norm(distinct[some[:, 0]] - distinct[some[:, 1]], axis=1)
            for some in np.array_split(near, max(1, len(near) // 10_000))
        ]
    )
    return np.concatenate([exact, first[near[gaps < _SAME]]]).astype(np.int64)
