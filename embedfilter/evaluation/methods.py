"""The ways to make embeddings smaller or better that are compared.

A method is fitted on rows that are not scored, and gives a map from rows (n, d) and a number of
dimensions k to rows (n, k).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from embedfilter.filter import EmbedFilter

__all__ = ["CALIBRATED", "CONTROLS", "NO_FILTER", "PCA_NAME", "Method", "all_methods"]

NO_FILTER = "no filter"
PCA_NAME = "PCA"
CALIBRATED = "calibrated"
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


def all_methods(d: int, filters: dict[str, EmbedFilter]) -> list[Method]:
    """Return the methods for rows of width d, "no filter" first.

    Parameters
    ----------
    d : int
    filters : dict
        Filters to compare, by name; none of them keeps all d dimensions.
    """
    base = _to_calibrate(d, filters)
    return [
        Method(NO_FILTER, lambda _: lambda Z, k: Z, d, keeps_all=True),
        *(
            Method(name, lambda _, f=f: _filtered(f), f.n_components)  # type: ignore[misc]
            for name, f in filters.items()
        ),
        # All of the coordinates, or a rotation of all, would be no filter again.
        Method("first coordinates", lambda _: lambda Z, k: Z[:, :k], d - 1),
        Method("random directions", lambda _: _random_directions(d), d - 1),
        Method(PCA_NAME, _pca, d - 1, needs_rows=True),
        Method("whitening", _whitening, d, needs_rows=True),
        Method("mean removal", _mean_removal, d, keeps_all=True),
        Method("all-but-the-top", _all_but_the_top, d, keeps_all=True),
        Method(CALIBRATED, lambda X: _filtered(base.calibrate(X)), base.n_components),
    ]


def _to_calibrate(d: int, filters: dict[str, EmbedFilter]) -> EmbedFilter:
    """Return the filter whose directions are calibrated: half of those of the last, or all."""
    if not filters:
        return EmbedFilter.from_matrix(np.eye(d, dtype=np.float32), kind="identity")
    f = list(filters.values())[-1]
    return f.truncate(min(f.n_components, max(1, d // 2)))


def _filtered(f: EmbedFilter) -> _Map:
    return lambda Z, k: f.transform(Z, normalize=False)[:, :k]


def _random_directions(d: int) -> _Map:
    gauss = np.random.default_rng(_SEED).standard_normal((d, d))
    directions = np.linalg.qr(gauss)[0].astype(np.float32)
    return lambda Z, k: Z @ directions[:, :k]


def _principal(X: _Rows) -> PCA:
    return PCA(svd_solver="full").fit(X)


def _pca(X: _Rows) -> _Map:
    pca = _principal(X)
    return lambda Z, k: (Z - pca.mean_) @ pca.components_[:k].T


def _whitening(X: _Rows) -> _Map:
    pca = _principal(X)
    variance = pca.explained_variance_
    has_some = variance > _NO_VARIANCE * variance[0]
    scale = np.zeros_like(variance)
    scale[has_some] = 1 / np.sqrt(variance[has_some])
    directions = pca.components_ * scale[:, np.newaxis]
    return lambda Z, k: (Z - pca.mean_) @ directions[:k].T


def _mean_removal(X: _Rows) -> _Map:
    mean = X.mean(axis=0)
    return lambda Z, k: Z - mean


def _all_but_the_top(X: _Rows) -> _Map:
    """Mu and Viswanath, arXiv 1702.01417: the mean and d/100 principal directions go."""
    pca = _principal(X)
    top = pca.components_[: max(1, X.shape[1] // 100)]

    def remove(Z: _Rows, _: int) -> _Rows:
        centred = Z - pca.mean_
        return np.asarray(centred - (centred @ top.T) @ top)

    return remove
