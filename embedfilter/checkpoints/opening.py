"""From a source, whatever its form, to the open unembedding matrix."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedfilter.checkpoints.array import open_array
from embedfilter.checkpoints.config import read_config
from embedfilter.checkpoints.files import Folder, InputFile, exists, shown
from embedfilter.checkpoints.gguf import open_gguf
from embedfilter.checkpoints.safetensors import open_safetensors
from embedfilter.checkpoints.sharded import open_index
from embedfilter.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedfilter.checkpoints.unembedding import Unembedding

__all__ = ["open_unembedding"]

_INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_ARRAY_FILES = (".npy", ".npz")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_FORMATS = (
    "a safetensors file, the index of a sharded checkpoint (.safetensors.index.json), "
    "a GGUF file or a folder that holds one of these"
)


def open_unembedding(
    source: Any, *, tensor: str | None = None, revision: str | None = None
) -> Unembedding:
    """Open the unembedding matrix of a model.

    Only the header is read here; the matrix is read from the result, in row
    blocks. A separate output head is taken where there is one, else the input
    embedding: the tensors that exist decide, not the config's flag.

    Parameters
    ----------
    source
        A safetensors file, the index of a sharded checkpoint, a GGUF file, a
        folder that holds one of these, or a matrix in memory of shape
        (vocabulary, hidden size): an array, an array-like or a torch tensor.
    tensor
        The exact name of the tensor to take instead.
    revision
        For sources on the Hub only, which this version does not open.

    Returns
    -------
    Unembedding
        The open matrix; close it, or use it in a ``with`` statement.

    Raises
    ------
    CheckpointError
        The checkpoint is missing, damaged, not supported or has no usable head.
    ValueError, TypeError
        An argument is not one that can be used.
    """
    if not isinstance(source, (str, bytes, os.PathLike)):
        if tensor is not None or revision is not None:
            raise ValueError("tensor and revision: expected None for a matrix in memory")
        return open_array(source)
    if tensor is not None and not isinstance(tensor, str):
        raise TypeError(f"tensor: expected a name, found {tensor!r}")
    given = os.fsdecode(source)
    path = Path(given)
    _check_exists(path, given)
    if revision is not None:
        raise ValueError(
            f"revision: expected None for the local source {given}, found {revision!r}"
        )
    if path.is_dir():
        return _open_folder(Folder(path), given, tensor)
    return _open_file(path, given, tensor)


def _check_exists(path: Path, given: str) -> None:
    if not given or not exists(path):
        hint = ""
        if _HUB_ID.fullmatch(given):
            hint = (
                "; if it is a Hugging Face Hub id: these are not supported in this version, "
                "download the model and pass its folder"
            )
        elif _URL.match(given):
            hint = "; only local files are read in this version, download it and pass its path"
        raise CheckpointError(f"{given!r}: no such file or folder{hint}")


def _open_file(path: Path, source: str, tensor: str | None) -> Unembedding:
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise CheckpointError(f"{path}: PyTorch pickles are not read; convert to safetensors")
    if suffix in _ARRAY_FILES:
        raise CheckpointError(
            f"{path}: NumPy files are not supported in this version; load it and pass the array"
        )
    file = InputFile(path)
    if suffix == ".json":
        return open_index(Folder(path.parent), file, source=source, tensor=tensor)
    if suffix == ".gguf":
        return open_gguf(file, source=source, tensor=tensor)
    if suffix != ".safetensors":  # files of the Hub's cache have no ending
        start = file.read(0, min(file.size, 16)).tobytes()
        if start.startswith(b"GGUF"):
            return open_gguf(file, source=source, tensor=tensor)
        # Safetensors have no magic number, but after the header's length comes a brace.
        if start[8:9] != b"{" and not start.startswith(b"version "):  # a Git LFS pointer
            file.close()
            found = f"a file that starts with {start!r}" if start else "an empty file"
            raise CheckpointError(f"{path}: not a checkpoint: expected {_FORMATS}, found {found}")
    return open_safetensors(file, source=source, tensor=tensor)


def _open_folder(folder: Folder, source: str, tensor: str | None) -> Unembedding:
    names = folder.names()
    if _INDEX in names:
        return open_index(folder, folder.open(_INDEX), source=source, tensor=tensor)
    safetensors = [name for name in names if name.endswith(".safetensors")]
    if "model.safetensors" in safetensors:
        safetensors = ["model.safetensors"]
    if safetensors:
        facts = read_config(folder)
        file = folder.open(_only_one(folder, safetensors))
        return open_safetensors(file, source=source, tensor=tensor, facts=facts)
    gguf = [name for name in names if name.endswith(".gguf")]
    if gguf:
        file = folder.open(_only_one(folder, gguf))
        return open_gguf(file, source=source, tensor=tensor)
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        raise CheckpointError(
            f"{folder.path}: PyTorch pickles are not read; convert to safetensors; "
            f"found {_listed(pickles)}"
        )
    raise CheckpointError(
        f"{folder.path}: expected {_INDEX}, a .safetensors or a .gguf file, found {_listed(names)}"
    )


def _only_one(folder: Folder, names: Sequence[str]) -> str:
    if len(names) > 1:
        raise CheckpointError(
            f"{folder.path}: expected one checkpoint, found {len(names)}: {_listed(names)}; "
            "pass the path of the right one"
        )
    return names[0]


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(shown(name) for name in names[:10]) + (", ..." if len(names) > 10 else "")
