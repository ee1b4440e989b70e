"""Logit spectroscopy: which bands of an unembedding matrix's spectrum vectors use.

With the singular value decomposition W = U S V^T of the unembedding matrix (V tokens, d), a
vector x has the coordinate v_i . x along the direction of rank i, and its logits W x the
coordinate s_i (v_i . x) along u_i. Both bases are orthonormal, so energies add up. For a band B of
ranks,

    energy of the vector    e_B = sum of (v_i . x)^2 over B,        of |x|^2
    energy of its logits    l_B = sum of s_i^2 (v_i . x)^2 over B,  of |W x|^2

The *average token* is the vector that would make a model predict the unigram distribution p,
whatever the text: its logits are, as nearly as any vector's, the centred logarithms
y = log p - mean(log p),

    a = argmin |W a - y|^2 = V S^-2 V^T W^T y

and the share of their variance that a band writes is

    f_B = sum of (u_i . y)^2 over B, of |y|^2,    u_i . y = v_i . (W^T y) / s_i

Source: the bands are those of N. Cancedda, "Spectral Filters, Dark Signals, and Attention Sinks",
arXiv 2402.09221; the average token, and the finding that the edge of the spectrum writes it, are
of arXiv 2606.07502. The least squares, the pseudocount of 1 in p and f_B are this package's way
to put them in numbers.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedfilter.fitting.cuts import rounding_of_squares
from embedfilter.fitting.spectrum import Spectrum

__all__ = ["AverageToken", "Spectroscopy", "band_edges", "checked_counts", "log_unigram"]

# Rows of W that are brought to float64 at a time.
_STEP_ROWS = 2048
_BAR_WIDTH = 120


@dataclass(frozen=True, eq=False)
class AverageToken:
    """The vector that writes frequent tokens, whatever the text.

    Attributes
    ----------
    origin : str
        "unigram counts": from counts of tokens, as above. "vocabulary mean": without counts, the
        mean row of W, which stands for a vocabulary of equally frequent tokens.
    vector : (d,) float64
    log_rows : (d,) float64 or None
        W^T y, None without counts.
    variance : float
        |y|^2, 0 without counts.
    """

    origin: str
    vector: NDArray[np.float64]
    log_rows: NDArray[np.float64] | None = None
    variance: float = 0.0

    @classmethod
    def of(
        cls,
        blocks: Iterable[tuple[int, NDArray[Any]]],
        spectrum: Spectrum,
        n_rows: int,
        counts: NDArray[np.float64] | None,
    ) -> AverageToken:
        """Find the average token of a matrix.

        Parameters
        ----------
        blocks : iterable of (int, array)
            The rows of W with the number of the first.
        spectrum : Spectrum
            Of W.
        n_rows : int
        counts : (n_rows,) float64 or None
            How often each token occurs.
        """
        d = len(spectrum.singular_values)
        if counts is None:
            return cls("vocabulary mean", _weighted_sum(blocks, np.ones(n_rows), d) / n_rows)
        logs = log_unigram(counts)
        log_rows = _weighted_sum(blocks, logs, d)
        squares, written = _written(spectrum)
        coordinates = spectrum.directions[written] @ log_rows / squares[written]
        vector = coordinates @ spectrum.directions[written]
        return cls("unigram counts", vector, log_rows, float(logs @ logs))


@dataclass(frozen=True, eq=False)
class Spectroscopy:
    """Energies by band, as shares of the whole.

    Attributes
    ----------
    bands : sequence of (int, int)
        The ranks of each band, from the first to before the second; rank 0 is that of the
        largest singular value.
    energy, logit_energy : (n, bands) float64
        Of each vector and of its logits. A vector of zeros has zeros.
    average_token : AverageToken
    average_energy, average_logit_energy : (bands,) float64
        Of the average token.
    frequency : (bands,) float64 or None
        The share of the variance of the unigram log-probabilities that the band writes: how
        much it writes frequent tokens. None without counts.
    """

    bands: Sequence[tuple[int, int]]
    energy: NDArray[np.float64]
    logit_energy: NDArray[np.float64]
    average_token: AverageToken
    average_energy: NDArray[np.float64]
    average_logit_energy: NDArray[np.float64]
    frequency: NDArray[np.float64] | None

    @classmethod
    def of(
        cls,
        X: NDArray[Any],
        spectrum: Spectrum,
        edges: NDArray[np.int64],
        average: AverageToken,
    ) -> Spectroscopy:
        """Measure vectors (n, d) and the average token.

        Parameters
        ----------
        X : (n, d)
        spectrum : Spectrum
        edges : (bands + 1,) int64
            As `band_edges` returns them.
        average : AverageToken
        """
        energy, logit_energy = _energies(X.astype(np.float64), spectrum, edges)
        own, own_logits = _energies(average.vector[np.newaxis], spectrum, edges)
        frequency = None
        if average.log_rows is not None:
            squares, written = _written(spectrum)
            shares = np.zeros(len(squares))
            along = spectrum.directions[written] @ average.log_rows
            shares[written] = along**2 / squares[written] / average.variance
            frequency = np.add.reduceat(shares, edges[:-1])
        return cls(
            bands=[(int(start), int(stop)) for start, stop in itertools.pairwise(edges)],
            energy=energy,
            logit_energy=logit_energy,
            average_token=average,
            average_energy=own[0],
            average_logit_energy=own_logits[0],
            frequency=frequency,
        )

    def table(self) -> dict[str, NDArray[np.float64]]:
        """Return the columns of figures by their names: means over the vectors."""
        empty = np.zeros(len(self.bands))
        columns = {
            "vectors": self.energy.mean(axis=0) if len(self.energy) else empty,
            "their logits": self.logit_energy.mean(axis=0) if len(self.energy) else empty,
            f"average token ({self.average_token.origin})": self.average_energy,
            "its logits": self.average_logit_energy,
        }
        if self.frequency is not None:
            columns["frequent tokens"] = self.frequency
        return columns

    def __repr__(self) -> str:
        columns = self.table()
        lines = ["ranks       " + "  ".join(columns)]
        for band, (start, stop) in enumerate(self.bands):
            cells = [f"{values[band]:{len(name)}.3f}" for name, values in columns.items()]
            lines.append(f"{f'{start} to {stop - 1}':12}" + "  ".join(cells))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return a table with a bar for each share."""
        columns = self.table()
        heads = "".join(f"<th>{html.escape(name)}</th>" for name in ("ranks", *columns))
        rows = []
        for band, (start, stop) in enumerate(self.bands):
            cells = [f"<td>{start} to {stop - 1}</td>"]
            for values in columns.values():
                width = int(_BAR_WIDTH * min(max(values[band], 0.0), 1.0))
                cells.append(
                    '<td style="text-align:left"><div style="background:rgba(27,108,168,0.45);'
                    f'width:{width}px;height:0.8em;display:inline-block"></div>'
                    f" {values[band]:.3f}</td>"
                )
            rows.append(f"<tr>{''.join(cells)}</tr>")
        return f'<table style="font-size:90%"><tr>{heads}</tr>{"".join(rows)}</table>'


