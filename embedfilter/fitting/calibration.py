"""Fitting a filter to a sample of embeddings: centred, rotated, scaled; no labels.

Where the settings come from, and what they are worth, is in docs/calibration.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedfilter import _core
from embedfilter.arrays.embeddings import as_embeddings, bad_rows_message
from embedfilter.arrays.vocabulary_sample import description_of
from embedfilter.errors import warn_user
from embedfilter.files.messages import origin_of_width
from embedfilter.fitting.kinds import check_n_components
from embedfilter.fitting.spectrum import with_signs
from embedfilter.threads import resolve_n_threads

__all__ = [
    "SampleStatistics",
    "are_alike",
    "are_unit",
    "calibrate",
    "calibrated_length",
    "is_unit",
    "warn_of_length",
]

# The variances are pulled towards their mean by so many times it before they are divided by:
# with whitening alone, the many small ones would drown the few that tell topics apart. Those of
# words say less of what the texts are about, and are divided by more fully.
_FLOOR = 5.0
# Added to the mean variance of the first component, less to each later one. Directions in which a
# sample of fewer rows than components does not vary are equal, and would come in any order.
_TIE = 1e-6
_FLOOR_OF_WORDS = 1.0
# The mean is pulled towards zero as if by so many rows; of the mean of words this share is meant.
_MEAN_ROWS = 10
_MEAN_OF_WORDS = 0.5
_MOST_LEFT_OF_MEAN = 2.0
# Rows as which a prior's covariance counts.
_PRIOR_ROWS = 300
# Rows so many times as long as others, or as short, are not scaled alike; and how many are looked
# at.
_FAR_LENGTH = 10.0
_ROWS_LOOKED_AT = 64
_UNIT = 1e-2  # so near to 1 are unit rows in half precision
_LENGTH = "calibration_row_length"
# Variance, as a share of the mean square, under which it is rounding.
_NO_VARIANCE = 1e-12
# Rows that are kept for the ranges of int8 and uint8, and the least that these reach either
# side of 0, in standard deviations: the extremes of very few rows say little.
_SAMPLE_ROWS = 1024
_LEAST_DEVIATIONS = 2.0
_BLOCK_BYTES = 4 << 20
# An odd number whose multiples spread over all of 64 bits (2^64 over the golden ratio).
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


class Filter(Protocol):
    """What calibration needs of an `EmbedFilter`, which is made of what this room returns."""

    components: NDArray[np.float32]
    component_indices: NDArray[np.int64]
    singular_values: NDArray[np.float64]
    kind: str
    metadata: Mapping[str, str]
    mean: NDArray[np.float32] | None

    @property
    def n_components(self) -> int:
        """Width of what `transform` returns."""

    @property
    def n_features_in(self) -> int:
        """Width of the embeddings that `transform` takes."""

    def transform(
        self, X: ArrayLike, *, normalize: bool = True, n_threads: int | None = None
    ) -> NDArray[Any]:
        """Filter embeddings."""


class SampleStatistics:
    """What `EmbedFilter.calibrate` needs to know of a sample: sums, and a few of its rows.

    Made by `EmbedFilter.statistics`. The rows may come in any number of parts; statistics of
    parts, from several processes too, add up with ``+`` (and ``sum``). Memory does not grow
    with the number of rows.

    Attributes
    ----------
    filter : EmbedFilter
        The filter that the sample passes, and that may be calibrated with it.
    n_rows : int
        Rows so far.
    """

    def __init__(self, f: Filter) -> None:
        if f.mean is not None:
            raise ValueError(
                "filter: expected one that is not calibrated, found one that is: calibrate the"
                " filter that it came from"
            )
        self.filter = f
        self.n_rows = 0
        p = f.n_components
        # Of the filtered rows y with a 1 at their end, the upper triangle of sum(y y^T): its
        # last column is sum(y). Of rows not yet in it, the core has the sum.
        self._moments = np.zeros((p + 1, p + 1))
        # Of the embeddings themselves, not as the filter sees them.
        self._sum = np.zeros(f.n_features_in)
        self._squares = 0.0  # of their lengths, added up
        self._gram: _core.Gram | None = None
        # The rows whose marks are the least of all: the same ones whatever the order.
        self._sample: NDArray[np.float32] = np.empty((0, p), np.float32)
        self._marks: NDArray[np.uint64] = np.empty(0, np.uint64)

    def add(self, X: ArrayLike, *, n_threads: int | None = None) -> SampleStatistics:
        """Add embeddings to the sample, and return the statistics themselves.

        The parts in which rows come do not change the result.

        Parameters
        ----------
        X : (n, d), (d,) or (0,) array-like of float16, bfloat16, float32 or float64
            As `EmbedFilter.transform` takes them.
        n_threads : int, optional
            By default, as many as the process may use.

        Raises
        ------
        TypeError, ValueError
            As `EmbedFilter.transform`. Some rows of `X` may have been added then.
        """
        self._add(X, n_threads, name="X")
        return self

    def _add(self, X: Any, n_threads: int | None, name: str) -> None:
        f, p = self.filter, self.filter.n_components
        threads = resolve_n_threads(n_threads)
        _, array = as_embeddings(X, f.n_features_in, origin=origin_of_width(f.metadata), name=name)
        block_rows = max(1, _BLOCK_BYTES // (4 * (p + 1)))
        if self._gram is None:
            self._gram = _core.Gram(p + 1)
        for start in range(0, len(array), block_rows):
            block = array[start : start + block_rows]
            try:
                rows = f.transform(block, normalize=False, n_threads=threads)
            except ValueError as error:
                if not np.isfinite(block).all():
                    raise ValueError(bad_rows_message(array, name)) from None
                detail = str(error).removeprefix("X: ")
                raise ValueError(
                    f"{name}: rows {start} to {start + len(block) - 1}: {detail}"
                ) from None
            extended = np.ones((len(rows), p + 1), np.float32)
            extended[:, :p] = rows
            self._gram.add(extended, threads)
            # One row after the other, so that the parts in which they come do not change it; of
            # float32, as which the filter takes them, whatever holds them.
            rounded = block.astype(np.float32).astype(np.float64)
            self._sum = np.add.reduce(np.vstack([self._sum, rounded]))
            squares = np.einsum("ij,ij->i", rounded, rounded)
            self._squares = float(np.cumsum([self._squares, *squares])[-1])
            self.n_rows += len(rows)
            self._keep(rows, _marks(rows))

    def _keep(self, rows: NDArray[np.float32], marks: NDArray[np.uint64]) -> None:
        if len(self._marks) == _SAMPLE_ROWS:
            least = marks < self._marks[-1]
            rows, marks = rows[least], marks[least]
        merged, first = np.unique(np.concatenate([self._marks, marks]), return_index=True)
        self._marks = merged[:_SAMPLE_ROWS]
        self._sample = np.concatenate([self._sample, rows])[first[:_SAMPLE_ROWS]]

    def __add__(self, other: object) -> SampleStatistics:
        if not isinstance(other, SampleStatistics):
            return NotImplemented
        if not np.array_equal(self.filter.components, other.filter.components):
            raise ValueError(
                "statistics: expected those of samples that passed the same filter, found"
                f" {self.filter!r} and {other.filter!r} of other components"
            )
        total = SampleStatistics(self.filter)
        total.n_rows = self.n_rows + other.n_rows
        total._moments = self.moments() + other.moments()
        total._sum = self._sum + other._sum
        total._squares = self._squares + other._squares
        total._keep(self._sample, self._marks)
        total._keep(other._sample, other._marks)
        return total

    def __radd__(self, other: object) -> SampleStatistics:
        return self if other == 0 else NotImplemented  # where sum() begins

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_moments": self.moments(), "_gram": None}

    def moments(self) -> NDArray[np.float64]:
        """Return the sums so far.

        Returns
        -------
        (p + 1, p + 1) float64
            The upper triangle of the sum of y y^T over the filtered rows y (p), which are not
            normalised, each with a 1 appended.
        """
        if self._gram is None:
            return self._moments
        sums = np.zeros_like(self._moments)
        self._gram.finish(sums, 1)
        return self._moments + sums

    def centre(self) -> NDArray[np.float64]:
        """Return the mean of the embeddings, (d,)."""
        return np.asarray(self._sum / self.n_rows)

    def length(self) -> float:
        """Return the length of the embeddings, in root mean square."""
        return float(np.sqrt(self._squares / self.n_rows)) if self.n_rows else 0.0

    def sample(self) -> NDArray[np.float32]:
        """Return some of the filtered rows, (up to 1024, p): the same ones in any order."""
        return self._sample

    def __repr__(self) -> str:
        return f"SampleStatistics({self.n_rows} rows, {self.filter!r})"


def _marks(rows: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return a number for each row (n, p) that is as good as random, but the row's own."""
    weights = 2 * np.arange(rows.shape[1], dtype=np.uint64) + np.uint64(1)
    sums: NDArray[np.uint64] = rows.view(np.uint32).astype(np.uint64) @ weights
    return np.asarray(sums * _SPREAD, np.uint64)


