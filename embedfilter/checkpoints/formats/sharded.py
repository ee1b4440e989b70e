"""Checkpoints in several files with an index: ``model.safetensors.index.json`` and its like.

An index maps each tensor's name to the file of the folder that holds it. It is written by
whoever published the model, so its file names are taken as base names only. One that was not
written anew when a head was added or merged omits it: where it names no head, and the model is
not known to have none, the headers of all files are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedfilter.checkpoints.formats.one_file import SeveralFiles
from embedfilter.checkpoints.formats.safetensors import SafetensorsCheckpoint
from embedfilter.checkpoints.formats.torch_file import TorchFile
from embedfilter.checkpoints.head.names import speak_of_head
from embedfilter.errors import CheckpointError
from embedfilter.files.json_file import read_json
from embedfilter.files.messages import shown
from embedfilter.files.part_names import part_of

if TYPE_CHECKING:
    from embedfilter.checkpoints.checkpoint import Checkpoint
    from embedfilter.files.folder import Folder
    from embedfilter.files.input_file import InputFile

__all__ = ["ShardedFolder", "index_files"]

# As for the header of a safetensors file, which holds the same names.
_MAX_INDEX = 100_000_000


class ShardedFolder(SeveralFiles):
    """A folder of files with an index; files are opened as they are needed.

    Parameters
    ----------
    folder
        The folder.
    index
        The open index; closed here.
    tensor
        The name of the tensor that is wanted.
    tied
        Whether the config says that the input embedding serves as the head; None: not said.

    Attributes
    ----------
    where : str
        The path of the index, for messages.
    unread : list of str
        Files that may hold tensors which the index omits, and are not there or damaged.
    """

    def __init__(
        self,
        folder: Folder,
        index: InputFile,
        *,
        tensor: str | None = None,
        tied: bool | None = None,
    ) -> None:
        self.where = str(index.path)
        self.unread: list[str] = []
        self._folder = folder
        is_torch = _is_torch(index)
        self._open_shard: Any = TorchFile if is_torch else SafetensorsCheckpoint
        self._shard_names = _read_index(index)
        self._shards: dict[str, Checkpoint] = {}

        self._omitted: dict[str, str] = {}
        indexed = self._shard_names
        if tensor is not None:
            self._complete = tensor in indexed
        else:
            # On the Hub a header is a request for each file: there the config is believed.
            self._complete = (tied is True and folder.is_remote) or speak_of_head(indexed)

    @property
    def names(self) -> list[str]:
        """The tensors' names: the index's, and where it may not be complete the files' own."""
        if not self._complete:
            self._complete = True
            self._read_headers()
        return [*self._shard_names, *self._omitted]

    def remark(self, name: str) -> str:
        """Return what to add to the reason for choosing a tensor, or ""."""
        shard_name = self._omitted.get(name)
        return f"; the index omits it, {shown(shard_name)} holds it" if shard_name else ""

    def doubts(self) -> tuple[str, ...]:
        """Return that a file which may hold a head could not be looked into."""
        if not self.unread:
            return ()
        return (
            f"an output head that the index omits may be in {shown(self.unread[0])}, which "
            "is not there or damaged: download the checkpoint anew",
        )

    def close(self, keep: str | None = None) -> None:
        """Close all files but the one that holds the tensor `keep`."""
        kept = None if keep is None else self._shard_of(keep)
        for shard_name, shard in self._shards.items():
            if shard_name != kept:
                shard.close()

    def holder(self, name: str) -> Checkpoint:
        """Return the open file that holds a tensor."""
        shard_name = self._shard_of(name)
        if shard_name not in self._shards and not self._folder.has(shard_name):
            raise CheckpointError(
                f"{self.where}: incomplete download: tensor {shown(name)} is said to be in "
                f"{shown(shard_name)}, which does not exist"
            )
        shard = self._shard(shard_name)
        if name not in shard.names:
            raise CheckpointError(
                f"{self.where}: tensor {shown(name)} is said to be in {shown(shard_name)}, "
                "which does not hold it"
            )
        return shard

    def _shard_of(self, name: str) -> str:
        return self._shard_names.get(name) or self._omitted[name]

    def _shard(self, shard_name: str) -> Checkpoint:
        shard = self._shards.get(shard_name)
        if shard is None:
            shard = self._open_shard(self._folder.open(shard_name))
            self._shards[shard_name] = shard
        return shard

    def _read_headers(self) -> None:
        """Find the tensors that the index omits: in its files, or else others of the same split."""
        named = set(self._shard_names.values())
        there = self._folder.names()
        self._look_into(named, there)
        if self.unread or speak_of_head(self._omitted):
            return
        wholes = {part.whole for part in map(part_of, named) if part is not None}
        others = {part.name for part in map(part_of, there) if part and part.whole in wholes}
        self._look_into(others - named, there)

    def _look_into(self, shard_names: set[str], there: list[str]) -> None:
        for shard_name in sorted(shard_names):
            try:
                names = self._shard(shard_name).names if shard_name in there else None
            except CheckpointError:  # of no account where a head is found
                names = None
            if names is None:
                self.unread.append(shard_name)
            else:
                self._omitted |= {
                    name: shard_name for name in names if name not in self._shard_names
                }


def index_files(index: InputFile) -> set[str]:
    """Return the names of the files that an index names; the index is closed."""
    return set(_read_index(index).values())


def _is_torch(index: InputFile) -> bool:
    return ".bin.index." in index.path.name.lower()


def _read_index(file: InputFile) -> dict[str, str]:
    path = file.path
    suffix = ".bin" if _is_torch(file) else ".safetensors"
    index = read_json(file, "the index", limit=_MAX_INDEX, unique=True)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(
            f"{path}: expected a weight_map of tensor names and file names, "
            f"found {shown(weight_map)}"
        )
    for name, shard_name in weight_map.items():
        if not isinstance(shard_name, str) or not _is_base_name(shard_name, suffix):
            raise CheckpointError(
                f"{path}: tensor {shown(name)}: expected the base name of a {suffix} file, "
                f"found {shown(shard_name)}"
            )
    return weight_map


def _is_base_name(name: str, suffix: str) -> bool:
    # A colon would be a drive letter, a stream or a URL's scheme on one system or another.
    plain = name.isprintable() and not any(character in "/\\:" for character in name)
    return plain and name.lower().endswith(suffix)
