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


def transforms(f: EmbedFilter) -> tuple[Any, Any]:
    """Return a filter as two faiss transforms, in the order in which they are applied.

    Returns
    -------
    linear : faiss.LinearTransform
        From d to k dimensions; with a bias where the filter is calibrated. Its
        `reverse_transform` works where the components are orthonormal: without calibration.
    unit : faiss.NormalizationTransform
        To unit length; a row of zeros stays zero.
    """
    k, d = f.components.shape
    bias = f._bias()
    linear = faiss.LinearTransform(d, k, bias is not None)
    faiss.copy_array_to_vector(f.components.ravel(), linear.A)
    if bias is not None:
        faiss.copy_array_to_vector(bias, linear.b)
    linear.is_trained = True
    linear.set_is_orthonormal()  # found out by faiss from the numbers
    return linear, faiss.NormalizationTransform(k, 2.0)


def to_faiss(f: EmbedFilter, index: Any = None) -> Any:
    """Put a filter in front of a faiss index; see `EmbedFilter.to_faiss`."""
    k = f.n_components
    if index is None:
        index = faiss.IndexFlatIP(k)
    if not isinstance(index, faiss.Index):
        raise TypeError(f"index: expected a faiss.Index, found {type(index).__name__}")
    if index.d != k:
        raise ValueError(
            f"index: expected one of {k} dimensions, those of the filtered embeddings, found"
            f" {index.d}"
        )
    linear, unit = transforms(f)
    filtered = faiss.IndexPreTransform(unit, index)
    filtered.prepend_transform(linear)
    return filtered
