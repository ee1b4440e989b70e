"""Codes of eight bits that are multiplied with scales stored in a tensor beside them.

The scales have two dimensions in the end, (r, c), and each serves a block of the
matrix (V, d):

=====================  ==============  ==============================================
scales as stored       one for         written by
=====================  ==============  ==============================================
(), (1,), (1, 1)       the matrix      ModelOpt, compressed-tensors, TensorRT-LLM
(V,), (V, 1)           a row           FBGEMM, compressed-tensors
(ceil(V/a), ceil(d/b)  a rows and      DeepSeek, Qwen, transformers' fine-grained FP8;
                       b columns       a and b are 128 unless config.json states them
=====================  ==============  ==============================================

Whether the tensor is called weight_scale or weight_scale_inv, weights are the
codes *times* the scales.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embedfilter.checkpoints.encodings import FLOATS, decode
from embedfilter.errors import CheckpointError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedfilter.checkpoints.checkpoint import Checkpoint, StoredRows

__all__ = ["ScaledRows", "scaled_rows"]

_BLOCK = (128, 128)


class ScaledRows:
    """Rows of codes, decoded with their scales.

    Parameters
    ----------
    codes
        The rows as they are stored; closed with this object.
    scales : (r, c) float32
        The scales.
    block
        How many rows and columns share a scale.
    """

    def __init__(
        self, codes: StoredRows, scales: NDArray[np.float32], block: tuple[int, int]
    ) -> None:
        self._codes = codes
        self._scales = scales
        self._block = block

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the stored codes of rows `start` to `stop`."""
        return self._codes.read(start, stop)

    def decode(self, raw: NDArray[np.uint8], start: int) -> NDArray[Any]:
        """Decode codes that `read` returned, the first of row `start`, to float32."""
        rows = self._codes.decode(raw, start)
        n_rows, n_columns = self._block
        scales = self._scales[np.arange(start, start + len(rows)) // n_rows]
        # Inf and NaN among codes and scales are looked for by whoever uses the rows.
        with np.errstate(all="ignore"):
            for column in range(scales.shape[1]):
                part = rows[:, column * n_columns : (column + 1) * n_columns]
                part *= scales[:, column, None]
        return rows

    def close(self) -> None:
        """Close the codes."""
        self._codes.close()


def scaled_rows(
    checkpoint: Checkpoint,
    name: str,
    scale: str,
    shape: tuple[int, int],
    block: tuple[int, int] | None,
) -> ScaledRows:
    """Return the rows of a matrix of codes, decoded with a tensor of scales.

    Parameters
    ----------
    checkpoint
        What holds both.
    name, scale
        The names of the two tensors.
    shape
        Shape (V, d) of the matrix.
    block
        Rows and columns that share a scale, where the config states them.

    Returns
    -------
    ScaledRows
        The rows.
    """
    n_rows, n_columns = shape
    a, b = block or _BLOCK
    layouts = {
        (1, 1): shape,
        (n_rows, 1): (1, n_columns),
        (-(-n_rows // a), -(-n_columns // b)): (a, b),
    }
    where = f"{checkpoint.file_of(scale)}: tensor {shown(scale)}"
    stored = checkpoint.shape(scale)
    # A scale for each row may lack the second dimension, one for all has none.
    table = stored if len(stored) == 2 else (*stored, 1, 1)[:2] if len(stored) < 2 else None
    if table not in layouts:
        expected = ", ".join(map(str, layouts))
        raise CheckpointError(
            f"{where}: expected scales of shape {expected} for {shown(name)} of shape {shape}, "
            f"found shape {shown(stored)}"
        )
    dtype = checkpoint.dtype(scale)
    if dtype not in FLOATS:
        raise CheckpointError(f"{where}: expected scales of {', '.join(FLOATS)}, found {dtype}")
    scales = decode(dtype, checkpoint.read(scale)[None]).reshape(table).astype(np.float32)
    if scale.endswith(".SCB"):  # of bitsandbytes: the largest magnitude of each row
        scales /= np.float32(127)
    return ScaledRows(checkpoint.rows(name), scales, layouts[table])
