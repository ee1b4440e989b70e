"""The Hub's cache on this machine: ``models--owner--name``, which holds snapshots of a repository.

``refs/main`` names the commit that the branch was when it was fetched last, and the folder
``snapshots/<commit>`` holds its files, as links into ``blobs``.
"""

from __future__ import annotations

from pathlib import Path

from embedfilter.errors import CheckpointError
from embedfilter.files.folder import exists
from embedfilter.files.messages import shown
from embedfilter.files.part_names import part_of

__all__ = ["named_file", "snapshot_in"]

_SNAPSHOTS = "snapshots"
_LONGEST_REF = 200


def snapshot_in(folder: Path) -> Path:
    """Return the snapshot that a repository's folder in the Hub's cache stands for.

    Parameters
    ----------
    folder
        A folder; ``models--owner--name`` or its ``snapshots`` is such a one.

    Returns
    -------
    Path
        The snapshot's folder; `folder` itself where it is another.
    """
    repository = folder.resolve()
    if repository.name == _SNAPSHOTS:
        repository = repository.parent
    if not repository.name.startswith("models--"):
        return folder
    inner = folder if folder.resolve().name == _SNAPSHOTS else folder / _SNAPSHOTS
    try:
        snapshots = sorted(path for path in inner.iterdir() if path.is_dir())
    except OSError as error:
        raise CheckpointError(
            f"{folder}: a repository in the Hub's cache: its snapshots cannot be listed: "
            f"{error.strerror}"
        ) from error
    main = _main(repository)
    for snapshot in snapshots:
        if snapshot.name == main:
            return snapshot
    if len(snapshots) == 1:
        return snapshots[0]
    listed = ", ".join(shown(f"{_SNAPSHOTS}/{path.name}") for path in snapshots[:10]) or "none"
    raise CheckpointError(
        f"{folder}: a repository in the Hub's cache: expected refs/main to name one of its "
        f"snapshots, or one snapshot, found {listed}; pass the path of the right one"
    )


def named_file(path: Path) -> Path:
    """Return a file under the name that says whether it is a part of several.

    Parameters
    ----------
    path
        A file, perhaps a blob of the Hub's cache or a link with a name of its own.

    Returns
    -------
    Path
        The same file in a snapshot, or where the link leads if the name there is a part's.
    """
    target = path.resolve()
    if part_of(path.name) is None and part_of(target.name) is not None:
        return target
    repository = path.parent.parent
    if path.parent.name == "blobs" and repository.name.startswith("models--"):
        for link in sorted((repository / _SNAPSHOTS).rglob("*")):
            if link.is_symlink() and link.resolve() == target:
                return link
    return path


def _main(repository: Path) -> str | None:
    path = repository / "refs" / "main"
    try:
        if not exists(path) or path.stat().st_size > _LONGEST_REF:
            return None
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
