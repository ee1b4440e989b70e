"""How the numbers of a tensor are stored, and their decoding.

Floats are handed on as they are stored; blocks of quantised weights are decoded
to float32 by the gguf package, which is imported when the first block comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FLOATS", "decode", "decoded_itemsize"]

FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Storage types that are not decoded, with the names of their NumPy types."""

_ITEMSIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# Numbers that a row must have for gguf to decode it at full speed.
_JOINED = 8192


def decoded_itemsize(dtype: str) -> int:
    """Return the size in bytes of one decoded number of the storage type `dtype`."""
    return _ITEMSIZES.get(dtype, 4)


def decode(dtype: str, raw: NDArray[np.uint8]) -> NDArray[Any]:
    """Decode whole rows.

    Parameters
    ----------
    dtype
        The storage type: a key of `FLOATS`, or a block type of GGUF.
    raw : (n, row_bytes)
        The rows' bytes as they are stored, little-endian.

    Returns
    -------
    ndarray, shape (n, d)
        The numbers: for a float type a view of `raw`, else float32.
    """
    if dtype in FLOATS:
        size = _ITEMSIZES[dtype]
        # On a big-endian machine the conversion swaps the bytes; elsewhere it is free.
        bits = raw.view(f"<u{size}").astype(f"=u{size}", copy=False)
        return bits.view(_numpy_dtype(dtype))
    return _dequantise(dtype, raw)


def _numpy_dtype(dtype: str) -> np.dtype[Any]:
    if dtype == "BF16":
        import ml_dtypes  # noqa: PLC0415 (needed for few checkpoints)

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(FLOATS[dtype])


def _dequantise(dtype: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    import gguf  # noqa: PLC0415 (slow to import, needed for quantised blocks only)

    kind = gguf.GGMLQuantizationType[dtype]
    elements, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    n_rows, row_bytes = raw.shape
    n_columns = row_bytes // n_bytes * elements
    rows = np.empty((n_rows, n_columns), dtype=np.float32)
    # gguf decodes 16 rows a step, whatever their length, and blocks know nothing of rows: short
    # rows are joined to make the steps worth their cost, which is up to three times faster.
    joined = 1
    while 2 * joined * n_columns <= _JOINED:
        joined *= 2
    whole = n_rows // joined * joined
    # Damaged scales give Inf and NaN, which the caller looks for in the result:
    # a warning from the middle of the arithmetic would tell no more.
    with np.errstate(all="ignore"):
        for start, stop, width in ((0, whole, joined), (whole, n_rows, 1)):
            if start < stop:
                blocks = raw[start:stop].reshape(-1, width * row_bytes)
                decoded = gguf.quants.dequantize(blocks, kind)
                rows[start:stop] = decoded.reshape(stop - start, n_columns)
    return rows
