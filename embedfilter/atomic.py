"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["atomic_output"]


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`, which takes that name when the block ends well.

    If the block raises, or the process is killed, what was at `path` before is still there;
    a killed process leaves the temporary file, ``.<name>.<random>.part``, behind.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
        If the folder cannot be written to, the disk is full, or `path` is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(21, "expected a file to write, found a folder", str(path))
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
    try:
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".part", dir=path.parent
        )
    except FileNotFoundError:
        raise FileNotFoundError(2, "no such folder", str(path.parent)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
