"""From a source, whatever its form, to the open unembedding matrix."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from embedfilter.checkpoints.config import read_config, read_params
from embedfilter.checkpoints.formats.array import open_array
from embedfilter.checkpoints.formats.gguf import GgufFile
from embedfilter.checkpoints.formats.gguf_parts import open_gguf
from embedfilter.checkpoints.formats.numpy_file import NpyFile, NpzFile
from embedfilter.checkpoints.formats.open_model import is_model, open_model
from embedfilter.checkpoints.formats.sharded import ShardedFolder
from embedfilter.checkpoints.head.choose import Choice, choose_embedding
from embedfilter.checkpoints.head.names import (
    GGUF_NAMES,
    MODEL_NAMES,
    NameTable,
    names_embedding,
)
from embedfilter.checkpoints.head.open_head import open_head
from embedfilter.checkpoints.layouts.finding import find_checkpoint, other_checkpoints
from embedfilter.checkpoints.layouts.other_tools import refuse_other_tools, refuse_start
from embedfilter.checkpoints.layouts.wholes import open_whole
from embedfilter.checkpoints.locating import ENDINGS, Place, locate
from embedfilter.checkpoints.sentence_transformers import MODULES, transformer_folder
from embedfilter.errors import CheckpointError
from embedfilter.files.endings import GGUF, NPY, NPZ, PICKLES, ending
from embedfilter.files.folder import Folder
from embedfilter.files.input_file import InputFile
from embedfilter.files.messages import described, listed

if TYPE_CHECKING:
    from embedfilter.checkpoints.checkpoint import Checkpoint
    from embedfilter.checkpoints.config import ModelFacts
    from embedfilter.checkpoints.unembedding import Unembedding

__all__ = ["open_unembedding", "read_facts"]

_INDEX = (".json",)
_ARCHIVE = b"PK\x03\x04"
_STARTS = {
    b"GGUF": ".gguf",
    b"\x93NUMPY": ".npy",
    _ARCHIVE: ".bin",
    b"version https": ".safetensors",  # a Git LFS pointer, which its reader names
}
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
    embedding, on the word of the config or the architecture or with a doubt.

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
        "owner/name/file.gguf"; "ollama:NAME[:TAG]" is a model that Ollama has fetched.
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
    place = locate(source, revision)
    if place.name is None:
        W = _open_folder(place.folder, place.given, tensor)
    else:
        W = _open_checkpoint(place.folder, place.open(), place.given, tensor)
    W.revision = place.commit
    return W


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
    try:
        place = locate(source, revision)
    except ImportError:  # of an extra
        return None
    folder, name = place.folder, place.name
    if name is None:
        if folder.has(MODULES):
            folder = transformer_folder(folder)
        if folder.has("config.json"):
            return read_config(folder)
        found = find_checkpoint(folder, _FORMATS)
        folder, name = found.folder, found.name
        place = Place(place.given, folder, name)
    if ending(name) in _INDEX:
        return read_config(folder)
    if ending(name) in GGUF or (ending(name) not in ENDINGS and _is_gguf(place)):
        with contextlib.closing(GgufFile(place.open())) as file:
            return file.facts
    with contextlib.suppress(CheckpointError):  # the file of tensors itself says nothing
        return read_config(folder)
    return None


def _is_gguf(place: Place) -> bool:
    """Tell by a file's first bytes: those of Ollama and of the Hub's cache have no ending."""
    with contextlib.closing(place.open()) as file:
        return file.size >= 4 and file.read(0, 4).tobytes() == b"GGUF"


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
    if W.tied:
        W.doubts += checkpoint.doubts()
    if W.tied and W.doubts and ending(file.path) not in GGUF:
        others = other_checkpoints(folder, file.path.name)
        if others:
            doubt = f"{W.doubts[0]}; beside it lies {listed(others)}, which may have the head"
            W.doubts = (doubt, *W.doubts[1:])
    return W


def _checkpoint_of(
    folder: Folder, file: InputFile, tensor: str | None, facts: ModelFacts | None
) -> tuple[Checkpoint, NameTable, ModelFacts | None, Choice | None]:
    """Open a file of a folder by its ending, or else by how it starts, and what belongs to it."""
    refuse_other_tools(file.path, [file.path.name])
    kind = ending(file.path)
    if kind not in ENDINGS:  # files of the Hub's cache have none
        kind = _ending_by_content(file)
    if kind in PICKLES and file.read(0, min(file.size, len(_ARCHIVE))).tobytes() == _ARCHIVE:
        kind = _STARTS[_ARCHIVE]  # of Lightning, which calls torch.save
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
            known = _only_array(arrays.names[0], facts)
        return arrays, MODEL_NAMES, facts, known
    if kind in _INDEX:
        facts = facts or read_config(folder) or read_params(folder)
        tied = None if facts is None else facts.tied
        sharded = ShardedFolder(folder, file, tensor=tensor, tied=tied)
        return sharded, MODEL_NAMES, facts, None
    refuse_start(file)
    whole, facts = open_whole(folder, file, kind, tensor, facts)
    return whole, MODEL_NAMES, facts or _facts_beside(folder, whole), None


def _only_array(name: str, facts: ModelFacts | None) -> Choice:
    """Choose the only array of a file, with a doubt where its name is that of an embedding."""
    if names_embedding(name, MODEL_NAMES):
        return choose_embedding(name, 1, MODEL_NAMES, facts)
    return Choice(name, tied=False, reason="the only array in the file")


def _facts_beside(folder: Folder, whole: Checkpoint) -> ModelFacts | None:
    """Return what a config.json beside a file says, if it may be that of this file."""
    with contextlib.suppress(CheckpointError):
        facts = read_config(folder)
        if facts is None or not facts.hidden_sizes:
            return facts
        shapes = {whole.shape(name)[-1:] for name in whole.names}
        if any((size,) in shapes for size in facts.hidden_sizes):
            return facts
    return None


def _ending_by_content(file: InputFile) -> str:
    start = file.read(0, min(file.size, 16)).tobytes()
    for magic, kind in _STARTS.items():
        if start.startswith(magic):
            return kind
    # Safetensors have no magic number, but after the header's length comes a brace.
    if start[8:9] == b"{":
        return ".safetensors"
    refuse_start(file)
    found = described(start)
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
