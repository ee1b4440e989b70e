"""Repositories on the Hugging Face Hub as folders of checkpoint files.

huggingface_hub says where the Hub and the caches are, who the user is and whether to be
offline: its settings (HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, ...) hold here.
The revision is resolved to a commit once, and every request names that commit. A file
that is whole in huggingface_hub's cache is read there; small files are fetched into it.
What else is kept lies in huggingface_hub's folder for assets:

=========================================  ========================================
``embedfilter/<owner--name>/``             a repository
``refs/<revision>``                        the commit that the revision was
``<commit>/listing.json``                  names and sizes of its files
``<commit>/files/``                        its weights, the bytes that were read
=========================================  ========================================
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    is_offline_mode,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id
from tqdm import tqdm

from embedfilter.checkpoints.hub.hub_errors import hub_errors
from embedfilter.checkpoints.hub.hub_file import LIBRARY, HubFile
from embedfilter.errors import CheckpointError
from embedfilter.files.atomic import atomic_output
from embedfilter.files.endings import GGUF, PICKLES, SAFETENSORS, TORCH, ending
from embedfilter.files.folder import Folder
from embedfilter.files.input_file import InputFile
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from pathlib import PurePath

__all__ = ["HubFolder", "open_repository"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
# Files of which a few bytes are wanted; the others are small, or refused.
_WEIGHTS = (*SAFETENSORS, *GGUF)
_PICKLES = (*TORCH, *PICKLES)
# As for the header of a safetensors file; an index is the largest of them.
_MOST_WHOLE = 100_000_000

_Sizes = dict[str, "int | None"]


class HubFolder(Folder):
    """A folder of a repository at one commit.

    Parameters
    ----------
    repository
        The repository's id.
    commit
        The commit.
    sizes
        Names of all files of the repository, and their sizes where they are known.
    prefix
        The folder, which ends with a slash; empty for the repository itself.

    Attributes
    ----------
    commit : str
        The commit.
    """

    is_remote = True

    def __init__(self, repository: str, commit: str, sizes: _Sizes, prefix: str = "") -> None:
        self.path = PurePosixPath(repository, prefix)
        self.commit = commit
        self._repository = repository
        self._sizes = sizes
        self._prefix = prefix

    def names(self) -> list[str]:
        """Return the names of the files and folders in it, sorted."""
        inside = (name for name in self._sizes if name.startswith(self._prefix))
        return sorted({name.removeprefix(self._prefix).partition("/")[0] for name in inside})

    def has(self, name: str) -> bool:
        """Return whether there is a file `name`, a base name."""
        return self._prefix + name in self._sizes

    def folder(self, name: str) -> HubFolder:
        """Return the folder `name` in this one."""
        prefix = f"{self._prefix}{name}/"
        inner = HubFolder(self._repository, self.commit, self._sizes, prefix)
        inner.outer = self
        return inner

    def open(self, name: str) -> InputFile:
        """Open the file `name`, a base name."""
        path = self.path / name
        if not self.has(name):
            raise CheckpointError(
                f"{path}: no such file; the repository has "
                f"{', '.join(shown(other) for other in self.names()[:20]) or 'none'}"
            )
        full_name = self._prefix + name
        with hub_errors(path):
            local = try_to_load_from_cache(self._repository, full_name, revision=self.commit)
            if not isinstance(local, str):
                if ending(name) in _WEIGHTS:
                    return self._remote(full_name, path)
                local = self._downloaded(full_name, path)
            file = InputFile(Path(local))
        if ending(name) == ".json":  # files of weights are where they are: torch opens its own
            file.path = path
        return file

    def _remote(self, name: str, path: PurePath) -> HubFile:
        size = self._size(name, path)
        store = _store(self._repository) / self.commit / "files" / name
        return HubFile(self._url(name), commit=self.commit, size=size, path=path, store=store)

    def _downloaded(self, name: str, path: PurePath) -> str:
        if ending(name) in _PICKLES:
            raise CheckpointError(
                f"{path}: PyTorch pickles are not fetched; run `hf download {self._repository}` "
                "and pass the folder, or convert the model to safetensors"
            )
        size = self._size(name, path)
        if size > _MOST_WHOLE:
            raise CheckpointError(f"{path}: expected at most {_MOST_WHOLE} bytes, found {size}")
        return str(
            hf_hub_download(
                self._repository, name, revision=self.commit, tqdm_class=_NoBar, **LIBRARY
            )
        )

    def _size(self, name: str, path: PurePath) -> int:
        size = self._sizes[name]
        if size is None:  # servers that are not the Hub itself may not list sizes
            timeout = constants.HF_HUB_ETAG_TIMEOUT
            size = get_hf_file_metadata(self._url(name), timeout=timeout, **LIBRARY).size
        if size is None:
            raise CheckpointError(f"{path}: expected its size from the server, found none")
        return size

    def _url(self, name: str) -> str:
        return str(hf_hub_url(self._repository, name, revision=self.commit))


class _NoBar(tqdm):  # type: ignore[type-arg]
    """A progress bar that is not shown: small files come at once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "disable": True})


