"""Sizes and types that each kernel is tried with."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import embedfilter

WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 63,
          64, 65, 95, 96, 97, 127, 128, 129, 255, 256, 257, 300)  # fmt: skip
FLOATS = ("float16", "bfloat16", "float32", "float64")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def cast(values: NDArray, name: str) -> NDArray:
    return values.astype(BFLOAT16 if name == "bfloat16" else name)


def on_scalar(function, *args, **kwargs):
    before = embedfilter.get_isa()
    embedfilter.set_isa("scalar")
    try:
        return function(*args, **kwargs)
    finally:
        embedfilter.set_isa(before)
