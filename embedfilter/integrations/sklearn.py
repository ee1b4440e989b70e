"""A filter as a scikit-learn transformer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedfilter.arrays.columns import as_array
from embedfilter.files.filter_file import is_filter_file
from embedfilter.filter import EmbedFilter, as_filter
from embedfilter.fitting.kinds import resolve_n_components

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        'to use filters in scikit-learn, 1.6 or later: pip install "embedfilter[sklearn]"'
    ) from error

__all__ = ["EmbedFilterTransformer"]


def _is_filter(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike)) and is_filter_file(Path(source))


def _is_read_by_sklearn(X: Any) -> bool:
    """Tell whether X is left to scikit-learn: its checks, its messages, the names of columns."""
    if isinstance(X, np.ndarray):
        is_of_arrays = X.dtype == object and X.ndim == 1
        # Of masked arrays it takes what is behind the mask.
        return not (isinstance(X, np.ma.MaskedArray) or X.dtype.kind == "V" or is_of_arrays)
    if isinstance(X, list) or hasattr(X, "toarray"):
        return True
    if hasattr(X, "collect"):  # of polars' lazy frames columns are not to be asked for
        return False
    if len(getattr(X, "columns", ())) <= 1 or not hasattr(X, "dtypes"):
        return False
    # Frames without columns of lists: pandas' types have a kind, those of polars what is in them.
    return not any(getattr(t, "kind", "") == "O" or hasattr(t, "inner") for t in X.dtypes)


class EmbedFilterTransformer(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]  # scikit-learn has no types
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Filter embeddings in a scikit-learn pipeline.

    Parameters
    ----------
    source : EmbedFilter, or its file, or what `EmbedFilter.from_checkpoint` takes, optional
        Where the filter comes from. A checkpoint is read at every `fit`. A filter keeps its size
        and its kind, unless `ratio` or `n_components` cut it short, which suits a search over
        them. Without a source the filter is fitted to the `X` that `fit` is given, as if `X`
        were the unembedding matrix: it keeps the middle of the spectrum of `X` itself, which is
        not the paper's method and promises nothing.
    ratio : number, optional
        Keep ``floor(d / ratio)`` of the d dimensions; 2 by default, of a filter all it has.
    n_components : int, optional
        Keep so many.
    kind : str, optional
        As in `EmbedFilter.from_checkpoint`, "edge" by default, if calibrated "late". A filter
        has its own.
    calibrate : bool
        Fit the filter to the embeddings that `fit` is given, too, without labels: see
        `EmbedFilter.calibrate`. That cuts it, from ratio 2, or what the source has, to its size.
    normalize : bool
        Scale each row to unit length.
    tensor, revision
        As in `EmbedFilter.from_checkpoint`; of no use where the source is a filter, or none.
    n_threads : int, optional
        By default, as many as the process may use.

    Attributes
    ----------
    filter_ : EmbedFilter
    n_features_in_ : int
    feature_names_in_ : (d,) array of str
        Where `fit` was given a data frame whose columns have names.
    """

    def __init__(
        self,
        source: Any = None,
        *,
        ratio: float | None = None,
        n_components: int | None = None,
        kind: str | None = None,
        calibrate: bool = False,
        normalize: bool = True,
        tensor: str | None = None,
        revision: str | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.source = source
        self.ratio = ratio
        self.n_components = n_components
        self.kind = kind
        self.calibrate = calibrate
        self.normalize = normalize
        self.tensor = tensor
        self.revision = revision
        self.n_threads = n_threads

    def fit(self, X: ArrayLike, y: object = None) -> EmbedFilterTransformer:
        """Make the filter, and check that it fits the embeddings.

        Parameters
        ----------
        X : (n, d) array-like of numbers, which are rounded to float32
            Embeddings, in anything that `EmbedFilter.transform` takes. Only their width matters,
            unless there is no source, or `calibrate`.
        y : ignored

        Raises
        ------
        CheckpointError, FilterFileError
            If the source cannot be used.
        TypeError, ValueError
            For integers of 8 bits (quantised embeddings), NaN, infinity, a width that is not
            the filter's, wrong parameters or such that contradict the source, or an `X` of too
            low a rank where it is the source.
        """
        if not isinstance(self.calibrate, (bool, np.bool_)):
            raise TypeError(f"calibrate: expected True or False, found {self.calibrate!r}")
        X = self._validated(X, reset=True)
        size: dict[str, Any] = {"ratio": self.ratio, "n_components": self.n_components}
        kind = self.kind
        if kind is None:
            kind = "late" if self.calibrate else "edge"
        if self.source is None:
            f = self._fit_to(X, self._before_calibration(size, kind, X.shape[1]), kind)
        elif isinstance(self.source, EmbedFilter) or _is_filter(self.source):
            f = self._cut(size)
        else:
            f = EmbedFilter.from_checkpoint(
                self.source,
                kind=kind,
                tensor=self.tensor,
                revision=self.revision,
                n_threads=self.n_threads,
                **self._before_calibration(size, kind, X.shape[1]),
            )
        if f.n_features_in != X.shape[1]:
            raise ValueError(
                f"X: expected (n, {f.n_features_in}), the width of the embeddings that the filter"
                f" of the source takes, found shape {X.shape}"
            )
        if self.calibrate:
            is_whole = self.ratio is None and self.n_components is None
            k = None if is_whole else resolve_n_components(X.shape[1], kind="edge", **size)
            f = f.calibrate(X, n_components=k, n_threads=self.n_threads)
        self.filter_ = f
        return self

    def _before_calibration(self, size: dict[str, Any], kind: str, d: int) -> dict[str, Any]:
        """Return the size to fit: principal axes are looked for among half of the directions."""
        if self.calibrate and resolve_n_components(d, kind=kind, **size) < d // 2:
            return {"ratio": 2}
        return size

    def _cut(self, size: dict[str, Any]) -> EmbedFilter:
        """Return the source, a filter or its file, as far as the parameters leave it."""
        f = as_filter(self.source)
        for name in ("kind", "tensor", "revision"):
            value = getattr(self, name)
            if value is not None and not (name == "kind" and value == f.kind):
                what = f"the filter's own, {f.kind!r}" if name == "kind" else "None"
                raise ValueError(
                    f"{name}: expected {what}, as the source is a filter, found {value!r}"
                )
        if self.ratio is None and self.n_components is None:
            return f
        k = resolve_n_components(f.n_features_in, kind="edge", **size)
        if k > f.n_components:
            name = "ratio" if self.n_components is None else "n_components"
            raise ValueError(
                f"{name}: expected at most the {f.n_components} components that the filter has,"
                f" found {getattr(self, name)}, for {k}"
            )
        most = max(k, f.n_features_in // 2) if self.calibrate else k
        return f.truncate(min(most, f.n_components))

    def _fit_to(self, X: NDArray[Any], size: dict[str, Any], kind: str) -> EmbedFilter:
        try:
            return EmbedFilter.from_matrix(X, kind=kind, n_threads=self.n_threads, **size)
        except ValueError as error:
            raise ValueError(
                f"{error} (without a source, the filter is fitted to X; it has"
                f" n_samples = {X.shape[0]}, n_features = {X.shape[1]})"
            ) from None

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Filter embeddings (n, d) to (n, k) float32; see `EmbedFilter.transform`."""
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        return self.filter_.transform(X, normalize=self.normalize, n_threads=self.n_threads)

    def inverse_transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Bring filtered embeddings (n, k) back to (n, d); see `EmbedFilter.inverse_transform`."""
        check_is_fitted(self)
        return self.filter_.inverse_transform(X)

    def _validated(self, X: ArrayLike, *, reset: bool) -> NDArray[Any]:
        has_features = _is_read_by_sklearn(X)
        if reset:
            self._has_features = has_features
        if not has_features:
            X = as_array(X, "X")
            if X.dtype.name == "bfloat16":
                X = X.astype(np.float32)
        array = validate_data(self, X, dtype="numeric", reset=reset)
        if array.dtype.kind in "iub":  # scikit-learn's transformers take integers
            if array.dtype.itemsize == 1:
                raise TypeError(
                    f"X: expected embeddings of a float type, found {array.dtype}: quantised"
                    " embeddings cannot be filtered; filter first, then quantise"
                )
            array = array.astype(np.float32)
        return array  # type: ignore[no-any-return]

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Return the names of the columns: ``embedfiltertransformer0`` and so on.

        Parameters
        ----------
        input_features : array-like of str, optional
            Compared with those of `fit`, unless that was given a column of embeddings, which has
            one name.
        """
        check_is_fitted(self)
        has_features = getattr(self, "_has_features", True)  # not of older pickles
        names = input_features if has_features else None
        return super().get_feature_names_out(names)  # type: ignore[no-any-return]

    @property
    def _n_features_out(self) -> int:
        """Width of the result, from which scikit-learn makes feature names."""
        return self.filter_.n_components

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
