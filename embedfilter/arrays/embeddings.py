"""Embeddings as users hand them over: what is accepted, and as what the C core gets it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfilter.arrays.columns import as_array

__all__ = [
    "PRECISIONS",
    "as_embeddings",
    "bad_rows_message",
    "check_output",
    "core_view",
    "output_dtype",
    "quantization",
]

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_NATIVE = frozenset(np.dtype(name) for name in ("float16", "float32", "float64"))
PRECISIONS = ("float32", "float16", "bfloat16", "int8", "uint8", "ubinary")
_SHOWN_ROWS = 5


def as_embeddings(
    X: Any, d: int | None, *, origin: str = "", name: str = "X"
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return embeddings as a 2-D array that the C core can read.

    Parameters
    ----------
    X : array-like, (..., d) or (0,)
        What `embedfilter.arrays.columns.as_array` takes: arrays, tensors, frames, columns. Of
        float16, bfloat16, float32 or float64, with any strides and byte order. Not copied
        where the elements of a row are adjacent, aligned and in native order.
    d : int or None
        The width expected; None for any.
    origin : str
        Whose width that is, for the message.
    name : str
        The argument's name, for messages.

    Returns
    -------
    given : array (..., d)
        The memory of `X` as it is, to compare with; a copy only if `X` was no array. (0,),
        which is what encoders return for no texts, becomes (0, d).
    array : (n, d)
        All its rows: (d,) becomes (1, d), (m, t, d) becomes (m t, d).

    Raises
    ------
    TypeError
        For anything that is not an array of those types.
    ValueError
        For another shape.
    """
    if type(X) is np.ndarray and X.dtype in _NATIVE and X.ndim == 2 and X.shape[1] == d:
        flags = X.flags
        if flags.c_contiguous and flags.aligned:
            return X, X  # by far the most frequent: no more to ask
    given = as_array(X, name)
    if given.dtype.name not in _FLOATS:
        hint = ""
        if given.dtype.kind in "iu" and given.size:
            hint = ": quantised embeddings cannot be filtered; filter first, then quantise"
        found = given.dtype if given.dtype.names is None else "named fields"
        raise TypeError(f"{name}: expected one of {', '.join(_FLOATS)}, found {found}{hint}")
    width = d if d is not None else given.shape[-1] if given.ndim else 0
    if given.shape in ((0,), (0, 0)):  # an empty column does not tell how long its lists are
        given = given.reshape(0, width)
    if given.ndim == 0 or given.shape[-1] != width:
        wanted = "(..., d)" if d is None else f"(n, {d}){origin}"
        raise ValueError(f"{name}: expected {wanted}, found shape {given.shape}")
    n_rows = math.prod(given.shape[:-1])
    if not (width == 1 or given.strides[-1] == given.itemsize or not given.size):
        array = np.ascontiguousarray(given)
    else:
        array = given
    array = array.reshape(n_rows, width)
    if not (array.flags.aligned and array.dtype.isnative):
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    return given, array


def core_view(rows: NDArray[Any]) -> NDArray[Any]:
    """Return bfloat16 as the uint16 that the C core takes for it, other types as they are."""
    if rows.dtype in _NATIVE or rows.dtype.itemsize == 1:
        return rows
    return rows.view(np.uint16)


def bad_rows_message(array: NDArray[Any], name: str = "X") -> str:
    """Say which rows of an array (..., d) have NaN or infinity; the array has some."""
    with np.errstate(invalid="ignore"):  # bfloat16's signalling NaN
        bad = ~np.isfinite(np.atleast_2d(array)).all(axis=-1)
    places = np.argwhere(bad)
    rows = [
        str(place[0] if bad.ndim == 1 else tuple(place)) for place in places[:_SHOWN_ROWS].tolist()
    ]
    shown = ", ".join(rows) + (", ..." if len(places) > _SHOWN_ROWS else "")
    return (
        f"{name}: expected finite numbers, found NaN or infinity in {len(places)} of"
        f" {bad.size} rows: {shown}"
    )


def output_dtype(precision: str) -> np.dtype[Any]:
    """Return the NumPy dtype of a precision, or raise ValueError for an unknown one."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}")
    if precision == "bfloat16":
        import ml_dtypes  # noqa: PLC0415 - only where bfloat16 comes up

        brain: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return brain
    return np.dtype("uint8" if precision == "ubinary" else precision)


def check_output(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], X: NDArray[Any]
) -> NDArray[Any]:
    """Return the caller's output array, or raise if the result cannot be written there."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected an array, found {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"out: expected shape {shape} and dtype {dtype}, found {out.shape} and {out.dtype}"
        )
    if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise ValueError("out: expected a C-contiguous, aligned, writeable array, found another")
    if np.may_share_memory(out, X):
        raise ValueError("out: expected memory of its own, found an overlap with X")
    return out


def quantization(
    ranges: Any, k: int, precision: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | tuple[None, None]:
    """Return the starts and steps of int8 or uint8 output; None for the other precisions.

    The levels are those of sentence-transformers' ``quantize_embeddings``: the range of each
    dimension is divided into 255 steps.

    Parameters
    ----------
    ranges : (2, k) array-like or None
        The least and the greatest value of each dimension, in float32.
    k : int
    precision : str

    Raises
    ------
    ValueError
        If they are missing, of another shape, not finite or not ascending.
    """
    if precision not in ("int8", "uint8"):
        if ranges is not None:
            raise ValueError(f"ranges: expected None for precision {precision!r}, found some")
        return None, None
    if ranges is None:
        raise ValueError(
            f"ranges: expected the least and greatest value of each dimension, (2, {k}), for"
            f" precision {precision!r}, found None, and the filter has none for such rows"
        )
    try:
        ranges = np.asarray(ranges, np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(f"ranges: expected numbers of shape (2, {k}): {error}") from error
    if ranges.shape != (2, k):
        raise ValueError(f"ranges: expected shape (2, {k}), found {ranges.shape}")
    starts, ends = np.ascontiguousarray(ranges)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = (ends - starts) / np.float32(255)
    wrong = ~(np.isfinite(ranges).all(axis=0) & np.isfinite(steps) & (steps > 0))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"ranges: expected least < greatest, both finite, in every dimension, found"
            f" {starts[first]} and {ends[first]} in dimension {first}"
        )
    return starts, steps
