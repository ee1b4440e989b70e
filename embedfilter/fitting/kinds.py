"""Which directions of a spectrum each kind of filter keeps."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "KINDS",
    "check_n_components",
    "kept_directions",
    "resolve_n_components",
]

KINDS = ("edge", "late", "head", "tail", "mid", "random", "identity")

DEFAULT_RATIO = 2
RANDOM_SEED = 0  # the "random" kind is a fixed choice: the same filter every time


def resolve_n_components(
    d: int, *, ratio: float | None, n_components: int | None, kind: str
) -> int:
    """Return how many of `d` directions to keep.

    Parameters
    ----------
    d : int
        Hidden size.
    ratio : number or None
        Keep ``floor(d / ratio)``; at least 1.
    n_components : int or None
        Keep so many. Neither given: ratio 2, except that kind "identity" keeps all.
    kind : str
        One of `KINDS`.

    Raises
    ------
    TypeError, ValueError
        For another kind, both or an impossible number.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    if ratio is not None and n_components is not None:
        raise ValueError(
            f"ratio, n_components: expected one of the two, found ratio={ratio!r}"
            f" and n_components={n_components!r}"
        )
    if n_components is not None:
        k = check_n_components(n_components, d)
    else:
        if ratio is None:
            ratio = 1 if kind == "identity" else DEFAULT_RATIO
        if isinstance(ratio, bool) or not isinstance(ratio, Real):
            raise TypeError(f"ratio: expected a number, found {ratio!r}")
        if not 1 <= ratio <= d:  # NaN is neither
            raise ValueError(f"ratio: expected from 1 to the hidden size {d}, found {ratio!r}")
        k = math.floor(d / ratio)
    if kind == "identity" and k != d:
        raise ValueError(f"kind: 'identity' keeps all {d} components, but {k} were asked for")
    return k


def check_n_components(n_components: int, largest: int, name: str = "n_components") -> int:
    """Return `n_components` as an int from 1 to `largest`, or raise, naming the argument."""
    if isinstance(n_components, bool) or not isinstance(n_components, Integral):
        raise TypeError(f"{name}: expected an integer, found {n_components!r}")
    if not 1 <= n_components <= largest:
        raise ValueError(f"{name}: expected from 1 to {largest}, found {n_components}")
    return int(n_components)


def kept_directions(kind: str, d: int, k: int) -> NDArray[np.int64]:
    """Return the ranks, in descending order of singular value, of the directions kept.

    Source: the reference code of arXiv 2606.07502 for the sets, except that of "late", which
    is ours: a quarter of the directions, or fewer, end at rank e = 3 d / 4, and more of them
    move e by one for every four (docs/calibration.md has what it is worth). The order is ours,
    and is nested: any prefix of it is what the kind keeps with fewer components.

    ==========  =====================================  ===================================
    kind        directions kept                        order
    ==========  =====================================  ===================================
    edge        (d-k)//2 ... (d-k)//2 + k - 1          from the middle outwards
    late        e-k ... e-1 (above)                    from e-1 down, every fourth at the end
    identity    all                                    from the middle outwards, as edge
    head        the last k                             from the last
    tail        the first k                            from the first
    mid         the first ceil(k/2), last floor(k/2)   from both ends inwards, in turn
    random      k at random, the same every time       as drawn
    ==========  =====================================  ===================================

    Parameters
    ----------
    kind : str
    d, k : int
        1 <= k <= d.

    Returns
    -------
    (k,) int64
    """
    if kind in ("edge", "identity"):
        # The set for j components is start(j) ... start(j) + j - 1 with start(j) = (d - j) // 2.
        # Its start moves down by one for every other j: there the new direction is the new
        # start, otherwise it is the new end.
        starts = (d - np.arange(k + 1)) // 2
        sizes = np.arange(1, k + 1)
        order = np.where(starts[1:] < starts[:-1], starts[1:], starts[1:] + sizes - 1)
    elif kind == "late":
        # As with edge: each size's window is the one before with a new start or a new end.
        sizes = np.arange(d + 1)
        ends = np.minimum(3 * d // 4 + np.maximum(0, sizes - d // 4) // 4, d)
        starts = np.maximum(ends - sizes, 0)
        ends = np.minimum(starts + sizes, d)
        order = np.where(starts[1:] < starts[:-1], starts[1:], ends[1:] - 1)[:k]
    elif kind == "head":
        order = np.arange(d - 1, d - 1 - k, -1)
    elif kind == "tail":
        order = np.arange(k)
    elif kind == "mid":
        order = np.where(np.arange(k) % 2 == 0, np.arange(k) // 2, d - 1 - np.arange(k) // 2)
    else:
        order = np.random.default_rng(RANDOM_SEED).permutation(d)[:k]
    return np.asarray(order, np.int64)