def calibrate(
    f: Filter,
    X_sample: Any,
    n_components: int | None,
    whitening: float,
    n_threads: int | None,
    prior: Any = None,
) -> dict[str, Any]:
    """Return the arguments of `EmbedFilter`, fitted to a sample; see `EmbedFilter.calibrate`."""
    threads = resolve_n_threads(n_threads)
    k = f.n_components if n_components is None else check_n_components(n_components, f.n_components)
    if isinstance(whitening, bool) or not isinstance(whitening, Real):
        raise TypeError(f"whitening: expected a number from 0 to 1, found {whitening!r}")
    if not 0 <= whitening <= 1:  # NaN is not
        raise ValueError(f"whitening: expected from 0 to 1, found {whitening!r}")
    statistics = _statistics(f, X_sample, n_threads, "X_sample")
    n = statistics.n_rows
    own_mean, covariance = _mean_and_covariance(statistics, "X_sample")
    shrinkage = _shrinkage(covariance, n)
    typical = float(np.trace(covariance)) / len(own_mean)
    floor = _FLOOR_OF_WORDS
    told = {}
    if prior is not None:
        words = _statistics(f, prior, n_threads, "prior")
        mean, covariance = _with_prior(own_mean, covariance, n, words)
        if not are_alike(words.length(), statistics.length()):
            raise ValueError(
                f"prior: expected rows of a length of about {statistics.length():.2g}, as the"
                f" sample's, found {words.length():.2g}: scale both to unit length, or neither"
            )
        shrinkage = 0.0
        told["calibration_prior"] = description_of(prior) or f"{words.n_rows} rows"
    elif description_of(X_sample):
        mean = _bounded(_MEAN_OF_WORDS * own_mean, own_mean, covariance)
    else:
        mean = _bounded(n / (n + _MEAN_ROWS) * own_mean, own_mean, covariance)
        floor = _FLOOR
    if sample := description_of(X_sample):
        told["calibration_sample"] = sample
    if n <= len(mean):  # what a small sample leaves open goes in the order of the filter
        covariance = covariance + np.diag(_TIE * typical * np.arange(len(mean), 0, -1) / len(mean))
    values, axes = _core.eigh(
        covariance, np.arange(len(mean), dtype=np.int64)[::-1].copy(), threads
    )
    variances = (1 - shrinkage) * np.maximum(values[::-1], 0.0) + shrinkage * typical
    scales = (variances + floor * typical) ** (-whitening / 2)
    scales /= np.exp(np.log(scales).mean())  # normalising takes it out; the numbers stay ordinary
    P = f.components.astype(np.float64)
    rotation = with_signs(axes[:k] @ P)
    components = (rotation * scales[:k, np.newaxis]).astype(np.float32)
    # In the coordinates of the sample: components = mixing @ P.
    mixing = components @ P.T
    deviations = np.sqrt(variances[:k]) * scales[:k]
    ranges = _ranges((statistics.sample() - mean) @ mixing.T, deviations)
    return {
        "components": components,
        "component_indices": f.component_indices[:k],
        "singular_values": f.singular_values,
        "kind": f.kind,
        "metadata": {
            **f.metadata,
            "calibration_rows": str(n),
            "calibration_components": str(f.n_components),
            "calibration_whitening": repr(float(whitening)),
            "calibration_shrinkage": f"{shrinkage:.6g}",
            "calibration_length": f"{np.linalg.norm(deviations):.6g}",
            _LENGTH: f"{statistics.length():.6g}",
            **told,
        },
        # Outside of what the filter keeps all of the mean is taken off: what is left of it would
        # be large beside what embeddings differ by, and cancel badly.
        "mean": (statistics.centre() + (mean - own_mean) @ P).astype(np.float32),
        "ranges": ranges,
    }


