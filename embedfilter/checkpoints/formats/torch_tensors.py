"""Rows of torch tensors: those of an open model, and those that torch.load maps into memory.

torch is never imported here: whoever hands over a tensor has loaded it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from embedfilter.checkpoints.encodings import decode, storage_type
from embedfilter.errors import CheckpointError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TorchRows", "tensor_bytes", "torch_storage_type"]


class TorchRows:
    """Rows of a dense matrix, on any device, copied a block at a time.

    Parameters
    ----------
    tensor
        The matrix; let go of when this object is closed.
    where, name
        The file or model, and the tensor's name, for messages.
    check
        Called before each read; raises where the tensor's memory must not be touched.
    close
        Called when this object is closed.
    """

    def __init__(
        self,
        tensor: Any,
        *,
        where: str,
        name: str,
        check: Callable[[], None],
        close: Callable[[], None],
    ) -> None:
        if tensor.is_meta:
            raise CheckpointError(
                f"{where}: tensor {shown(name)}: expected numbers, found none: it is on the meta "
                "device"
            )
        self._tensor = tensor
        self._dtype = torch_storage_type(tensor)
        self._check = check
        self._close = close

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return rows `start` to `stop` as little-endian bytes, shape (stop - start, row_bytes)."""
        self._check()
        return tensor_bytes(self._tensor[start:stop])

    def decode(self, raw: NDArray[np.uint8], start: int) -> NDArray[Any]:
        """Decode bytes that `read` returned; `start` plays no part here."""
        return decode(self._dtype, raw)

    def close(self) -> None:
        """Let go of the tensor."""
        self._tensor = self._tensor[:0]
        self._close()


def torch_storage_type(tensor: Any) -> str:
    """Return the storage type of a tensor."""
    return storage_type(str(tensor.dtype).removeprefix("torch."))


def tensor_bytes(tensor: Any) -> NDArray[np.uint8]:
    """Return a copy of a tensor's numbers as little-endian bytes, row after row."""
    torch = sys.modules["torch"]
    size = tensor.element_size()
    copy = tensor.detach().to("cpu", copy=True).contiguous()
    raw: NDArray[np.uint8] = copy.view(torch.uint8).numpy()
    return raw.view(f"=u{size}").astype(f"<u{size}", copy=False).view("u1")
