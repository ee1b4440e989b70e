"""From a source, whatever its form, to the open unembedding matrix."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedfilter.checkpoints.config import read_config
from embedfilter.checkpoints.formats.array import open_array
from embedfilter.checkpoints.formats.gguf import GgufFile
from embedfilter.checkpoints.formats.gguf_parts import open_gguf, without_later_parts
from embedfilter.checkpoints.formats.numpy_file import NpyFile, NpzFile
from embedfilter.checkpoints.formats.open_model import is_model, open_model
from embedfilter.checkpoints.formats.safetensors import SafetensorsCheckpoint
from embedfilter.checkpoints.formats.sharded import ShardedFolder
from embedfilter.checkpoints.formats.torch_file import TorchFile
from embedfilter.checkpoints.head.choose import Choice
from embedfilter.checkpoints.head.names import GGUF_NAMES, MODEL_NAMES
from embedfilter.checkpoints.head.open_head import open_head
from embedfilter.checkpoints.sentence_transformers import MODULES, transformer_folder
from embedfilter.errors import CheckpointError
from embedfilter.files.endings import GGUF, NPY, NPZ, PICKLES, SAFETENSORS, TORCH, ending
from embedfilter.files.folder import Folder, exists
from embedfilter.files.input_file import InputFile
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedfilter.checkpoints.checkpoint import Checkpoint
    from embedfilter.checkpoints.config import ModelFacts
    from embedfilter.checkpoints.unembedding import Unembedding

__all__ = ["open_unembedding", "read_facts"]

_INDEX = (".json",)
_ENDINGS = (*SAFETENSORS, *GGUF, *_INDEX, *TORCH, *PICKLES, *NPY, *NPZ)
_STARTS = {
    b"GGUF": ".gguf",
    b"\x93NUMPY": ".npy",
    b"PK\x03\x04": ".bin",
    b"version https": ".safetensors",  # a Git LFS pointer, which its reader names
}
# What a model's folder is searched for: files of these names, or else one with such an ending.
_PREFERENCES = (
    (("model.safetensors.index.json", "model.safetensors"), SAFETENSORS),
    ((), GGUF),
    (("pytorch_model.bin.index.json", "pytorch_model.bin"), TORCH),
)
# A repository, and perhaps one of its files; huggingface_hub is stricter about its name.
_HUB = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:/(.+\.(?i:safetensors|gguf|json)))?", re.ASCII)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_FORMATS = (
    "a safetensors file, the index of a sharded checkpoint (.safetensors.index.json), a GGUF "
    "file, one of torch.save (.bin, .pt, .pth), a .npy or .npz file, or a model's folder"
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
        A safetensors file, the index of a sharded checkpoint, a GGUF file or
        part of one, a file of torch.save (.bin, .pt, .pth), a .npy or .npz
        file, a folder that holds one of the first five (a sentence-transformers
        model's, too), an open torch model, or a matrix in memory of shape
        (vocabulary, hidden size): an array, an array-like or a torch tensor.
        A string that names no local path may be the id of a model on the
        Hugging Face Hub, "owner/name", or one of its files,
        "owner/name/file.gguf".
    tensor
        The exact name of the tensor, array or parameter to take instead.
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
        The source may be on the Hub, and huggingface_hub is not installed; or
        it is a file of torch.save, and torch is not.

    Warns
    -----
    UserWarning
        A model of sentence-transformers has modules after which embeddings are
        not in the space of the unembedding matrix.
    """
    if tensor is not None and not isinstance(tensor, str):
        raise TypeError(f"tensor: expected a name, found {tensor!r}")
    if not isinstance(source, (str, bytes, os.PathLike)):
        if revision is not None:
            raise ValueError(f"revision: expected None for what is in memory, found {revision!r}")
        if is_model(source):
            return open_model(source, tensor=tensor)
        if tensor is not None:
            raise ValueError(f"tensor: expected None for a matrix in memory, found {tensor!r}")
        return open_array(source)
    given = os.fsdecode(source)
    path = Path(given)
    if not given or not exists(path):
        hub = _HUB.fullmatch(given) if isinstance(source, str) else None
        # A name with such an ending is that of a missing file, and better not looked for there.
        if hub is None or (hub[2] is None and ending(path) in _ENDINGS):
            raise _not_found(given)
        return _open_hub(hub[1], hub[2], given, tensor, revision)
    if revision is not None:
        raise ValueError(
            f"revision: expected None for the local source {given}, found {revision!r}"
        )
    if path.is_dir():
        return _open_folder(Folder(path), given, tensor)
    return _open_checkpoint(Folder(path.parent), InputFile(path), given, tensor)