def calibrated_length(f: Filter) -> float | None:
    """Return the length of the rows that a filter was calibrated on, as far as it is known."""
    try:
        return None if f.mean is None else float(f.metadata[_LENGTH])
    except (KeyError, ValueError):
        return None


def warn_of_length(f: Filter, X: NDArray[Any]) -> None:
    """Warn if rows (n, d) are far longer or shorter than those that a filter was calibrated on.

    The mean is subtracted from them: of unit rows that of others, as long as they are, leaves
    nothing but itself.
    """
    expected = calibrated_length(f)
    if expected is None or not len(X):
        return
    first = X[0].astype(np.float64)
    if are_alike(math.sqrt(first @ first), expected):
        return
    some = X[:: -(-len(X) // _ROWS_LOOKED_AT)].astype(np.float64)
    lengths = np.linalg.norm(some, axis=1)
    lengths = lengths[(lengths > 0) & np.isfinite(lengths)]
    if len(lengths) and not are_alike(found := float(np.median(lengths)), expected):
        warn_user(
            f"X: expected rows of a length of about {expected:.2g}, as those that the filter was"
            f" calibrated on, found {found:.2g}: one or the other were scaled to unit length, and"
            " the result means little"
        )


def is_unit(length: float) -> bool:
    """Tell whether rows of this length, in root mean square, are scaled to unit length."""
    return abs(length - 1) < _UNIT


def are_unit(rows: NDArray[Any]) -> bool:
    """Tell whether each of some rows (n, d) is scaled to unit length; False of none."""
    lengths = np.linalg.norm(np.asarray(rows, np.float64), axis=1)
    return bool(len(lengths) and np.abs(lengths - 1).max() < _UNIT)


def are_alike(a: float, b: float) -> bool:
    """Tell whether rows of these lengths may be scaled alike."""
    return b / _FAR_LENGTH <= a <= b * _FAR_LENGTH


def _statistics(f: Filter, sample: Any, n_threads: int | None, name: str) -> SampleStatistics:
    """Return the statistics of at least two rows that have passed the filter, or raise."""
    statistics = sample
    if not isinstance(statistics, SampleStatistics):
        statistics = SampleStatistics(f)
        statistics._add(sample, n_threads, name=name)
    elif not np.array_equal(statistics.filter.components, f.components):
        raise ValueError(
            f"{name}: expected the statistics of a sample that passed this filter, found those"
            f" of {statistics.filter!r} with other components"
        )
    if statistics.n_rows < 2:
        raise ValueError(f"{name}: expected at least 2 rows, found {statistics.n_rows}")
    return statistics


def _bounded(
    centre: NDArray[np.float64], mean: NDArray[np.float64], covariance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a centre (p,), brought near to the mean of the rows (p,) where it is far from it.

    What it leaves of the mean is bounded by the rows' deviation: more would hide what they
    differ by.
    """
    left = mean - centre
    most = _MOST_LEFT_OF_MEAN * float(np.sqrt(np.trace(covariance)))
    return np.asarray(mean - left * min(1.0, most / max(float(np.linalg.norm(left)), most)))


def _with_prior(
    mean: NDArray[np.float64], covariance: NDArray[np.float64], n: int, words: SampleStatistics
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean (p,) and the covariance (p, p) of n rows, pulled towards those of others.

    The others are scaled to the rows' total variance, and count as `_PRIOR_ROWS` rows of it.
    """
    mean_of_words, expected = _mean_and_covariance(words, "prior")
    typical = np.trace(covariance) / len(mean)
    shrinkage = _shrinkage(expected, words.n_rows)
    expected *= (1 - shrinkage) * typical * len(mean) / np.trace(expected)
    expected += shrinkage * typical * np.eye(len(mean))
    centre = (n * mean + _MEAN_ROWS * _MEAN_OF_WORDS * mean_of_words) / (n + _MEAN_ROWS)
    return _bounded(centre, mean, covariance), (n * covariance + _PRIOR_ROWS * expected) / (
        n + _PRIOR_ROWS
    )


def _mean_and_covariance(
    statistics: SampleStatistics, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean (p,) and the covariance (p, p) of the filtered rows."""
    moments = statistics.moments() / statistics.n_rows
    mean = moments[:-1, -1]
    second = np.triu(moments[:-1, :-1])
    second += np.triu(second, 1).T
    covariance = second - np.outer(mean, mean)
    if np.trace(covariance) <= _NO_VARIANCE * np.trace(second):
        raise ValueError(
            f"{name}: expected rows that differ once filtered, found {statistics.n_rows} alike"
        )
    return mean, covariance


def _shrinkage(covariance: NDArray[np.float64], n: int) -> float:
    """Return how far a covariance (p, p) of n rows is best pulled towards its mean variance.

    The oracle approximating shrinkage (OAS) estimate, from 0 to 1: Chen, Wiesel, Eldar, Hero,
    IEEE Trans. Signal Processing 58(10), 2010, equation 23.
    """
    p = len(covariance)
    squares = float(np.sum(np.square(covariance)))
    square_of_trace = float(np.trace(covariance)) ** 2
    above = (1 - 2 / p) * squares + square_of_trace
    below = (n + 1 - 2 / p) * (squares - square_of_trace / p)
    return min(1.0, above / below) if below > 0 else 1.0  # not over 0: all variances alike


def _ranges(rows: NDArray[np.float64], deviations: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the least and greatest value (2, k) of each dimension of normalised rows (n, k).

    At least some of the standard deviations (k,) that the rows are expected to have.
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, lengths, where=lengths > 0, out=np.zeros_like(rows))
    least = _LEAST_DEVIATIONS * deviations / np.linalg.norm(deviations)
    ends = [np.minimum(rows.min(axis=0), -least), np.maximum(rows.max(axis=0), least)]
    return np.asarray(np.clip(ends, -1, 1), np.float32)
