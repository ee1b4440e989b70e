"""Checkpoints in one safetensors file; the format itself is read in `files.containers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedfilter.checkpoints.formats.one_file import FileRows, OneFile
from embedfilter.errors import CheckpointError
from embedfilter.files.containers.safetensors import SafetensorsFile
from embedfilter.files.filter_file import is_filter

if TYPE_CHECKING:
    from embedfilter.files.input_file import InputFile

__all__ = ["SafetensorsCheckpoint"]


class SafetensorsCheckpoint(OneFile, SafetensorsFile):
    """The tensors of a safetensors file.

    Parameters
    ----------
    file
        The open file; closed with this object.
    """

    def __init__(self, file: InputFile) -> None:
        super().__init__(file)
        if is_filter(self):
            file.close()
            raise CheckpointError(
                f"{self.where}: this is a filter, not a checkpoint: expected a model's weights, "
                "found what 'embedfilter fit' writes"
            )

    def rows(self, name: str) -> FileRows:
        """Return the rows of a matrix, which share this object's open file."""
        info = self.tensors[name]
        n_rows = info.shape[0]
        return FileRows(
            self._file,
            name=name,
            dtype=info.dtype,
            offset=info.offset,
            row_bytes=info.n_bytes // n_rows if n_rows else 0,
        )