def open_repository(repository: str, revision: str | None = None) -> HubFolder:
    """Return a repository as a folder.

    Parameters
    ----------
    repository
        Its id, ``owner/name``.
    revision
        A branch, a tag or a commit; by default the branch ``main``.

    Returns
    -------
    HubFolder
        The folder, at one commit.
    """
    if revision is not None and (not isinstance(revision, str) or not revision):
        raise TypeError(f"revision: expected a branch, a tag or a commit, found {revision!r}")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise CheckpointError(
            f"{repository!r}: no such file or folder, and not the id of a repository: {error}"
        ) from error
    revision = revision or constants.DEFAULT_REVISION
    sizes = None
    # What a branch or a tag is today, only the Hub knows; a commit does not change.
    commit = revision if _COMMIT.fullmatch(revision) else None
    if is_offline_mode():
        commit = commit or _recorded_commit(repository, revision)
    if commit is not None:
        sizes = _recorded_sizes(repository, commit)
    if commit is None or sizes is None:
        ask = _from_cache if is_offline_mode() else _from_hub
        commit, sizes = ask(repository, revision)
    return HubFolder(repository, commit, sizes)


def _from_hub(repository: str, revision: str) -> tuple[str, _Sizes]:
    """Ask the Hub for a revision's commit and its files, and record the answer."""
    with hub_errors(f"{repository} at {revision!r}"):
        info = HfApi(**LIBRARY).model_info(
            repository,
            revision=revision,
            files_metadata=True,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
        commit = str(info.sha)
        sizes = {
            file.rfilename: file.size if type(file.size) is int and file.size >= 0 else None
            for file in info.siblings or ()
            if _is_inside(file.rfilename)
        }
    expected = revision if _COMMIT.fullmatch(revision) else commit
    if not _COMMIT.fullmatch(commit) or commit != expected:
        raise CheckpointError(
            f"{repository} at {revision!r}: expected a commit from {constants.ENDPOINT}, "
            f"found {commit!r}"
        )
    store = _store(repository)
    _record(store / commit / "listing.json", json.dumps(sizes))
    _record(store / "refs" / quote(revision, safe=""), commit)
    return commit, sizes


def _from_cache(repository: str, revision: str) -> tuple[str, _Sizes]:
    """Return the commit and the files of a repository in huggingface_hub's own cache."""
    with hub_errors(f"{repository} at {revision!r}"):
        try:
            snapshot = snapshot_download(repository, revision=revision, local_files_only=True)
        except LocalEntryNotFoundError as error:
            # Since version 2, raised for a part of a repository, too.
            snapshot = getattr(error, "snapshot_path", None)
            if snapshot is None:
                raise OfflineModeIsEnabled from error
    folder = Path(snapshot)
    files = (path for path in folder.rglob("*") if path.is_file())
    return folder.name, {path.relative_to(folder).as_posix(): None for path in files}


def _store(repository: str) -> Path:
    # The folder of cached_assets_path, which would make it.
    root = Path(constants.HF_ASSETS_CACHE).expanduser()
    return root / "embedfilter" / repository.replace("/", "--")


def _record(path: Path, text: str) -> None:
    # Of use offline and for the next time, but not needed.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(path) as file:
            file.write(text.encode())


def _recorded_commit(repository: str, revision: str) -> str | None:
    try:
        commit = (_store(repository) / "refs" / quote(revision, safe="")).read_text("utf-8")
    except OSError:
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _recorded_sizes(repository: str, commit: str) -> _Sizes | None:
    try:
        sizes = json.loads((_store(repository) / commit / "listing.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return sizes if isinstance(sizes, dict) else None


def _is_inside(name: str) -> bool:
    """Return whether a name from the Hub may become a path on disk."""
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name
    return plain and not any(part in ("", ".", "..") for part in parts)
