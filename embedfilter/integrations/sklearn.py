"""A filter as a scikit-learn transformer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedfilter.filter import EmbedFilter
from embedfilter.fitting.kinds import resolve_n_components

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        'to use filters in scikit-learn, 1.6 or later: pip install "embedfilter[sklearn]"'
    ) from error

__all__ = ["EmbedFilterTransformer"]


class EmbedFilterTransformer(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]  # scikit-learn has no types
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Filter embeddings in a scikit-learn pipeline.

    Parameters
    ----------
    source : EmbedFilter, or what `EmbedFilter.from_checkpoint` takes, optional
        Where the filter comes from. A checkpoint is read at every `fit`; a filter is only cut
        short, which suits a search over `ratio`. Without a source the filter is fitted to the
        `X` that `fit` is given, as if `X` were the unembedding matrix: it keeps the middle of
        the spectrum of `X` itself, which is not the paper's method and promises nothing.
    ratio : number or None
        Keep ``floor(d / ratio)`` of the d dimensions. None is 2, or all that a source that is
        a filter has.
    n_components : int, optional
        Keep so many; `ratio` does not count then.
    kind : str
        As in `EmbedFilter.from_checkpoint`. A source that is a filter has its own.
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
        ratio: float | None = 2,
        n_components: int | None = None,
        kind: str = "edge",
        normalize: bool = True,
        tensor: str | None = None,
        revision: str | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.source = source
        self.ratio = ratio
        self.n_components = n_components
        self.kind = kind
        self.normalize = normalize
        self.tensor = tensor
        self.revision = revision
        self.n_threads = n_threads

    def fit(self, X: ArrayLike, y: object = None) -> EmbedFilterTransformer:
        """Make the filter, and check that it fits the embeddings.

        Parameters
        ----------
        X : (n, d) array-like of numbers, which are rounded to float32
            Embeddings. Only their width matters, unless there is no source.
        y : ignored

        Raises
        ------
        CheckpointError, FilterFileError
            If the source cannot be used.
        TypeError, ValueError
            For integers of 8 bits (quantised embeddings), NaN, infinity, a width that is not
            the filter's, wrong parameters, or an `X` of too low a rank where it is the source.
        """
        X = self._validated(X, reset=True)
        ratio = self.ratio if self.n_components is None else None
        size: dict[str, Any] = {"ratio": ratio, "n_components": self.n_components}
        if self.source is None:
            f = self._fit_to(X, size)
        elif isinstance(self.source, EmbedFilter):
            f = self.source
            if ratio is not None or self.n_components is not None:
                k = resolve_n_components(f.n_features_in, kind="edge", **size)
                f = f.truncate(k)
        else:
            f = EmbedFilter.from_checkpoint(
                self.source,
                kind=self.kind,
                tensor=self.tensor,
                revision=self.revision,
                n_threads=self.n_threads,
                **size,
            )
        if f.n_features_in != X.shape[1]:
            raise ValueError(
                f"X: expected (n, {f.n_features_in}), the width of the embeddings that the filter"
                f" of the source takes, found shape {X.shape}"
            )
        self.filter_ = f
        return self

    def _fit_to(self, X: NDArray[Any], size: dict[str, Any]) -> EmbedFilter:
        try:
            return EmbedFilter.from_matrix(X, kind=self.kind, n_threads=self.n_threads, **size)
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
        array = validate_data(self, X, dtype="numeric", reset=reset)
        if array.dtype.kind in "iub":  # scikit-learn's transformers take integers
            if array.dtype.itemsize == 1:
                raise TypeError(
                    f"X: expected embeddings of a float type, found {array.dtype}: quantised"
                    " embeddings cannot be filtered; filter first, then quantise"
                )
            array = array.astype(np.float32)
        return array  # type: ignore[no-any-return]

    @property
    def _n_features_out(self) -> int:
        """Width of the result, from which scikit-learn makes feature names."""
        return self.filter_.n_components

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
