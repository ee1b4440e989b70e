"""Whether the directions that a filter keeps are determined where they are cut from the rest.

A filter is a subspace; it turns where it is cut between two directions whose singular values are
near each other, by the error of the sum ``W.T @ W`` over the gap of their squares (Davis, Kahan,
The rotation of eigenvectors by a perturbation, SIAM J. Numerical Analysis 7(1), 1970).

What the data does not determine: the stored values of W are taken as exact, except that singular
values as small as rounding makes them are nobody's intention. Each stored number may be off by
half a step of its type, or by a few of float32's where it is the result of such arithmetic, and a
(V, d) matrix of independent errors of size s has singular values up to s (sqrt(V) + sqrt(d)).
Directions under that, or under what the sum can resolve, are noise: to keep some and cut others is
refused. What is above it but too near its neighbour is warned of, in numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedfilter.errors import warn_user

__all__ = [
    "LARGEST_SINE",
    "Accuracy",
    "SpectrumError",
    "check_cuts",
    "noise_of_storage",
    "rounding_of_squares",
]

# Of the angle that a filter's subspace may be turned by in silence: a third of what a float32 SVD
# turns that of a real head by.
LARGEST_SINE = 1e-4
# The error at a cut is that of a few pairs of directions: it may be so many times the mean.
_DEVIATIONS = 4.0
# The error of float64 sums and of the eigenvectors, between two directions: so many roundings of
# the square of the largest singular value, in root mean square. Up to 2.5 were seen.
_ROUNDINGS = 4.0
# Directions that were taken out of the rows, as they stand out by this (see spectrum.py), have
# errors of their own size.
_STANDS_OUT = 3.0
# The root mean square of rounding, of numbers of all magnitudes, is 0.21 steps of a type; and
# float32 arithmetic is off by a few times its own.
_STEPS, _FLOAT32_STEPS = 0.25, 4.0
_EPS = {"F64": 2.0**-52, "F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
_LEAST_STEP = {"F16": 2.0**-24}


class SpectrumError(ValueError):
    """A matrix without a usable spectrum; the message does not say which matrix."""


@dataclass(frozen=True)
class Accuracy:
    """How exact a spectrum is.

    Attributes
    ----------
    error : float
        The root mean square error of u^T W^T W v, for two directions u and v.
    noise : float
        Singular values up to this may be rounding alone.
    left : float
        What the error is relative to: the mean square of the singular values without the
        dominant directions, where these were taken out. Theirs are as much larger as they are.
    """

    error: float = 0.0
    noise: float = 0.0
    left: float = float("inf")

    def at_least(self, singular_values: NDArray[np.float64]) -> Accuracy:
        """Return this with at least the error of sums in float64 and of an eigen-decomposition."""
        rounding = float(np.finfo(np.float64).eps * singular_values[0] ** 2)
        return Accuracy(max(self.error, _ROUNDINGS * rounding), self.noise, self.left)

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str]) -> Accuracy:
        """Return that of a fitted filter, as far as it is known."""
        try:
            error, noise, left = map(float, metadata.get("accuracy", "").split())
        except ValueError:
            return cls()
        good = 0 <= error < np.inf and 0 <= noise < np.inf and left > 0
        return cls(error, noise, left) if good else cls()

    def __str__(self) -> str:
        return f"{self.error:.3g} {self.noise:.3g} {self.left:.3g}"

    def resolves(self, singular_values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell which singular values (d,) stand out from rounding and from error."""
        # A random symmetric matrix has eigenvalues up to 2 sqrt(d) times its elements.
        largest = 2 * np.sqrt(len(singular_values)) * self.error
        return np.asarray(singular_values > max(self.noise, np.sqrt(largest)), bool)

    def sine(self, singular_values: NDArray[np.float64], kept: NDArray[np.int64]) -> float:
        """Return a bound of the sine of the angle by which errors turn the kept subspace.

        To first order an error e turns direction i towards direction j by e over the gap of the
        squares of their singular values; the bound is the root of the sum of squares over all
        pairs of one that is kept and one that is not.

        Parameters
        ----------
        singular_values : (d,) float64, descending
        kept : (k,) int64
            Ranks.

        Returns
        -------
        float
            Infinity where a singular value on one side of a cut is equal to one on the other.
        """
        squares = np.square(singular_values)
        sizes = np.maximum(1.0, np.sqrt(squares / self.left) / _STANDS_OUT)
        outside = np.ones(len(squares), bool)
        outside[kept] = False
        total = 0.0
        with np.errstate(divide="ignore"):
            for i in kept if outside.any() else ():
                turns = sizes[i] * sizes[outside] * self.error / (squares[outside] - squares[i])
                total += float(np.sum(np.square(turns)))
        return float(_DEVIATIONS * np.sqrt(total))


