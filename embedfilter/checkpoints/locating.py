"""Where a source is: a file, a folder, or a model on the Hub or in Ollama's store."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from embedfilter.checkpoints.layouts.hub_cache import named_file, snapshot_in
from embedfilter.checkpoints.layouts.ollama import PREFIX, blob_of
from embedfilter.errors import CheckpointError
from embedfilter.files.endings import GGUF, NPY, NPZ, PICKLES, SAFETENSORS, TORCH, ending
from embedfilter.files.folder import Folder, exists
from embedfilter.files.input_file import InputFile
from embedfilter.files.messages import NOT_THERE

__all__ = ["ENDINGS", "Place", "check_named", "hub_name", "locate", "ollama_file"]

ENDINGS = (*SAFETENSORS, *GGUF, ".json", *TORCH, *PICKLES, *NPY, *NPZ)
"""Of files that are checkpoints, or were meant to be."""

# A repository, and perhaps one of its files; huggingface_hub is stricter about its name.
_HUB = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:/(.+\.(?i:safetensors|gguf|json)))?", re.ASCII)
_TAGGED = re.compile(r"(?:\w[\w.-]*/)*\w[\w.-]+:\w[\w.-]*", re.ASCII)  # as Ollama names models
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Where a source is.

    Attributes
    ----------
    given : str
        The source as it was given.
    folder : Folder
        The folder, or that of the file.
    name : str or None
        The file's name; None for a folder.
    path : Path or None
        The file on this machine, which may be a link to anywhere, as its user named it.
    commit : str or None
        The commit of a model on the Hub.
    """

    given: str
    folder: Folder
    name: str | None = None
    path: Path | None = None
    commit: str | None = None

    def open(self) -> InputFile:
        """Open the file."""
        return self.folder.open(self.name or "") if self.path is None else InputFile(self.path)


def locate(source: str | bytes | os.PathLike[str], revision: str | None = None) -> Place:
    """Find a source.

    Parameters
    ----------
    source
        A path; or a string that is none, but the id of a model on the Hub, "owner/name", or one of
        its files, "owner/name/file.gguf", or "ollama:NAME[:TAG]", a model in Ollama's store.
    revision
        For a model on the Hub: a branch, a tag or a commit.

    Returns
    -------
    Place
        The folder or file.

    Raises
    ------
    CheckpointError
        There is no such file, folder or repository.
    ValueError
        A revision was given for what is on this machine.
    ImportError
        The source may be on the Hub, and huggingface_hub is not installed.
    """
    given = os.fsdecode(source)
    path = ollama_file(source) or Path(given)
    if not given or not exists(path):
        return _on_hub(*hub_name(source), given, revision)
    if revision is not None:
        raise ValueError(
            f"revision: expected None for the local source {given}, found {revision!r}"
        )
    if path.is_dir():
        return Place(given, Folder(snapshot_in(path)))
    path = named_file(path)
    return Place(given, Folder(path.parent), path.name, path)


def ollama_file(source: str | bytes | os.PathLike[str]) -> Path | None:
    """Return the GGUF file that "ollama:NAME[:TAG]" names; None for what is no such name.

    Raises
    ------
    CheckpointError
        There is no such model in Ollama's store.
    """
    if not isinstance(source, str) or not source.startswith(PREFIX) or exists(Path(source)):
        return None
    return blob_of(source)


def check_named(source: str | os.PathLike[str]) -> None:
    """Raise for what is not here, and is no name of Ollama's or of the Hub's.

    Raises
    ------
    CheckpointError
        There is no such model.
    """
    if ollama_file(source) is None and not exists(Path(source)):
        hub_name(source)


def hub_name(source: str | bytes | os.PathLike[str]) -> tuple[str, str | None]:
    """Return the repository on the Hub, and the file in it, that what is not here may name.

    Raises
    ------
    CheckpointError
        It can be none, but is the name of a missing file or folder.
    """
    given = os.fsdecode(source)
    hub = _HUB.fullmatch(given) if isinstance(source, str) else None
    # A name with such an ending is that of a missing file, and better not looked for there.
    if hub is None or (hub[2] is None and ending(Path(given)) in ENDINGS):
        raise _not_found(given)
    return hub[1], hub[2]


def _not_found(given: str) -> CheckpointError:
    hint = ""
    if _URL.match(given):
        hint = "; no addresses are read, only local paths and Hugging Face Hub ids (owner/name)"
    elif _TAGGED.fullmatch(given) and not given.startswith(PREFIX):
        hint = f"; a model that Ollama has fetched is named {PREFIX}{given}"
    name = given if given.isprintable() and given else repr(given)
    return CheckpointError(f"{name}: {NOT_THERE}{hint}")


def _on_hub(repository: str, name: str | None, given: str, revision: str | None) -> Place:
    try:
        from embedfilter.checkpoints.hub.repository import open_repository  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            f"{given}: {NOT_THERE}; to read models from the Hugging Face Hub: "
            'pip install "embedfilter[hub]"'
        ) from error
    try:
        folder = open_repository(repository, revision)
    except CheckpointError as error:
        if revision is not None:  # so the Hub is meant
            raise
        raise CheckpointError(f"{error}; nor is there a file or folder {given} here") from error
    if name is None:
        return Place(given, folder, commit=folder.commit)
    *inner, base = name.split("/")
    for part in inner:
        folder = folder.folder(part)
    return Place(given, folder, base, commit=folder.commit)
