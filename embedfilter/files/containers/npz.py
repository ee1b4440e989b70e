"""The arrays of an .npz archive: a zip archive of .npy files."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from embedfilter.errors import CheckpointError
from embedfilter.files.containers.npy import MAX_HEADER, NpyArray, find_array
from embedfilter.files.containers.zip_file import Inflated, open_zip, stored_begin
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from embedfilter.files.input_file import InputFile

__all__ = ["NpzArchive"]

# Weights hardly compress; what shrinks more is made to fill the memory.
_MAX_RATIO = 100


class NpzArchive:
    """One .npz archive; the headers of its arrays are read as they are needed.

    Parameters
    ----------
    file
        The open file; closed by whoever opened it, or where this raises.
    """

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._where = str(file.path)
        self._arrays: dict[str, NpyArray] = {}
        try:
            file.refuse_lfs_pointer()
            self._archive = open_zip(file)
            self._entries = {_array_name(file, i): i for i in self._archive.infolist()}
        except BaseException:
            file.close()
            raise

    @property
    def names(self) -> list[str]:
        """The arrays' names."""
        return list(self._entries)

    def array(self, name: str) -> NpyArray:
        """Return where an array lies."""
        if name not in self._arrays:
            self._arrays[name] = self._find(self._entries[name])
        return self._arrays[name]

    def _find(self, info: zipfile.ZipInfo) -> NpyArray:
        where = f"{self._where}: entry {shown(info.filename)}"
        if info.compress_type == zipfile.ZIP_STORED:
            begin = stored_begin(self._file, info)
            start = self._file.read(begin, min(info.file_size, MAX_HEADER)).tobytes()
            return find_array(where, self._file, start, begin, info.file_size)
        if info.compress_type != zipfile.ZIP_DEFLATED:
            raise CheckpointError(
                f"{where}: expected it stored or deflated, as np.savez and np.savez_compressed "
                f"do, found compression {info.compress_type}"
            )
        if info.file_size > _MAX_RATIO * info.compress_size:
            raise CheckpointError(
                f"{where}: a zip bomb: expected at most {_MAX_RATIO} times its "
                f"{info.compress_size} bytes, found {info.file_size}"
            )
        data = Inflated(self._file, self._archive, info)
        start = data.read(0, min(info.file_size, MAX_HEADER)).tobytes()
        array = find_array(where, data, start, 0, info.file_size)
        if array.fortran_order:  # each row would be found by inflating all before it
            raise CheckpointError(
                f"{where}: in Fortran order and compressed: "
                "expected one of the two at most; save it with np.savez"
            )
        return array


def _array_name(file: InputFile, info: zipfile.ZipInfo) -> str:
    name = info.filename
    parts = name.replace("\\", "/").split("/")
    if not name.endswith(".npy") or not name.isprintable() or {"", ".", ".."} & set(parts):
        raise CheckpointError(
            f"{file.path}: expected an archive of .npy files, found the entry {shown(name)}"
        )
    return name.removesuffix(".npy")
