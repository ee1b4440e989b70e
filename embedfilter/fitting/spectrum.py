"""The spectrum of an unembedding matrix: its singular values and right singular vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedfilter import _core
from embedfilter.arrays.embeddings import core_view
from embedfilter.fitting.kinds import SpectrumError

if TYPE_CHECKING:
    from embedfilter.checkpoints.unembedding import Unembedding

__all__ = ["Spectrum", "with_signs"]

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

    All products are the core's: NumPy's BLAS stops its threads at a fork, and a product in
    another thread then never returns.
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
    columns = np.ascontiguousarray(sample.T)
    Q = _orthonormal(np.random.default_rng(0).standard_normal((_N_PEEL, d)))
    for _ in range(_SUBSPACE_ITERATIONS):
        Q = _orthonormal(_product(columns, _product(sample, Q).T).T)
    parts = _core.Gram(_N_PEEL)
    parts.add(_product(sample, Q), 1)
    squares = np.zeros((_N_PEEL, _N_PEEL))
    parts.finish(squares, 1)
    sigma, rotation = _decompose(squares, np.arange(_N_PEEL), 1)
    rest = np.sqrt(max(energy - float(np.sum(sigma**2)), 0.0) / (d - _N_PEEL))
    p = max(1, int(np.count_nonzero(sigma > _STANDS_OUT * rest)))
    return np.ascontiguousarray(_product(np.ascontiguousarray(Q.T), rotation[:p]).T)


def _product(X: NDArray[np.float32], Y: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``X @ Y.T`` (n, k) of (n, d) and (k, d), in float32."""
    out = np.empty((len(X), len(Y)), np.float32)
    packed = _core.PackedFilter(np.ascontiguousarray(Y, np.float32))
    packed.project(X, out, "float32", False, None, None, 1)
    return out


def _orthonormal(Y: NDArray[Any]) -> NDArray[np.float32]:
    """Return orthonormal rows (k, d) that span those of Y; zeros for one that adds nothing."""
    Q = Y.astype(np.float64)
    for i in range(len(Q)):
        length = np.sqrt(np.sum(Q[i] * Q[i]))
        for j in (*range(i), *range(i)):  # twice: the first time leaves what rounding adds
            Q[i] -= np.sum(Q[i] * Q[j]) * Q[j]
        left = np.sqrt(np.sum(Q[i] * Q[i]))
        Q[i] *= 1 / left if left > 1e-6 * length else 0.0
    return Q.astype(np.float32)


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
