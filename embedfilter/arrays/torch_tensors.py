"""Torch tensors as arrays, without importing torch: whoever hands one over has loaded it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_torch", "tensor_to_array"]


def is_torch(value: Any) -> bool:
    """Tell whether a value is a torch tensor, or of another of torch's own types."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return True
    return type(value).__module__.partition(".")[0] == "torch"


def tensor_to_array(tensor: Any) -> NDArray[Any]:
    """Return the memory of a dense tensor on the CPU, without gradients, as an array.

    bfloat16, which torch does not hand to NumPy, becomes ``ml_dtypes.bfloat16``.

    Raises
    ------
    TypeError
        If it has no memory (meta tensors), is sparse, or of a type that NumPy lacks.
    """
    torch = sys.modules["torch"]
    try:
        if tensor.dtype != torch.bfloat16:
            return np.asarray(tensor.numpy())
        bits = tensor.view(torch.int16).numpy()
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise TypeError(
            f"expected a dense tensor of a float type, found {tensor.dtype},"
            f" {tensor.layout}, on {tensor.device}: {error}"
        ) from error
    import ml_dtypes  # noqa: PLC0415 - only where bfloat16 comes up

    return np.asarray(bits.view(ml_dtypes.bfloat16))
