"""Zip archives that are not trusted: .npz files, and those that torch.save writes.

Nothing is extracted. What zipfile reads of the directory at the archive's end is bounded,
and so is what it makes of it.
"""

from __future__ import annotations

import io
import struct
import threading
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from embedfilter.errors import CheckpointError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedfilter.files.input_file import InputFile

__all__ = ["Inflated", "open_zip", "stored_begin"]

# A directory entry takes at least 46 bytes, so that this is 90 000 at most.
_MAX_DIRECTORY = 4 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_CHUNK = 1 << 20
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, struct.error)


class _SeekableFile(io.RawIOBase):
    """An `InputFile` as zipfile wants it, which refuses long reads."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._position = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._file.size)[whence]
        if self._position < 0:
            raise OSError("a position before the start of the file")
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._file.size - self._position)
        size = left if size < 0 else min(size, left)
        if size > _MAX_DIRECTORY:
            raise zipfile.BadZipFile(
                f"expected a directory of at most {_MAX_DIRECTORY} bytes, found {size}"
            )
        data = self._file.read(self._position, size).tobytes()
        self._position += size
        return data


def open_zip(file: InputFile) -> zipfile.ZipFile:
    """Open an archive after checking where its directory says that the entries are.

    Parameters
    ----------
    file
        The open file.

    Returns
    -------
    ZipFile
        The archive; closing it leaves `file` open.
    """
    try:
        archive = zipfile.ZipFile(_SeekableFile(file))
    except _DAMAGED as error:
        raise CheckpointError(f"{file.path}: not a sound zip archive: {error}") from error
    names: set[str] = set()
    for info in archive.infolist():
        where = f"{file.path}: entry {shown(info.filename)}"
        if info.filename in names:
            raise CheckpointError(f"{where} occurs twice")
        names.add(info.filename)
        if info.flag_bits & 1:
            raise CheckpointError(f"{where} is encrypted")
        if not 0 <= info.header_offset <= file.size - info.compress_size:
            raise CheckpointError(
                f"{where}: incomplete download: expected {info.compress_size} bytes at byte "
                f"{info.header_offset}, found a file of {file.size}"
            )
    return archive


def stored_begin(file: InputFile, info: zipfile.ZipInfo) -> int:
    """Return where the data of an entry begin, which is stored without compression."""
    header = file.read(info.header_offset, _LOCAL_HEADER.size).tobytes()
    magic, n_name, n_extra = _LOCAL_HEADER.unpack(header)
    begin: int = info.header_offset + _LOCAL_HEADER.size + n_name + n_extra
    if magic != b"PK\x03\x04" or info.file_size > file.size - begin:
        raise CheckpointError(
            f"{file.path}: entry {shown(info.filename)}: expected {info.file_size} bytes after "
            f"a header at byte {info.header_offset}, found {shown(magic)} and "
            f"{max(0, file.size - begin)} bytes"
        )
    return begin


class Inflated:
    """A compressed entry, read in order; reading backwards starts again.

    Parameters
    ----------
    file
        The open file; closed with this object.
    archive
        The archive in it.
    info
        The entry.
    """

    def __init__(self, file: InputFile, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self.where = f"{file.path}: entry {shown(info.filename)}"
        self._file = file
        self._archive = archive
        self._info = info
        self._stream: IO[bytes] | None = None
        self._position = 0
        self._lock = threading.Lock()

    def read(self, offset: int, n_bytes: int) -> NDArray[np.uint8]:
        """Return `n_bytes` bytes of the entry that start at byte `offset`."""
        data = np.empty(n_bytes, np.uint8)
        self.read_into(offset, data)
        return data

    def read_into(self, offset: int, memory: NDArray[np.uint8]) -> None:
        """Fill `memory` with the bytes from byte `offset` of the entry on."""
        with self._lock:
            try:
                if self._stream is None or offset < self._position:
                    self._stream, self._position = self._archive.open(self._info), 0
                while self._position < offset:
                    self._take(self._stream, min(_CHUNK, offset - self._position))
                done = 0
                while done < len(memory):
                    part = self._take(self._stream, min(_CHUNK, len(memory) - done))
                    memory[done : done + len(part)] = np.frombuffer(part, np.uint8)
                    done += len(part)
            except _DAMAGED as error:
                self._stream = None
                raise CheckpointError(f"{self.where}: damaged: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _take(self, stream: IO[bytes], n_bytes: int) -> Any:
        part = stream.read(n_bytes)
        if not part:
            raise EOFError(
                f"expected {self._info.file_size} bytes, found an end at {self._position}"
            )
        self._position += len(part)
        return part
