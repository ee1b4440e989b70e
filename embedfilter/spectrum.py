"""The spectrum of an unembedding matrix, and which of its directions a filter keeps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedfilter import _core
from embedfilter.embeddings import core_view

if TYPE_CHECKING:
    from embedfilter.checkpoints import Unembedding

__all__ = [
    "KINDS",
    "Spectrum",
    "SpectrumError",
    "check_cuts",
    "check_n_components",
    "kept_directions",
    "resolve_n_components",
    "rounding_of_squares",
    "with_signs",
]

KINDS = ("edge", "late", "head", "tail", "mid", "random", "identity")

DEFAULT_RATIO = 2
RANDOM_SEED = 0  # the "random" kind is a fixed choice: the same filter every time

# Directions looked for in a sample of rows, and what is peeled: those over so many times the
# root mean square of the others. What they leave may reach so many times the bulk (at 16
# times, the bulk turns by about 2e-5, a tenth of what a float32 SVD turns it by).
_N_PEEL = 8
_STANDS_OUT = 3.0
_MOST_LEFT = 16.0
_SAMPLE_ROWS, _SAMPLE_GROUPS = 2048, 64
_SUBSPACE_ITERATIONS = 4
# Multiply-adds (V d^2) up to which float64 costs under a tenth of a second.
_SMALL_WORK = 1 << 30
# Sums of squares that lose nothing at either end of float64's range.
_LEAST_SQUARE, _LARGEST_SQUARE = 1e-280, 1e300
# Root mean squares whose squares, and sums of them, are ordinary float32 numbers.
_LEAST_MAGNITUDE, _LARGEST_MAGNITUDE = 1e-12, 1e12


class SpectrumError(ValueError):
    """A matrix without a usable spectrum; the message does not say which matrix."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values and right singular vectors, all or some, of a matrix W (V, d).

    Attributes
    ----------
    singular_values : (d,) float64
        Descending.
    directions : (k, d) float64
        Row i is the unit right singular vector of ``singular_values[ranks[i]]``, the ranks
        being those that were asked for, with the sign that makes its entry of largest
        magnitude positive.
    """

    singular_values: NDArray[np.float64]
    directions: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        W: Unembedding,
        ranks: NDArray[np.int64] | None = None,
        *,
        n_threads: int,
        progress: bool = False,
    ) -> Spectrum:
        """Find the spectrum of an unembedding matrix (V, d).

        The right singular vectors of W are the eigenvectors of its Gram matrix ``W.T @ W``,
        which is summed block by block, so that memory does not grow with the number of rows;
        the singular values are the square roots of its eigenvalues.

        The sum runs in float32, with the dominant directions of a sample of rows taken out
        first (see csrc/core/gram.c), wherever that is accurate enough; otherwise in float64.

        Parameters
        ----------
        W : Unembedding
        ranks : (k,) int64, optional
            Which directions, by rank in descending order of singular value; by default all.
        n_threads : int
        progress : bool
            Show a progress bar on standard error.

        Raises
        ------
        SpectrumError
            If W has NaN or infinity (the message counts such rows up to the end of the block
            where the first was found), is zero, or has numbers whose squares leave float64's
            range.
        """
        d = W.shape[1]
        if ranks is None:
            ranks = np.arange(d)
        basis = _dominant_directions(W)
        if basis is not None:
            try:
                gram = _sum_gram(W, basis, n_threads, progress)
            except OverflowError:
                pass  # of float32: float64 may do
            else:
                wanted = np.concatenate([ranks, np.arange(_N_PEEL)])
                sigma, directions = _decompose(gram, wanted, n_threads)
                if _was_peeled_by(basis, sigma, directions[len(ranks) :]):
                    return cls(sigma, with_signs(directions[: len(ranks)]))
        exact = _sum_gram(W, None, n_threads, progress)
        diagonal = np.diagonal(exact)
        largest = float(diagonal.max())  # NaN where there is one
        if not _LEAST_SQUARE < largest * d < _LARGEST_SQUARE:
            found = (
                f"a column whose squares add up to {largest:.3g}"
                if largest
                else "only zeros, or numbers whose squares are"
            )
            raise SpectrumError(
                "expected numbers whose squares, added up, are within float64's range, found "
                + found
            )
        sigma, directions = _decompose(exact, ranks, n_threads)
        return cls(sigma, with_signs(directions))


def _decompose(
    gram: NDArray[np.float64], ranks: NDArray[np.int64], n_threads: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return all singular values (d,), and the directions (k, d) of some, of W.

    Its Gram matrix (d, d), of which the upper triangle is read, is lost.
    """
    values, directions = _core.eigh(gram, len(gram) - 1 - ranks, n_threads)
    # Rounding leaves eigenvalues that are zero in truth a little below zero.
    return np.sqrt(np.maximum(values[::-1], 0.0)), directions


