"""From a source, whatever its form, to the open unembedding matrix."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedfilter.checkpoints.config import read_config, read_params
from embedfilter.checkpoints.formats.array import open_array
from embedfilter.checkpoints.formats.gguf_parts import open_gguf
from embedfilter.checkpoints.formats.numpy_file import NpyFile, NpzFile
from embedfilter.checkpoints.formats.open_model import is_model, open_model
from embedfilter.checkpoints.formats.sharded import ShardedFolder
from embedfilter.checkpoints.head.names import GGUF_NAMES, MODEL_NAMES, Choice, NameTable
from embedfilter.checkpoints.head.open_head import open_head
from embedfilter.checkpoints.layouts.finding import find_checkpoint
from embedfilter.checkpoints.layouts.hub_cache import named_file, snapshot_in
from embedfilter.checkpoints.layouts.other_tools import refuse_other_tools, refuse_start
from embedfilter.checkpoints.layouts.wholes import open_whole
from embedfilter.checkpoints.sentence_transformers import MODULES, transformer_folder
from embedfilter.errors import CheckpointError
from embedfilter.files.endings import GGUF, NPY, NPZ, PICKLES, SAFETENSORS, TORCH, ending
from embedfilter.files.folder import Folder, exists
from embedfilter.files.input_file import InputFile
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from embedfilter.checkpoints.checkpoint import Checkpoint
    from embedfilter.checkpoints.config import ModelFacts
    from embedfilter.checkpoints.unembedding import Unembedding

__all__ = ["open_unembedding"]

_INDEX = (".json",)
_ENDINGS = (*SAFETENSORS, *GGUF, *_INDEX, *TORCH, *PICKLES, *NPY, *NPZ)
_STARTS = {
    b"GGUF": ".gguf",
    b"\x93NUMPY": ".npy",
    b"PK\x03\x04": ".bin",
    b"version https": ".safetensors",  # a Git LFS pointer, which its reader names
}
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
        return _open_folder(Folder(snapshot_in(path)), given, tensor)
    path = named_file(path)
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
    """Open the unembedding matrix of a checkpoint, by one of its files."""
    try:
        opened = _checkpoint_of(folder, file, tensor, facts)
    except BaseException:
        file.close()
        raise
    checkpoint, table, facts, known = opened
    W = open_head(checkpoint, table, source=source, tensor=tensor, facts=facts, known=known)
    W.reason += checkpoint.remark(W.name)
    if W.tied and isinstance(checkpoint, ShardedFolder) and checkpoint.unread:
        W.doubts += (
            f"an output head that the index omits may be in {shown(checkpoint.unread[0])}, which "
            "is not there or damaged: download the checkpoint anew",
        )
    return W


def _checkpoint_of(
    folder: Folder, file: InputFile, tensor: str | None, facts: ModelFacts | None
) -> tuple[Checkpoint, NameTable, ModelFacts | None, Choice | None]:
    """Open a file of a folder by its ending, or else by how it starts, and what belongs to it."""
    refuse_other_tools(file.path, [file.path.name])
    kind = ending(file.path)
    if kind not in _ENDINGS:  # files of the Hub's cache have none
        kind = _ending_by_content(file)
    if kind in PICKLES:
        raise CheckpointError(
            f"{file.path}: pickles are not read, which can run code; expected {_FORMATS}"
        )
    if kind in GGUF:
        parts = open_gguf(folder, file, tensor)
        return parts, GGUF_NAMES, parts.facts, None
    if kind in (*NPY, *NPZ):
        arrays = NpyFile(file) if kind in NPY else NpzFile(file)
        known = None
        if len(arrays.names) == 1:
            known = Choice(arrays.names[0], tied=False, reason="the only array in the file")
        return arrays, MODEL_NAMES, facts, known
    if kind in _INDEX:
        facts = facts or read_config(folder) or read_params(folder)
        tied = None if facts is None else facts.tied
        sharded = ShardedFolder(folder, file, tensor=tensor, tied=tied)
        return sharded, MODEL_NAMES, facts, None
    refuse_start(file)
    whole, facts = open_whole(folder, file, kind, tensor, facts)
    return whole, MODEL_NAMES, facts, None


def _ending_by_content(file: InputFile) -> str:
    start = file.read(0, min(file.size, 16)).tobytes()
    for magic, kind in _STARTS.items():
        if start.startswith(magic):
            return kind
    # Safetensors have no magic number, but after the header's length comes a brace.
    if start[8:9] == b"{":
        return ".safetensors"
    refuse_start(file)
    found = f"a file that starts with {start!r}" if start else "an empty file"
    raise CheckpointError(f"{file.path}: not a checkpoint: expected {_FORMATS}, found {found}")


def _open_folder(folder: Folder, source: str, tensor: str | None) -> Unembedding:
    if folder.has(MODULES):
        folder = transformer_folder(folder)
    found = find_checkpoint(folder, _FORMATS)
    # Before the file is open, as a damaged config is an error.
    facts = None if ending(found.name) in GGUF else read_config(folder)
    file = found.folder.open(found.name)
    W = _open_checkpoint(found.folder, file, source, tensor, facts)
    W.reason += found.remark
    return W
