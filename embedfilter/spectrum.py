"""The spectrum of an unembedding matrix, and which of its directions a filter keeps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfilter import _core

__all__ = ["KINDS", "Spectrum", "kept_directions", "resolve_n_components"]

KINDS = ("edge", "head", "tail", "mid", "random", "identity")

DEFAULT_RATIO = 2
RANDOM_SEED = 0  # the "random" kind is a fixed choice: the same filter every time


@dataclass(frozen=True)
class Spectrum:
    """Singular values and right singular vectors of a matrix W (V, d).

    Attributes
    ----------
    singular_values : (d,) float64
        Descending.
    directions : (d, d) float64
        Row i is the unit right singular vector of ``singular_values[i]``, with the sign that
        makes its entry of largest magnitude positive.
    """

    singular_values: NDArray[np.float64]
    directions: NDArray[np.float64]

    @classmethod
    def of_blocks(
        cls, blocks: Iterable[tuple[int, NDArray[Any]]], d: int, *, n_threads: int
    ) -> Spectrum:
        """Find the spectrum of a matrix that comes as blocks of rows.

        The right singular vectors of W are the eigenvectors of its Gram matrix ``W.T @ W``,
        which is summed in float64 block by block, so that only (d, d) numbers are held
        whatever the number of rows; the singular values are the square roots of its
        eigenvalues.

        Parameters
        ----------
        blocks : iterable of (start, rows)
            `start` is the index of the first row, for messages; `rows` is (n, d) of float16,
            bfloat16, float32 or float64.
        d : int
        n_threads : int

        Raises
        ------
        ValueError
            If W has NaN or infinity (the message counts the rows up to the end of the block
            where the first was found), is zero, or its squares overflow float64.
        """
        gram = np.zeros((d, d), np.float64)
        for start, rows in blocks:
            try:
                _core.gram_add(gram, core_view(rows), n_threads)
            except ValueError as error:
                if len(error.args) != 3:  # not about a row
                    raise
                _, row, count = error.args
                raise ValueError(
                    f"expected finite numbers, found NaN or infinity in row {start + row}"
                    f" ({count} such rows among rows {start} to {start + len(rows) - 1})"
                ) from None
        diagonal = np.diagonal(gram)
        if not np.isfinite(diagonal).all():
            raise ValueError("expected numbers whose squares fit float64, found larger ones")
        if not diagonal.any():
            raise ValueError("expected a matrix with a spectrum, found only zeros")
        values = _core.eigh(gram, n_threads)[::-1]
        directions = gram[::-1]  # in place of the Gram matrix: eigh has put them there
        _fix_signs(directions)
        # Rounding leaves eigenvalues that are zero in truth a little below zero.
        return cls(np.sqrt(np.maximum(values, 0.0)), directions)


def core_view(rows: NDArray[Any]) -> NDArray[Any]:
    """Return bfloat16 as the uint16 that the C core takes for it, other types as they are."""
    return rows.view(np.uint16) if rows.dtype.name == "bfloat16" else rows


def _fix_signs(directions: NDArray[np.float64]) -> None:
    """Make each row's entry of largest magnitude positive, in place.

    Magnitudes that float32 cannot tell apart count as equal and the first decides, so that
    the last bits of a decomposition do not turn a sign.
    """
    for row in directions:
        magnitude = np.abs(row)
        if row[np.argmax(magnitude >= magnitude.max() * (1 - 1e-7))] < 0:
            np.negative(row, out=row)


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
        if not (math.isfinite(ratio) and 1 <= ratio <= d):
            raise ValueError(f"ratio: expected from 1 to the hidden size {d}, found {ratio!r}")
        k = math.floor(d / ratio)
    if kind == "identity" and k != d:
        raise ValueError(f"kind: 'identity' keeps all {d} components, but {k} were asked for")
    return k


def check_n_components(n_components: int, largest: int) -> int:
    """Return `n_components` as an int from 1 to `largest`, or raise."""
    if isinstance(n_components, bool) or not isinstance(n_components, Integral):
        raise TypeError(f"n_components: expected an integer, found {n_components!r}")
    if not 1 <= n_components <= largest:
        raise ValueError(f"n_components: expected from 1 to {largest}, found {n_components}")
    return int(n_components)


def kept_directions(kind: str, d: int, k: int) -> NDArray[np.int64]:
    """Return the ranks, in descending order of singular value, of the directions kept.

    Source: the reference code of arXiv 2606.07502 for the sets. The order is ours, and is
    nested: any prefix of it is what the kind keeps with fewer components.

    ==========  =====================================  ===================================
    kind        directions kept                        order
    ==========  =====================================  ===================================
    edge        (d-k)//2 ... (d-k)//2 + k - 1          from the middle outwards
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
    elif kind == "head":
        order = np.arange(d - 1, d - 1 - k, -1)
    elif kind == "tail":
        order = np.arange(k)
    elif kind == "mid":
        order = np.where(np.arange(k) % 2 == 0, np.arange(k) // 2, d - 1 - np.arange(k) // 2)
    else:
        order = np.random.default_rng(RANDOM_SEED).permutation(d)[:k]
    return np.asarray(order, np.int64)


def check_cuts(singular_values: NDArray[np.float64], kept: NDArray[np.int64]) -> None:
    """Check that the kept subspace is determined where it is cut from the rest.

    Between two equal singular values any rotation of the two directions is as good, so the
    subspace on either side of a cut between them is arbitrary.

    Raises
    ------
    ValueError
        If a cut falls among singular values that are zero (a matrix of low rank).

    Warns
    -----
    UserWarning
        If a cut falls between singular values that rounding cannot tell apart.
    """
    d = len(singular_values)
    squares = singular_values**2
    noise = 8 * d * np.finfo(np.float64).eps * squares[0]  # of the eigenvalues
    is_kept = np.zeros(d, bool)
    is_kept[kept] = True
    rank = int(np.count_nonzero(squares > noise))
    for i in np.flatnonzero(is_kept[:-1] != is_kept[1:]):
        if i >= rank:
            raise ValueError(
                f"expected a matrix of rank over {i + 1}, so that the kept directions are"
                f" determined, found rank {rank} of {d}: keep fewer components"
            )
        if squares[i] - squares[i + 1] <= noise:
            warnings.warn(
                f"singular values {i} and {i + 1} of {d} are equal to rounding"
                f" ({singular_values[i]:.9g}, {singular_values[i + 1]:.9g}), and one is kept, the"
                " other is not: which subspace is kept is arbitrary there",
                UserWarning,
                stacklevel=4,
            )