def _not_found(given: str) -> CheckpointError:
    hint = ""
    if _URL.match(given):
        hint = "; no addresses are read, only local paths and Hugging Face Hub ids (owner/name)"
    return CheckpointError(f"{given!r}: no such file or folder{hint}")


def _open_hub(
    repository: str, name: str | None, given: str, tensor: str | None, revision: str | None
) -> Unembedding:
    try:
        from embedfilter.checkpoints.hub.repository import open_repository  # noqa: PLC0415 (an extra)
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


def _open_checkpoint(
    folder: Folder,
    file: InputFile,
    source: str,
    tensor: str | None,
    facts: ModelFacts | None = None,
) -> Unembedding:
    """Open a file of a folder by its ending, or else by how it starts."""
    kind = ending(file.path)
    if kind not in _ENDINGS:  # files of the Hub's cache have none
        kind = _ending_by_content(file)
    if kind in PICKLES:
        file.close()
        raise CheckpointError(
            f"{file.path}: pickles are not read, which can run code; expected {_FORMATS}"
        )
    table, known = MODEL_NAMES, None
    checkpoint: Checkpoint
    if kind in _INDEX:
        checkpoint = ShardedFolder(folder, file)
        facts = read_config(folder)
    elif kind in GGUF:
        checkpoint = open_gguf(folder, file, tensor)
        table, facts = GGUF_NAMES, checkpoint.facts
    elif kind in (*NPY, *NPZ):
        checkpoint = NpyFile(file) if kind in NPY else NpzFile(file)
        if len(checkpoint.names) == 1:
            reason = "the only array in the file"
            known = Choice(checkpoint.names[0], tied=False, reason=reason)
    else:
        checkpoint = TorchFile(file) if kind in TORCH else SafetensorsCheckpoint(file)
    return open_head(checkpoint, table, source=source, tensor=tensor, facts=facts, known=known)


def _ending_by_content(file: InputFile) -> str:
    start = file.read(0, min(file.size, 16)).tobytes()
    for magic, kind in _STARTS.items():
        if start.startswith(magic):
            return kind
    # Safetensors have no magic number, but after the header's length comes a brace.
    if start[8:9] == b"{":
        return ".safetensors"
    file.close()
    found = f"a file that starts with {start!r}" if start else "an empty file"
    raise CheckpointError(f"{file.path}: not a checkpoint: expected {_FORMATS}, found {found}")


def _open_folder(folder: Folder, source: str, tensor: str | None) -> Unembedding:
    if folder.has(MODULES):
        folder = transformer_folder(folder)
    name = _checkpoint_in(folder)
    # Before the file is open, as a damaged config is an error.
    facts = None if ending(name) in (*GGUF, *_INDEX) else read_config(folder)
    return _open_checkpoint(folder, folder.open(name), source, tensor, facts)


def _checkpoint_in(folder: Folder) -> str:
    """Return the name of a folder's checkpoint, in the best format that is there."""
    names = folder.names()
    for preferred, endings in _PREFERENCES:
        for name in preferred:
            if name in names:
                return name
        found = without_later_parts(name for name in names if ending(name) in endings)
        if found:
            return _only_one(folder, found)
    raise CheckpointError(f"{folder.path}: expected {_FORMATS}, found {_listed(names)}")


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


def read_facts(source: str | os.PathLike[str], *, revision: str | None = None) -> ModelFacts | None:
    """Return what a model's config, or the metadata of its GGUF file, states.

    Its head is not looked for, and need not be there.

    Parameters
    ----------
    source
        A path or an id, as for `open_unembedding`.
    revision
        For a model on the Hub: a branch, a tag or a commit.

    Returns
    -------
    ModelFacts or None
        The facts; None where there is neither, or, of a model on the Hub, no huggingface_hub.

    Raises
    ------
    CheckpointError
        There is no such model, or the file is damaged.
    """
    given = os.fsdecode(source)
    path, name = Path(given), None
    folder: Folder
    if given and exists(path):
        folder = Folder(path if path.is_dir() else path.parent)
        name = None if path.is_dir() else path.name
    else:
        hub = _HUB.fullmatch(given)
        if hub is None:
            raise _not_found(given)
        try:
            from embedfilter.checkpoints.hub.repository import open_repository  # noqa: PLC0415
        except ImportError:  # of an extra
            return None
        folder = open_repository(hub[1], revision)
        *inner, name = (hub[2] or "").split("/")
        for part in inner:
            folder = folder.folder(part)
    if not name:
        if folder.has(MODULES):
            folder = transformer_folder(folder)
        if folder.has("config.json"):
            return read_config(folder)
        name = _checkpoint_in(folder)
    if ending(name) in _INDEX:
        return read_config(folder)
    if ending(name) not in GGUF:
        return None  # a file of tensors says nothing
    with contextlib.closing(GgufFile(folder.open(name))) as file:
        return file.facts
