"""A plain matrix in memory as a source: a NumPy array, an array-like or a torch tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embedfilter.arrays.columns import as_array
from embedfilter.arrays.limits import MAX_HIDDEN_SIZE
from embedfilter.arrays.torch_tensors import is_torch, tensor_to_array
from embedfilter.checkpoints.encodings import FLOATS, decode, storage_type
from embedfilter.checkpoints.unembedding import Unembedding

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ArrayRows", "open_array"]


class ArrayRows:
    """Rows of an array with two dimensions, of any strides and byte order.

    Parameters
    ----------
    array : (V, d)
        The matrix; never written to.
    dtype
        Its storage type, a key of `FLOATS`.
    """

    def __init__(self, array: NDArray[Any], dtype: str) -> None:
        self._array = array.view()
        self._array.flags.writeable = False
        self._dtype = dtype

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return rows `start` to `stop` as little-endian bytes, shape (stop - start, row_bytes)."""
        rows = self._array[start:stop]
        native = rows.astype(rows.dtype.newbyteorder("="), copy=False)
        rows = np.require(native, requirements=["C_CONTIGUOUS", "ALIGNED"])
        size = rows.dtype.itemsize
        bits: NDArray[Any] = rows.view(f"=u{size}").astype(f"<u{size}", copy=False)
        return bits.view(np.uint8)

    def decode(self, raw: NDArray[np.uint8], start: int) -> NDArray[Any]:
        """Decode bytes that `read` returned; `start` plays no part here."""
        return decode(self._dtype, raw)

    def close(self) -> None:
        """Let go of the array."""
        self._array = self._array[:0]


def open_array(source: Any, *, argument: str = "source") -> Unembedding:
    """Return the unembedding matrix that an array holds.

    Parameters
    ----------
    source : array-like, shape (V, d)
        Of float16, bfloat16, float32 or float64.
    argument
        What the caller's argument is called, for messages.

    Returns
    -------
    Unembedding
        With the name "array".
    """
    array = (
        _from_torch(source, argument)
        if _is_model_or_tensor(source)
        else _from_array_like(source, argument)
    )
    dtype = storage_type(array.dtype.name)
    if dtype not in FLOATS:
        raise TypeError(
            f"{argument}: expected an array of float16, bfloat16, float32 or float64, "
            f"found dtype {array.dtype}"
        )
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"{argument}: expected an array of shape (vocabulary, hidden size), "
            f"found shape {array.shape}"
        )
    if array.shape[1] > MAX_HIDDEN_SIZE:
        raise ValueError(
            f"{argument}: expected a hidden size of at most {MAX_HIDDEN_SIZE}, "
            f"found {array.shape[1]}"
        )
    return Unembedding(
        ArrayRows(array, dtype),
        source="array",
        name="array",
        shape=(int(array.shape[0]), int(array.shape[1])),
        dtype=dtype,
        tied=False,
        reason="an array was given",
    )


def _is_model_or_tensor(source: Any) -> bool:
    return is_torch(source) or hasattr(source, "named_parameters")


def _from_array_like(source: Any, argument: str) -> NDArray[Any]:
    if isinstance(source, np.ma.MaskedArray):
        raise TypeError(f"{argument}: expected an array without a mask, found a masked array")
    if isinstance(source, np.ndarray) and source.dtype == object and source.ndim != 1:
        raise TypeError(
            f"{argument}: expected an array of numbers, found dtype object: astype makes it one"
        )
    return as_array(source, argument)


def _from_torch(tensor: Any, argument: str) -> NDArray[Any]:
    if not hasattr(tensor, "detach"):
        raise TypeError(
            f"{argument}: expected an array, found a model ({type(tensor).__name__}); pass it to "
            "from_checkpoint, or its head's weight, such as model.lm_head.weight"
        )
    try:
        # Meta tensors have no numbers to bring over.
        return tensor_to_array(tensor.detach().cpu())
    except (NotImplementedError, TypeError) as error:
        raise TypeError(f"{argument}: {error}") from error