def band_edges(bands: int | Sequence[int], d: int) -> NDArray[np.int64]:
    """Return where bands of ranks begin, and where the last one ends.

    Parameters
    ----------
    bands : int or sequence of int
        How many bands, equal but for one direction; or their edges, ascending, from 0 to d.
    d : int
        The number of directions.

    Returns
    -------
    (bands + 1,) int64

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    edges = np.asarray(bands)
    if edges.ndim == 0 and edges.dtype.kind in "iu":
        n_bands = int(edges)
        if not 1 <= n_bands <= d:
            raise ValueError(f"bands: expected from 1 to {d}, found {n_bands}")
        return np.arange(n_bands + 1) * d // n_bands
    if edges.ndim != 1 or len(edges) < 2 or edges.dtype.kind not in "iu":
        raise TypeError(f"bands: expected a number or the edges of bands, found {bands!r}")
    if edges[0] != 0 or edges[-1] != d or (np.diff(edges.astype(np.int64)) < 1).any():
        raise ValueError(f"bands: expected ascending edges from 0 to {d}, found {edges.tolist()}")
    return edges.astype(np.int64)


def checked_counts(counts: ArrayLike, n_rows: int) -> NDArray[np.float64]:
    """Return counts of tokens as float64 (n_rows,), zeros for tokens beyond them, or raise."""
    result = np.asarray(counts)
    if result.ndim != 1 or result.dtype.kind not in "iuf":
        raise TypeError(
            f"counts: expected a number for each token, found {result.dtype} of shape"
            f" {result.shape}"
        )
    if not 1 <= len(result) <= n_rows:
        raise ValueError(f"counts: expected from 1 to {n_rows} of them, found {len(result)}")
    result = result.astype(np.float64)
    if not np.isfinite(result).all() or (result < 0).any():
        raise ValueError("counts: expected finite numbers of at least 0, found others")
    result = np.pad(result, (0, n_rows - len(result)))
    if (result == result[0]).all():
        raise ValueError("counts: expected counts that differ, found all equal")
    return result


def log_unigram(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centred logarithms of the unigram distribution, with a pseudocount of 1."""
    logs = np.log(counts + 1.0)
    centred: NDArray[np.float64] = logs - logs.mean()
    return centred


def _written(spectrum: Spectrum) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the squares of the singular values, and which directions write anything at all."""
    squares = spectrum.singular_values**2
    return squares, squares > rounding_of_squares(spectrum.singular_values)


def _weighted_sum(
    blocks: Iterable[tuple[int, NDArray[Any]]], weights: NDArray[np.float64], d: int
) -> NDArray[np.float64]:
    """Return ``W.T @ weights`` (d,)."""
    total = np.zeros(d)
    for start, rows in blocks:
        for first in range(0, len(rows), _STEP_ROWS):
            some = rows[first : first + _STEP_ROWS].astype(np.float64)
            total += weights[start + first : start + first + len(some)] @ some
    return total


def _energies(
    X: NDArray[np.float64], spectrum: Spectrum, edges: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the shares of energy by band of vectors (n, d) and of their logits."""
    squares = (X @ spectrum.directions.T) ** 2
    return _shares(squares, edges), _shares(squares * spectrum.singular_values**2, edges)


def _shares(squares: NDArray[np.float64], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    parts = np.add.reduceat(squares, edges[:-1], axis=1)
    whole = parts.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(parts, whole, where=whole > 0, out=np.zeros_like(parts))
    return shares