def _was_peeled_by(
    basis: NDArray[np.float32], sigma: NDArray[np.float64], top: NDArray[np.float64]
) -> bool:
    """Tell whether what `basis` left in the rows was small enough for float32 sums.

    The sums are exact to about 1e-7 of the square of the largest singular value left, so
    that must not be far above the bulk's. A sample may have missed a direction, which the
    `top` ones (p, d) tell.
    """
    left = top - (top @ basis.T) @ basis
    sigma_left = sigma[: len(top)] * np.linalg.norm(left, axis=1)
    return bool(sigma_left.max() <= _MOST_LEFT * float(np.median(sigma)))


def _dominant_directions(W: Unembedding) -> NDArray[np.float32] | None:
    """Return the directions (p, d) that dominate a sample of the rows of W.

    The top singular vectors of the sample, by subspace iteration, as far as they stand out
    from the rest. None where the sum had better run in float64: W is float64, small, or of
    numbers whose squares leave float32.
    """
    V, d = W.shape
    if W.dtype == "F64" or V * d * d < _SMALL_WORK or d < 2 * _N_PEEL:
        return None
    group = _SAMPLE_ROWS // _SAMPLE_GROUPS
    starts = np.linspace(0, V - group, _SAMPLE_GROUPS).astype(int)
    sample = np.concatenate([W.rows(start, start + group).astype(np.float32) for start in starts])
    with np.errstate(over="ignore", invalid="ignore"):
        energy = float(np.sum(sample * sample, dtype=np.float64))
    magnitude = np.sqrt(energy / sample.size)
    if not _LEAST_MAGNITUDE < magnitude < _LARGEST_MAGNITUDE:  # NaN too
        return None
    Q = np.random.default_rng(0).standard_normal((d, _N_PEEL)).astype(np.float32)
    for _ in range(_SUBSPACE_ITERATIONS):
        Q = np.linalg.qr(sample.T @ (sample @ Q))[0]
    _, sigma, rotation = np.linalg.svd(sample @ Q, full_matrices=False)
    rest = np.sqrt(max(energy - float(np.sum(sigma**2)), 0.0) / (d - _N_PEEL))
    p = max(1, int(np.count_nonzero(sigma > _STANDS_OUT * rest)))
    return np.ascontiguousarray(rotation[:p] @ Q.T, np.float32)


def _sum_gram(
    W: Unembedding, basis: NDArray[np.float32] | None, n_threads: int, progress: bool
) -> NDArray[np.float64]:
    """Return the upper triangle of ``W.T @ W``; OverflowError if float32 sums overflow."""
    V, d = W.shape
    total = _core.Gram(d, basis)
    blocks = W.blocks()
    for start, rows in _with_progress(blocks, V) if progress else blocks:
        try:
            total.add(core_view(rows), n_threads)
        except ValueError as error:
            if len(error.args) != 3:  # not about a row
                raise
            _, row, count = error.args
            raise SpectrumError(
                f"expected finite numbers, found NaN or infinity in row {start + row}"
                f" ({count} such rows among rows {start} to {start + len(rows) - 1})"
            ) from None
    gram = np.zeros((d, d), np.float64)
    total.finish(gram, n_threads)
    if basis is not None and not np.isfinite(np.diagonal(gram)).all():
        raise OverflowError
    return gram


