"""The ways to make embeddings smaller or better that are compared.

A method is fitted on rows that are not scored, and gives a map from rows (n, d) and a number of
dimensions k to rows (n, k).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from embedfilter.filter import EmbedFilter

__all__ = [
    "CALIBRATED",
    "CONTROLS",
    "NO_FILTER",
    "PCA_NAME",
    "VOCABULARY",
    "Method",
    "all_methods",
    "to_calibrate",
]

NO_FILTER = "no filter"
PCA_NAME = "PCA"
CALIBRATED = "calibrated"
VOCABULARY = "vocabulary"
# Ways to cut dimensions that cost nothing and know nothing.
CONTROLS = ("first coordinates", "random directions")

_Rows = NDArray[np.float32]
_Map = Callable[[_Rows, int], _Rows]
_SEED = 0
# Variances under this share of the largest are rounding.
_NO_VARIANCE = 1e-10


@dataclass(frozen=True)
class Method:
    """One way, by name.

    Attributes
    ----------
    name : str
    fit : callable
        From rows (n, d) to the map.
    most : int
        Dimensions that it can give at most.
    keeps_all : bool
        Whether it gives all d dimensions, and no other number.
    needs_rows : bool
        Whether it cannot give as many dimensions as it has rows to be fitted on.
    """

    name: str
    fit: Callable[[_Rows], _Map]
    most: int
    keeps_all: bool = False
    needs_rows: bool = False

    def dimensions(self, wanted: Sequence[int]) -> list[int]:
        """Return which of the numbers of dimensions that are wanted it can give."""
        if self.keeps_all:
            return [self.most]
        return [k for k in wanted if k <= self.most]


def all_methods(
    d: int, filters: dict[str, EmbedFilter], words: _Rows | None = None
) -> list[Method]:
    """Return the methods for rows of width d, "no filter" first.

    Parameters
    ----------
    d : int
    filters : dict
        Filters to compare, by name; none of them keeps all d dimensions. The last is calibrated,
        unless it is already.
    words : (n, d) float32, optional
        The vocabulary's, to calibrate it on.
    """
    axes = _Axes()  # three methods fit the same rows
    base = to_calibrate(d, filters)
    calibrations = []
    if base.mean is None:
        size = base.n_components
        calibrations = [Method(CALIBRATED, lambda X: _filtered(base.calibrate(X)), size)]
        if words is not None:
            of_words = _filtered(base.calibrate(words))
            calibrations.append(Method(VOCABULARY, lambda _: of_words, size))
    return [
        Method(NO_FILTER, lambda _: lambda Z, k: Z, d, keeps_all=True),
        *(
            Method(name, lambda _, f=f: _filtered(f), f.n_components)  # type: ignore[misc]
            for name, f in filters.items()
        ),
        # All of the coordinates, or a rotation of all, would be no filter again.
        Method("first coordinates", lambda _: lambda Z, k: Z[:, :k], d - 1),
        Method("random directions", lambda _: _random_directions(d), d - 1),
        Method(PCA_NAME, lambda X: _pca(axes(X)), d - 1, needs_rows=True),
        Method("whitening", lambda X: _whitening(axes(X)), d, needs_rows=True),
        Method("mean removal", _mean_removal, d, keeps_all=True),
        Method("all-but-the-top", lambda X: _all_but_the_top(axes(X)), d, keeps_all=True),
        *calibrations,
    ]


def to_calibrate(d: int, filters: dict[str, EmbedFilter]) -> EmbedFilter:
    """Return the filter whose directions are calibrated: half of those of the last, or all."""
    if not filters:
        return EmbedFilter.from_matrix(np.eye(d, dtype=np.float32), kind="identity")
    f = list(filters.values())[-1]
    return f.truncate(min(f.n_components, max(1, d // 2)))


def _filtered(f: EmbedFilter) -> _Map:
    return lambda Z, k: f.transform(Z, normalize=False)[:, :k]


@functools.lru_cache(maxsize=1)
def _random_directions(d: int) -> _Map:
    gauss = np.random.default_rng(_SEED).standard_normal((d, d))
    directions = np.linalg.qr(gauss)[0].astype(np.float32)
    return lambda Z, k: Z @ directions[:, :k]


class _Principal(NamedTuple):
    """Mean (d,), principal axes (d, d) in rows and variances (d,), descending, of rows."""

    mean: _Rows
    axes: _Rows
    variances: NDArray[np.float64]


class _Axes:
    """The principal axes of rows; of those that were asked for last they are known."""

    def __init__(self) -> None:
        self._rows: _Rows | None = None

    def __call__(self, X: _Rows) -> _Principal:
        if X is not self._rows:
            self._rows, self._found = X, _principal(X)
        return self._found


def _principal(X: _Rows) -> _Principal:
    wide = X.astype(np.float64)
    mean = wide.mean(axis=0)
    wide -= mean
    # Of d x d products, several times quicker than the rows' singular value decomposition.
    variances, axes = eigh(wide.T @ wide / max(1, len(wide) - 1))
    return _Principal(
        mean.astype(np.float32),
        axes[:, ::-1].T.astype(np.float32),
        np.maximum(variances[::-1], 0),
    )


def _pca(found: _Principal) -> _Map:
    mean, axes, _ = found
    return lambda Z, k: (Z - mean) @ axes[:k].T


def _whitening(found: _Principal) -> _Map:
    mean, axes, variances = found
    has_some = variances > _NO_VARIANCE * variances[0]
    scale = np.zeros_like(variances)
    scale[has_some] = 1 / np.sqrt(variances[has_some])
    directions = (axes * scale[:, np.newaxis]).astype(np.float32)
    return lambda Z, k: (Z - mean) @ directions[:k].T


def _mean_removal(X: _Rows) -> _Map:
    mean = X.mean(axis=0)
    return lambda Z, k: Z - mean


def _all_but_the_top(found: _Principal) -> _Map:
    """Mu and Viswanath, arXiv 1702.01417: the mean and d/100 principal directions go."""
    mean, axes, _ = found
    top = axes[: max(1, len(axes) // 100)]

    def remove(Z: _Rows, _: int) -> _Rows:
        centred = Z - mean
        return np.asarray(centred - (centred @ top.T) @ top)

    return remove
