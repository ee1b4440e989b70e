"""What a format gives of an open checkpoint; a format is added by a class that has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Checkpoint", "StoredRows", "TensorList"]


class StoredRows(Protocol):
    """Rows of a matrix where they are stored."""

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the stored bytes of rows `start` to `stop`, shape (stop - start, row_bytes)."""

    def decode(self, raw: NDArray[np.uint8], start: int) -> NDArray[Any]:
        """Decode bytes that `read` returned; `start` is the number of their first row."""

    def close(self) -> None:
        """Release what is open."""


class TensorList(Protocol):
    """The tensors of a checkpoint, as the choice needs them."""

    where: str
    """The file or folder, for messages."""

    @property
    def names(self) -> Sequence[str]:
        """The tensors' names."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""

    def dtype(self, name: str) -> str:
        """Return the storage type of a tensor."""

    def rows(self, name: str) -> StoredRows:
        """Return the rows of a matrix."""


class Checkpoint(TensorList, Protocol):
    """The tensors of an open checkpoint, in one file or several."""

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return all bytes of a tensor, little-endian, shape (n_bytes,)."""

    def file_of(self, name: str) -> str:
        """Return the path of the file that holds a tensor, for messages."""

    def remark(self, name: str) -> str:
        """Return what to add to the reason for choosing a tensor, or "", even after `close`."""

    def doubts(self) -> tuple[str, ...]:
        """Return why a head may be missing among the names, even after `close`."""

    def close(self, keep: str | None = None) -> None:
        """Close all files but the one that holds the tensor `keep`."""