def noise_of_storage(dtype: str, shape: tuple[int, int], row_squares: NDArray[np.float64]) -> float:
    """Return the largest singular value that rounding alone gives a matrix.

    Parameters
    ----------
    dtype : str
        As `Unembedding.dtype`; what is quantised counts as float32, into which it is decoded.
    shape : (V, d)
    row_squares : (n,) float64
        The squared length of some rows. Few very long ones have little to do with the noise of
        the others, and count as 16 times the middle one.
    """
    V, d = shape
    some = row_squares[row_squares > 0]
    if not len(some):
        return 0.0
    size = np.sqrt(np.minimum(row_squares, 16 * np.median(some)).mean() / d)
    eps = _EPS.get(dtype, _EPS["F32"])
    steps = max(_STEPS * eps, _FLOAT32_STEPS * min(eps, _EPS["F32"]))
    step = max(steps * size, _STEPS * _LEAST_STEP.get(dtype, 0.0))
    return float(step * (np.sqrt(V) + np.sqrt(d)))


def rounding_of_squares(singular_values: NDArray[np.float64]) -> float:
    """Return how far the squares of singular values may be off: smaller ones may be zero."""
    d = len(singular_values)
    return float(8 * d * np.finfo(np.float64).eps * singular_values[0] ** 2)


def check_cuts(
    singular_values: NDArray[np.float64], kept: NDArray[np.int64], accuracy: Accuracy
) -> None:
    """Check that the kept subspace is determined where it is cut from the rest.

    Raises
    ------
    SpectrumError
        If a cut falls among singular values that are noise (a matrix of low rank).

    Warns
    -----
    UserWarning
        If errors may turn the subspace by a sine of more than `LARGEST_SINE`: the cut falls
        between singular values that are equal or nearly so.
    """
    d = len(singular_values)
    is_kept = np.zeros(d, bool)
    is_kept[kept] = True
    cuts = np.flatnonzero(is_kept[:-1] != is_kept[1:])
    rank = int(np.count_nonzero(accuracy.resolves(singular_values)))
    if len(cuts) and cuts[-1] >= rank:
        i = int(cuts[-1])
        raise SpectrumError(
            f"expected a matrix of rank over {i + 1}, so that the kept directions are"
            f" determined, found rank {rank} of {d}, singular value {i} being"
            f" {singular_values[i] / singular_values[0]:.2g} of the largest: keep fewer components"
        )
    bound = accuracy.sine(singular_values, kept)
    if bound <= LARGEST_SINE:
        return
    gaps = singular_values[cuts] ** 2 - singular_values[cuts + 1] ** 2
    i = int(cuts[np.argmin(gaps)])
    turned = "is arbitrary there" if bound >= 1 else f"may be turned by a sine of {bound:.1g}"
    warn_user(
        f"singular values {i} and {i + 1} of {d} are too near each other"
        f" ({singular_values[i]:.9g}, {singular_values[i + 1]:.9g}) for the cut between them: the"
        f" subspace that is kept {turned}"
    )
