"""How the numbers of a tensor are stored, and their decoding.

Floats are handed on as they are stored. Codes of eight bits become float32, still to
be multiplied with their scales (see `scales`). Blocks of quantised weights, as GGUF has
them, become float32: the C core decodes the types that heads mostly have, the gguf package
the others. It is imported when the first such block comes.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from embedfilter import _core
from embedfilter.errors import CheckpointError
from embedfilter.files.containers.safetensors import FLOATS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BLOCKS", "CODES", "FLOATS", "decode", "decoded_itemsize", "storage_type"]

CODES = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8"}
"""Storage types that need scales, with the names of their types in ml_dtypes and NumPy."""

BLOCKS = frozenset(
    {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
    | {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"}
    | {"TQ1_0", "TQ2_0", "MXFP4", "NVFP4"}
)
"""Storage types of GGUF whose blocks hold their scales."""

# Those that the core decodes, to the bit as gguf does and many times as fast.
_BLOCKS_OF_CORE = frozenset({"Q4_0", "Q8_0", "Q4_K", "Q6_K"})

_STORAGE = {name: stored for stored, name in (FLOATS | CODES).items()} | {
    f"{kind}{bits}": f"{letter}{bits}"
    for kind, letter in (("int", "I"), ("uint", "U"))
    for bits in (8, 16, 32, 64)
}
_ITEMSIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# Numbers that a row must have for gguf to decode it at full speed.
_JOINED = 8192


def storage_type(name: str) -> str:
    """Return the storage type that NumPy, ml_dtypes and torch call `name`."""
    return _STORAGE.get(name, name)


def decoded_itemsize(dtype: str) -> int:
    """Return the size in bytes of one decoded number of the storage type `dtype`."""
    return _ITEMSIZES.get(dtype, 4)


def decode(dtype: str, raw: NDArray[np.uint8]) -> NDArray[Any]:
    """Decode whole rows.

    Parameters
    ----------
    dtype
        The storage type: of `FLOATS`, `CODES` or `BLOCKS`.
    raw : (n, row_bytes)
        The rows' bytes as they are stored, little-endian.

    Returns
    -------
    ndarray, shape (n, d)
        The numbers: for a float type a view of `raw`, else float32; codes
        without their scales.
    """
    if dtype in FLOATS:
        size = _ITEMSIZES[dtype]
        # On a big-endian machine the conversion swaps the bytes; elsewhere it is free.
        bits = raw.view(f"<u{size}").astype(f"=u{size}", copy=False)
        return bits.view(_numpy_dtype(dtype))
    if dtype in CODES:
        return _code_values(dtype)[raw]
    if dtype in _BLOCKS_OF_CORE:
        return _core.dequantize(dtype, raw)
    return _dequantise_by_gguf(dtype, raw)


@functools.cache
def _code_values(dtype: str) -> NDArray[np.float32]:
    """Return what the 256 codes stand for."""
    import ml_dtypes  # noqa: F401, PLC0415 (NumPy knows its types then; needed for few checkpoints)

    codes = np.arange(256, dtype=np.uint8).view(np.dtype(CODES[dtype]))
    values: NDArray[np.float32] = codes.astype(np.float32)
    return values


def _numpy_dtype(dtype: str) -> np.dtype[Any]:
    if dtype == "BF16":
        import ml_dtypes  # noqa: PLC0415 (needed for few checkpoints)

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(FLOATS[dtype])


def _dequantise_by_gguf(dtype: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    import gguf  # noqa: PLC0415 (slow to import, needed for quantised blocks only)

    try:
        kind = gguf.GGMLQuantizationType[dtype]
    except KeyError:
        raise CheckpointError(
            f"the installed gguf package does not decode {dtype}: expected a newer one, "
            "`pip install -U gguf`"
        ) from None
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
