"""Bounded reads from one file, paths that stay in their folder, and strict JSON.

Files are read with ``preadv``, never mapped: a mapped file that is cut while it
is in use kills the process with SIGBUS, a short read is an ordinary error.
"""

from __future__ import annotations

import json
import os
import reprlib
import stat
from typing import TYPE_CHECKING, Any

import numpy as np

from embedfilter.atomic import file_kind
from embedfilter.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path, PurePath

    from numpy.typing import NDArray

__all__ = [
    "Folder",
    "InputFile",
    "exists",
    "file_in_folder",
    "parse_json",
    "read_json",
    "shown",
]

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
        try:
            # Opening a FIFO would wait for a writer, and a device never ends.
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode):
                raise CheckpointError(
                    f"{path}: not a regular file: expected one, found a {file_kind(mode)}"
                )
            self._file = path.open("rb", buffering=0)
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
        # Checked before the memory is taken, so that a wrong size costs nothing.
        if n_bytes > self.size - offset:
            raise CheckpointError(
                f"{self.path}: incomplete download: expected {n_bytes} bytes at byte {offset}, "
                f"found {max(0, self.size - offset)}"
            )
        data = np.empty(n_bytes, dtype=np.uint8)
        view = data.data
        done = 0
        try:
            while done < n_bytes:
                part = view[done : done + _MAX_READ]
                count = os.preadv(self._file.fileno(), [part], offset + done)
                if count == 0:
                    break
                done += count
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error.strerror}") from error
        self.check_unchanged()
        if done < n_bytes:
            raise self._changed()
        return data

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


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlist = _SHORT.maxtuple = 8


def shown(value: object) -> str:
    """Return `value` as it is quoted in a message: escaped, and shortened where it is long."""
    return _SHORT.repr(value)


def exists(path: Path) -> bool:
    """Return whether there is something at `path`, following links."""
    try:
        return path.exists()
    except (OSError, ValueError) as error:  # no permission, a name too long, a NUL
        raise CheckpointError(f"{shown(str(path))}: cannot be opened: {error}") from error


def file_in_folder(folder: Path, name: str) -> Path:
    """Return the path of a file of a folder, which no link may lead out of it.

    The Hub's cache is the exception: its snapshots are links into the folder
    ``blobs`` beside ``snapshots``.

    Parameters
    ----------
    folder
        The checkpoint's folder.
    name
        A base name.

    Returns
    -------
    Path
        The path inside `folder`, not resolved; it need not exist.
    """
    path = folder / name
    try:
        target, root = path.resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise CheckpointError(f"{path}: cannot be resolved: {error}") from error
    allowed = [root]
    allowed += [parent.parent / "blobs" for parent in root.parents if parent.name == "snapshots"]
    if not any(target.is_relative_to(place) for place in allowed):
        raise CheckpointError(
            f"{path}: a link that leaves the checkpoint's folder: "
            f"expected a file in {root}, found {target}"
        )
    return path


class Folder:
    """A checkpoint's folder, whose files are opened by their names.

    Parameters
    ----------
    path
        The folder.

    Attributes
    ----------
    path : PurePath
        The folder as given, for messages.
    """

    path: PurePath

    def __init__(self, path: Path) -> None:
        self.path = self._folder = path

    def names(self) -> list[str]:
        """Return the names of the files and folders in it, sorted."""
        try:
            return sorted(path.name for path in self._folder.iterdir())
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be listed: {error.strerror}") from error

    def has(self, name: str) -> bool:
        """Return whether there is a file `name`, a base name."""
        return exists(file_in_folder(self._folder, name))

    def folder(self, name: str) -> Folder:
        """Return the folder `name` in this one, a base name."""
        return Folder(file_in_folder(self._folder, name))

    def open(self, name: str) -> InputFile:
        """Open the file `name`, a base name, which no link may lead out of the folder."""
        return InputFile(file_in_folder(self._folder, name))


def read_json(
    file: InputFile, what: str, *, limit: int, unique: bool = False, kind: type = dict
) -> Any:
    """Read and close a JSON file that is not trusted.

    Parameters
    ----------
    file
        The open file.
    what
        What it is, for messages.
    limit
        The most bytes that it may have.
    unique, kind
        As in `parse_json`.

    Returns
    -------
    dict or list
        What the file holds.
    """
    try:
        if file.size > limit:
            raise CheckpointError(
                f"{file.path}: {what}: expected at most {limit} bytes, found {file.size}"
            )
        text = file.read(0, file.size).tobytes()
    finally:
        file.close()
    return parse_json(text, file.path, what, unique=unique, kind=kind)


def parse_json(
    text: bytes, path: PurePath, what: str, *, unique: bool = True, kind: type = dict
) -> Any:
    """Parse JSON from a file that is not trusted.

    Parameters
    ----------
    text
        The JSON text.
    path
        The file it came from, for messages.
    what
        What the text is, for messages.
    unique
        Refuse an object, at any depth, that has the same key twice, or halves of characters.
    kind
        What the text must hold: dict or list.

    Returns
    -------
    dict or list
        What the text holds.
    """
    try:
        parsed = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique_pairs if unique else None,
            parse_int=_integer,
        )
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: {what} is not UTF-8: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {what} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: {what} is nested too deeply") from error
    if not isinstance(parsed, kind):
        expected = "object" if kind is dict else "array"
        raise CheckpointError(
            f"{path}: {what}: expected a JSON {expected}, found a {type(parsed).__name__}"
        )
    return parsed


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {shown(key)} occurs twice")
        result[key] = value
        # An escape such as \ud800 alone is no character; Python lets it pass.
        (key + value if isinstance(value, str) else key).encode()
    return result


def _integer(digits: str) -> int:
    # Reading a number takes time that grows with the square of its length.
    if len(digits) > 20:
        raise ValueError(f"a number of {len(digits)} digits")
    if digits == "-0":
        raise ValueError("-0, a number that is not an integer elsewhere")
    return int(digits)