def _with_progress(
    blocks: Iterator[tuple[int, NDArray[Any]]], n_rows: int
) -> Iterator[tuple[int, NDArray[Any]]]:
    from tqdm import tqdm  # noqa: PLC0415 - only where a bar is asked for

    with tqdm(total=n_rows, desc="fit", unit=" rows", unit_scale=True) as bar:
        for start, rows in blocks:
            yield start, rows
            bar.update(len(rows))


def with_signs(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make each row's entry of largest magnitude positive, in place, and return the rows.

    Magnitudes that float32 cannot tell apart count as equal and the first decides, so that
    the last bits of a decomposition do not turn a sign.
    """
    for row in directions:
        magnitude = np.abs(row)
        if row[np.argmax(magnitude >= magnitude.max() * (1 - 1e-7))] < 0:
            np.negative(row, out=row)
    return directions


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
    is ours: always without the last eighth, the rest of the cut at the large singular values
    (docs/calibration.md has what it is worth). The order is ours, and is nested: any prefix of
    it is what the kind keeps with fewer components.

    ==========  =====================================  ===================================
    kind        directions kept                        order
    ==========  =====================================  ===================================
    edge        (d-k)//2 ... (d-k)//2 + k - 1          from the middle outwards
    late        e-k ... e-1, with e = floor(7 d / 8)   e-1, e-2 ... 0, then e, e+1 ... d-1
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
        end = 7 * d // 8
        order = np.concatenate([np.arange(end - 1, -1, -1), np.arange(end, d)])[:k]
    elif kind == "head":
        order = np.arange(d - 1, d - 1 - k, -1)
    elif kind == "tail":
        order = np.arange(k)
    elif kind == "mid":
        order = np.where(np.arange(k) % 2 == 0, np.arange(k) // 2, d - 1 - np.arange(k) // 2)
    else:
        order = np.random.default_rng(RANDOM_SEED).permutation(d)[:k]
    return np.asarray(order, np.int64)


def rounding_of_squares(singular_values: NDArray[np.float64]) -> float:
    """Return how far the squares of singular values may be off: smaller ones may be zero."""
    d = len(singular_values)
    return float(8 * d * np.finfo(np.float64).eps * singular_values[0] ** 2)


def check_cuts(
    singular_values: NDArray[np.float64], kept: NDArray[np.int64], *, stacklevel: int
) -> None:
    """Check that the kept subspace is determined where it is cut from the rest.

    Between two equal singular values any rotation of the two directions is as good, so the
    subspace on either side of a cut between them is arbitrary. `stacklevel` is that of the
    warning, seen from the caller.

    Raises
    ------
    SpectrumError
        If a cut falls among singular values that are zero (a matrix of low rank).

    Warns
    -----
    UserWarning
        If a cut falls between singular values that rounding cannot tell apart.
    """
    d = len(singular_values)
    squares = singular_values**2
    noise = rounding_of_squares(singular_values)
    is_kept = np.zeros(d, bool)
    is_kept[kept] = True
    rank = int(np.count_nonzero(squares > noise))
    for i in np.flatnonzero(is_kept[:-1] != is_kept[1:]):
        if i >= rank:
            raise SpectrumError(
                f"expected a matrix of rank over {i + 1}, so that the kept directions are"
                f" determined, found rank {rank} of {d}: keep fewer components"
            )
        if squares[i] - squares[i + 1] <= noise:
            warnings.warn(
                f"singular values {i} and {i + 1} of {d} are equal to rounding"
                f" ({singular_values[i]:.9g}, {singular_values[i + 1]:.9g}), and one is kept, the"
                " other is not: which subspace is kept is arbitrary there",
                UserWarning,
                stacklevel=stacklevel + 1,
            )
