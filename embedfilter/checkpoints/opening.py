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
_ENDINGS = (".safetensors", ".gguf", ".json", *_PICKLES, *_ARRAY_FILES)
# A repository, and perhaps one of its files; huggingface_hub is stricter about its name.
_HUB = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:/(.+\.(?:safetensors|gguf|json)))?", re.ASCII)
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
        A string that names no local path may be the id of a model on the
        Hugging Face Hub, "owner/name", or one of its files,
        "owner/name/file.gguf".
    tensor
        The exact name of the tensor to take instead.
    revision
        For a model on the Hub: a branch, a tag or a commit.

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
    ImportError
        The source may be on the Hub, and huggingface_hub is not installed.
    """
    if not isinstance(source, (str, bytes, os.PathLike)):
        if tensor is not None or revision is not None:
            raise ValueError("tensor and revision: expected None for a matrix in memory")
        return open_array(source)
    if tensor is not None and not isinstance(tensor, str):
        raise TypeError(f"tensor: expected a name, found {tensor!r}")
    given = os.fsdecode(source)
    path = Path(given)
    if not given or not exists(path):
        hub = _HUB.fullmatch(given) if isinstance(source, str) else None
        # A name with such an ending is that of a missing file, and better not looked for there.
        if hub is None or (hub[2] is None and path.suffix in _ENDINGS):
            raise _not_found(given)
        return _open_hub(hub[1], hub[2], given, tensor, revision)
    if revision is not None:
        raise ValueError(
            f"revision: expected None for the local source {given}, found {revision!r}"
        )
    if path.is_dir():
        return _open_folder(Folder(path), given, tensor)
    return _open_file(path, given, tensor)


def _not_found(given: str) -> CheckpointError:
    hint = ""
    if _URL.match(given):
        hint = "; no addresses are read, only local paths and Hugging Face Hub ids (owner/name)"
    return CheckpointError(f"{given!r}: no such file or folder{hint}")


def _open_hub(
    repository: str, name: str | None, given: str, tensor: str | None, revision: str | None
) -> Unembedding:
    try:
        from embedfilter.checkpoints.hub import open_repository  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise ImportError(
            f"{given!r}: no such file or folder; to read models from the Hugging Face Hub: "
            'pip install "embedfilter[hub]"'
        ) from error
    folder = open_repository(repository, revision)
    if name is None:
        result = _open_folder(folder, given, tensor)
    else:
        result = _open_checkpoint(*folder.find(name), given, tensor)
    result.revision = folder.commit
    return result


def _open_file(path: Path, source: str, tensor: str | None) -> Unembedding:
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise CheckpointError(f"{path}: PyTorch pickles are not read; convert to safetensors")
    if suffix in _ARRAY_FILES:
        raise CheckpointError(
            f"{path}: NumPy files are not supported in this version; load it and pass the array"
        )
    return _open_checkpoint(Folder(path.parent), InputFile(path), source, tensor)


def _open_checkpoint(
    folder: Folder, file: InputFile, source: str, tensor: str | None
) -> Unembedding:
    suffix = file.path.suffix.lower()
    if suffix == ".json":
        return open_index(folder, file, source=source, tensor=tensor)
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
            raise CheckpointError(
                f"{file.path}: not a checkpoint: expected {_FORMATS}, found {found}"
            )
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
