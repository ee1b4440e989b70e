"""Bounded reads from one file.

Files are read with ``preadv``, or, on Windows, from a position that is set first; never mapped: a
mapped file that is cut while it is in use kills the process with SIGBUS, a short read is an
ordinary error.
"""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING

import numpy as np

from embedfilter.errors import CheckpointError
from embedfilter.files.atomic import file_kind
from embedfilter.files.messages import NOT_THERE

if TYPE_CHECKING:
    from pathlib import Path, PurePath

    from numpy.typing import NDArray

__all__ = ["InputFile"]

# Linux and macOS refuse or shorten a single read near 2 GiB.
_MAX_READ = 1 << 30
# Git LFS pointers are a few lines of text in place of the data.
_LFS_POINTER = b"version https://git-lfs"


class InputFile:
    """A regular file open for reading.

    A read returns exactly the bytes asked for or raises
    :class:`~embedfilter.errors.CheckpointError`; it is independent of any file
    position, so threads may share the object.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    path : PurePath
        The file as given, for messages.
    size : int
        Its size in bytes when it was opened.
    """

    path: PurePath
    size: int

    def __init__(self, path: Path) -> None:
        self.path = path
        self._positioning = threading.Lock()
        try:
            # Opening a FIFO would wait for a writer, and a device never ends.
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode):
                raise CheckpointError(
                    f"{path}: not a regular file: expected one, found a {file_kind(mode)}"
                )
            self._file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: {NOT_THERE}") from error
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be opened: {error.strerror}") from error
        self.size = self._current_size()

    def refuse_lfs_pointer(self) -> None:
        """Raise when the file is the small text that stands for a file in Git LFS."""
        start = self.read(0, min(self.size, len(_LFS_POINTER)))
        if start.tobytes() == _LFS_POINTER:
            raise CheckpointError(
                f"{self.path}: a Git LFS pointer, not the data; fetch it with `git lfs pull`"
            )

    def read(self, offset: int, n_bytes: int) -> NDArray[np.uint8]:
        """Return `n_bytes` bytes that start at byte `offset`.

        Parameters
        ----------
        offset
            Distance of the first byte from the start of the file.
        n_bytes
            Number of bytes.

        Returns
        -------
        ndarray of uint8, shape (n_bytes,)
            The bytes, in memory of their own.
        """
        self._check_end(offset, n_bytes)  # before the memory is taken: a wrong size costs nothing
        data = np.empty(n_bytes, dtype=np.uint8)
        self.read_into(offset, data)
        return data

    def read_into(self, offset: int, memory: NDArray[np.uint8]) -> None:
        """Fill `memory`, (n_bytes,), with the bytes from byte `offset` on."""
        n_bytes = len(memory)
        self._check_end(offset, n_bytes)
        view = memory.data
        done = 0
        try:
            while done < n_bytes:
                part = view[done : done + _MAX_READ]
                count = self._read_some(offset + done, part)
                if count == 0:
                    break
                done += count
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error.strerror}") from error
        self.check_unchanged()
        if done < n_bytes:
            raise self._changed()

    def _read_some(self, offset: int, part: memoryview) -> int:
        """Read into the beginning of `part`, and return how many bytes; 0 at the file's end."""
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [part], offset)
        with self._positioning:
            self._file.seek(offset)
            return self._file.readinto(part) or 0

    def _check_end(self, offset: int, n_bytes: int) -> None:
        if n_bytes > self.size - offset:
            raise CheckpointError(
                f"{self.path}: incomplete download: expected {n_bytes} bytes at byte {offset}, "
                f"found {max(0, self.size - offset)}"
            )

    def check_unchanged(self) -> None:
        """Raise when the file has another size than it had at first."""
        if self._current_size() != self.size:
            raise self._changed()

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        self._file.close()

    def _changed(self) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: changed while it was read: expected {self.size} bytes, "
            f"found {self._current_size()}"
        )

    def _current_size(self) -> int:
        return os.fstat(self._file.fileno()).st_size
