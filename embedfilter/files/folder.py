"""A folder whose files are opened by their names, which no link leads out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedfilter.errors import CheckpointError
from embedfilter.files.input_file import InputFile
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from pathlib import Path, PurePath

__all__ = ["Folder", "exists", "file_in_folder"]


def exists(path: Path) -> bool:
    """Return whether there is something at `path`, following links."""
    try:
        return path.exists()
    except (OSError, ValueError) as error:  # no permission, a name too long, a NUL
        raise CheckpointError(f"{shown(str(path))}: cannot be opened: {error}") from error


def file_in_folder(folder: Path, name: str) -> Path:
    """Return the path of a file of a folder, which no link may lead out of it.

    The Hub's cache is the exception: its snapshots are links into the folder
    ``blobs`` beside ``snapshots``, and where ``hf download --local-dir`` has linked, a folder
    elsewhere has links into the folder ``blobs`` of a ``models--owner--name``.

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
    blobs = target.parent
    if blobs.name == "blobs" and blobs.parent.name.startswith("models--"):
        return path
    if not any(target.is_relative_to(place) for place in allowed):
        raise CheckpointError(
            f"{path}: a link that leaves the checkpoint's folder: "
            f"expected a file in {root}, found {target}; copy the files into one folder "
            "(cp -rL), or pass the folder that holds them"
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
    outer : Folder or None
        The one that it was reached from.
    """

    path: PurePath
    is_remote = False  # where opening a file costs a request
    outer: Folder | None = None

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
        inner = Folder(file_in_folder(self._folder, name))
        inner.outer = self
        return inner

    def open(self, name: str) -> InputFile:
        """Open the file `name`, a base name, which no link may lead out of the folder."""
        return InputFile(file_in_folder(self._folder, name))
