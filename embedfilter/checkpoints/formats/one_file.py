"""What the formats share: a checkpoint in one file, or in several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedfilter.checkpoints.encodings import decode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedfilter.checkpoints.checkpoint import Checkpoint, StoredRows
    from embedfilter.files.input_file import InputFile

__all__ = ["FileRows", "OneFile", "SeveralFiles"]


class FileRows:
    """Rows that lie one after another in a file.

    Parameters
    ----------
    file
        The open file; closed with this object.
    name
        The tensor's name, for messages.
    dtype
        The storage type.
    offset
        Where the first row starts in the file.
    row_bytes
        Stored size of a row.
    """

    def __init__(
        self, file: InputFile, *, name: str, dtype: str, offset: int, row_bytes: int
    ) -> None:
        self.file = file
        self.name = name
        self.dtype = dtype
        self.offset = offset
        self.row_bytes = row_bytes

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the stored bytes of rows `start` to `stop`, shape (stop - start, row_bytes)."""
        n_bytes = (stop - start) * self.row_bytes
        raw = self.file.read(self.offset + start * self.row_bytes, n_bytes)
        return raw.reshape(stop - start, self.row_bytes)

    def decode(self, raw: NDArray[np.uint8], start: int) -> NDArray[Any]:
        """Decode bytes that `read` returned; `start` plays no part here."""
        return decode(self.dtype, raw)

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class OneFile:
    """A checkpoint whose tensors are all in one file.

    Attributes
    ----------
    where : str
        The path, for messages.
    """

    where: str
    _file: InputFile

    def file_of(self, name: str) -> str:
        """Return the path of the file that holds a tensor: this one."""
        return self.where

    def remark(self, name: str) -> str:
        """Return what to add to the reason for choosing a tensor: nothing."""
        return ""

    def doubts(self) -> tuple[str, ...]:
        """Return why a head may be missing among the names: nothing."""
        return ()

    def close(self, keep: str | None = None) -> None:
        """Close the file, unless the tensor `keep` is still needed."""
        if keep is None:
            self._file.close()


class SeveralFiles:
    """A checkpoint in several files, each of which holds some of the tensors."""

    def holder(self, name: str) -> Checkpoint:
        """Return the open file that holds a tensor."""
        raise NotImplementedError

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, outermost dimension first."""
        return self.holder(name).shape(name)

    def dtype(self, name: str) -> str:
        """Return the storage type of a tensor."""
        return self.holder(name).dtype(name)

    def rows(self, name: str) -> StoredRows:
        """Return the rows of a matrix, which share the open file that holds it."""
        return self.holder(name).rows(name)

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return all bytes of a tensor, shape (n_bytes,)."""
        return self.holder(name).read(name)

    def remark(self, name: str) -> str:
        """Return what to add to the reason for choosing a tensor, or ""."""
        return ""

    def doubts(self) -> tuple[str, ...]:
        """Return why a head may be missing among the names."""
        return ()

    def file_of(self, name: str) -> str:
        """Return the path of the file that holds a tensor."""
        return self.holder(name).where
