"""Files that appear whole or not at all, and such as are gone in the end."""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["atomic_output", "check_target", "file_kind", "temporary_file"]

_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def file_kind(mode: int) -> str:
    """Return what a file that is not a regular one is, from its ``st_mode``, for messages."""
    return _KINDS.get(stat.S_IFMT(mode), "special file")


def check_target(path: Path) -> tuple[Path, int | None]:
    """Find out whether `path` can be written to, before there is anything to write.

    Returns
    -------
    target : Path
        Where to write: a symbolic link is followed, since a rename would replace it.
    mode : int or None
        The permissions of the file that is there, if one is.

    Raises
    ------
    OSError
        If it cannot be written to.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not target.parent.is_dir():
            folder = target.parent if path.is_symlink() else path.parent
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(folder)) from None
        return target, None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "expected a file to write, found a folder", str(path))
    if not stat.S_ISREG(mode):
        found = file_kind(mode)
        raise OSError(errno.EINVAL, f"expected a regular file to write, found a {found}", str(path))
    # A rename needs permission for the folder only.
    if not os.access(path, os.W_OK):
        found = f"mode {stat.S_IMODE(mode):04o}"
        raise PermissionError(
            errno.EACCES, f"expected a file that may be written, found {found}", str(path)
        )
    return target, mode & 0o777


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`, which takes that name when the block ends well.

    If the block raises, or the process is killed, what was at `path` before is still there;
    a killed process leaves the temporary file, ``.<random>.part``, behind. A file that exists
    keeps its permissions. A symbolic link stays one: the file it leads to is written. A file that
    is mounted by itself cannot be replaced and is written over: if that fails, what was to be
    written is kept beside it, as ``.<random>.kept``.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
        If the folder or the file cannot be written to, the disk is full, or there is something
        at `path` that is not a regular file. It names `path`.
    """
    target, mode = check_target(path)
    # A name of its own length, since that of the target may be as long as names can be.
    temporary = target.with_name(f".{os.urandom(8).hex()}.part")
    output = _Output(temporary, "xb", path)
    try:
        with io.BufferedWriter(output) as file:
            yield file
            with _naming(path):
                file.flush()
                if mode is not None:
                    temporary.chmod(mode)
                os.fsync(output.fileno())
        with _naming(path):
            _put(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _put(temporary: Path, target: Path) -> None:
    """Give a file its name; one that is mounted by itself, as containers do, is written over.

    That alone can be cut short: what was to be written is then kept beside it, and told.
    """
    try:
        temporary.replace(target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        kept = temporary.with_suffix(".kept")
        temporary.rename(kept)
        try:
            with kept.open("rb") as source, target.open("r+b") as file:
                shutil.copyfileobj(source, file)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        except OSError as failure:
            told = f"{failure.strerror}; all that was to be written is in {kept.name}"
            raise OSError(failure.errno, told) from None
        kept.unlink()


@contextlib.contextmanager
def temporary_file(*, is_named: bool = False) -> Iterator[BinaryIO]:
    """Open a file to write and to read, by its name, too, if asked, until the block ends.

    A file without a name is gone whatever ends the process, but on Windows.

    Raises
    ------
    OSError
        If the disk is full, or there is no such folder. It names the folder.
    """
    folder = tempfile.gettempdir()
    place = f"{folder}, the folder of temporary files (TMPDIR names another)"
    with _naming(place):
        descriptor, name = tempfile.mkstemp(prefix="embedfilter-", dir=folder)
    raw = _Output(descriptor, "r+b", place)
    raw.name = name
    try:
        if not is_named:
            _remove(Path(name))
        with io.BufferedRandom(raw) as file:
            yield file
    finally:
        _remove(Path(name))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except PermissionError:  # Windows removes no file that is open
        atexit.register(path.unlink, missing_ok=True)


class _Output(io.FileIO):
    """An open file whose errors name the place that the user knows it by."""

    def __init__(self, file: Path | int, mode: str, place: Path | str) -> None:
        with _naming(place):
            super().__init__(file, mode)
        self._place = place

    def write(self, data: Any, /) -> int:
        with _naming(self._place):
            return super().write(data)


@contextlib.contextmanager
def _naming(place: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(place)) from None
