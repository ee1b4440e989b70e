"""Diagnostics of a space of embeddings: how narrow a cone it is, before and after a filter.

Of n vectors scaled to unit length, with the singular values s_1 >= s_2 >= ... of the matrix that
they are the rows of (zero vectors left out):

mean cosine
    Of all pairs of two vectors: (|sum of the vectors|^2 - n) / (n (n - 1)). 0 in a space that
    vectors fill evenly, near 1 in a narrow cone.
effective rank
    exp(-sum p_i log p_i), p_i = s_i / (s_1 + s_2 + ...): between 1 and the dimensions. Source:
    O. Roy and M. Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO
    2007.
largest direction
    The share of energy in the single direction that has most of it: s_1^2 / n.
edge
    The share of energy in what the filter cuts: the mean of 1 - |C x|^2 over the vectors, with
    the filter's components C at unit length. For the kind "edge", that is the edge of the
    spectrum.
"""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedfilter.arrays.embeddings import as_embeddings, bad_rows_message

if TYPE_CHECKING:
    import os

    from embedfilter.filter import EmbedFilter

__all__ = ["Diagnostics", "Space", "diagnose"]

_NAMES = {
    "dimensions": "dimensions",
    "mean_cosine": "mean cosine of two vectors",
    "effective_rank": "effective rank",
    "largest_direction": "energy in the largest direction",
    "edge": "energy in what the filter cuts",
}


@dataclass(frozen=True)
class Space:
    """Figures of one set of vectors; see the module for their formulas.

    Attributes
    ----------
    dimensions : int
    mean_cosine, effective_rank, largest_direction : float
        NaN where there are too few vectors.
    edge : float or None
        None without a filter.
    """

    dimensions: int
    mean_cosine: float
    effective_rank: float
    largest_direction: float
    edge: float | None


@dataclass(frozen=True)
class Diagnostics:
    """Figures of a set of vectors before and, with a filter, after it.

    Attributes
    ----------
    before : Space
    after : Space or None
    """

    before: Space
    after: Space | None

    def _rows(self) -> list[tuple[str, list[str]]]:
        spaces = [self.before] if self.after is None else [self.before, self.after]
        figures = [asdict(space) for space in spaces]
        return [
            (name, [_shown(column[key]) for column in figures])
            for key, name in _NAMES.items()
            if figures[0][key] is not None
        ]

    def __repr__(self) -> str:
        heads = ["before", "after"][: 1 if self.after is None else 2]
        rows = [("", heads), *self._rows()]
        return "\n".join(
            f"{name:<34}" + "".join(f"{value:>9}" for value in values) for name, values in rows
        )

    def _repr_html_(self) -> str:
        """Return a table."""
        heads = ["before", "after"][: 1 if self.after is None else 2]
        lines = [
            "<table>",
            "<tr><th></th>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>",
        ]
        lines += [
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            + "".join(f"<td>{value}</td>" for value in values)
            + "</tr>"
            for name, values in self._rows()
        ]
        return "\n".join([*lines, "</table>"])


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def diagnose(
    X: ArrayLike,
    filter: EmbedFilter | str | os.PathLike[str] | None = None,  # noqa: A002
) -> Diagnostics:
    """Measure a space of embeddings, before and after a filter.

    Parameters
    ----------
    X : (n, d) array-like of float16, bfloat16, float32 or float64
        Embeddings; their lengths play no part.
    filter : EmbedFilter or path, optional

    Returns
    -------
    Diagnostics

    Raises
    ------
    TypeError, ValueError
        For wrong arguments, NaN or infinity.
    """
    if filter is not None:
        from embedfilter.filter import as_filter  # noqa: PLC0415 - light import

        filter = as_filter(filter)  # noqa: A001
    array, _ = as_embeddings(X, None if filter is None else filter.n_features_in)
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"X: expected shape (n, d), found {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(bad_rows_message(array))
    before = _unit(array)
    if filter is None:
        return Diagnostics(_measure(before, None), None)
    kept = ((before @ _unit(filter.components).T) ** 2).sum(axis=1)
    edge = float(1 - kept.mean()) if len(before) else float("nan")
    after = _unit(filter.transform(array))
    return Diagnostics(_measure(before, edge), _measure(after, 0.0))


def _unit(X: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return rows of unit length, those of zeros left out."""
    wide = X.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    units: NDArray[np.float64] = wide[norms > 0] / norms[norms > 0, np.newaxis]
    return units


def _measure(units: NDArray[np.float64], edge: float | None) -> Space:
    n, d = units.shape
    if n < 2:
        return Space(d, float("nan"), float("nan"), float("nan"), edge)
    total = units.sum(axis=0)
    # The squares of the singular values, from the smaller of the two Gram matrices.
    gram = units @ units.T if n < d else units.T @ units
    squares = np.maximum(np.linalg.eigvalsh(gram), 0.0)
    sigma = np.sqrt(squares)
    p = sigma[sigma > 0] / sigma.sum()
    return Space(
        dimensions=d,
        mean_cosine=float((total @ total - n) / (n * (n - 1))),
        effective_rank=float(np.exp(-(p * np.log(p)).sum())),
        largest_direction=float(squares.max() / n),
        edge=edge,
    )
