"""A filter in front of a faiss index, which faiss saves, reads and applies by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedfilter.filter import EmbedFilter

try:
    import faiss
except ImportError as error:
    raise ImportError('to use filters in faiss: pip install "embedfilter[faiss]"') from error

__all__ = ["to_faiss", "transforms"]


def transforms(f: EmbedFilter) -> tuple[Any, ...]:
    """Return a filter as faiss transforms, in the order in which they are applied.

    Returns
    -------
    centring : faiss.CenteringTransform
        Only of a calibrated filter: its mean is taken off first, as `EmbedFilter.transform` does,
        so that a mean far from 0 costs no digits.
    linear : faiss.LinearTransform
        From d to k dimensions. Its `reverse_transform` works where the components are
        orthonormal: without calibration.
    unit : faiss.NormalizationTransform
        To unit length; a row of zeros stays zero.
    """
    k, d = f.components.shape
    linear = faiss.LinearTransform(d, k, False)
    faiss.copy_array_to_vector(f.components.ravel(), linear.A)
    linear.is_trained = True
    linear.set_is_orthonormal()  # found out by faiss from the numbers
    unit = faiss.NormalizationTransform(k, 2.0)
    if f.mean is None:
        return linear, unit
    centring = faiss.CenteringTransform(d)
    faiss.copy_array_to_vector(f.mean, centring.mean)
    centring.is_trained = True
    return centring, linear, unit


def to_faiss(f: EmbedFilter, index: Any = None) -> Any:
    """Put a filter in front of a faiss index; see `EmbedFilter.to_faiss`."""
    k = f.n_components
    if index is None:
        index = faiss.IndexFlatIP(k)
    if isinstance(index, faiss.IndexBinary):
        raise TypeError(
            f"index: expected a faiss.Index of floats, found {type(index).__name__}: add"
            ' f.transform(X, precision="ubinary") to it'
        )
    if not isinstance(index, faiss.Index):
        raise TypeError(f"index: expected a faiss.Index, found {type(index).__name__}")
    if index.d != k:
        raise ValueError(
            f"index: expected one of {k} dimensions, those of the filtered embeddings, found"
            f" {index.d}"
        )
    *first, unit = transforms(f)
    filtered = faiss.IndexPreTransform(unit, index)
    for transform in reversed(first):
        filtered.prepend_transform(transform)
    return filtered
