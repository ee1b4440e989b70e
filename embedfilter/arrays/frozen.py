"""Arrays that do not change."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["frozen"]


def frozen(array: NDArray[Any], dtype: type) -> NDArray[Any]:
    """Return a C-contiguous array that cannot be written to; a copy if others may write to it."""
    result: NDArray[Any] = np.ascontiguousarray(array, dtype)
    if result.flags.writeable:
        if result is array or result.base is not None:
            result = result.copy()
        result.flags.writeable = False
    return result
