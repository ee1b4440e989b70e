"""Checkpoints in several files with an index: ``model.safetensors.index.json`` and its like.

An index maps each tensor's name to the file of the folder that holds it. It is written by
whoever published the model, so its file names are taken as base names only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedfilter.checkpoints.formats.one_file import SeveralFiles
from embedfilter.checkpoints.formats.safetensors import SafetensorsCheckpoint
from embedfilter.checkpoints.formats.torch_file import TorchFile
from embedfilter.errors import CheckpointError
from embedfilter.files.json_file import read_json
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from embedfilter.checkpoints.checkpoint import Checkpoint
    from embedfilter.files.folder import Folder
    from embedfilter.files.input_file import InputFile

__all__ = ["ShardedFolder"]

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

    Attributes
    ----------
    where : str
        The path of the index, for messages.
    """

    def __init__(self, folder: Folder, index: InputFile) -> None:
        self.where = str(index.path)
        self._folder = folder
        is_torch = index.path.name.endswith(".bin.index.json")
        self._open_shard: Any = TorchFile if is_torch else SafetensorsCheckpoint
        self._shard_names = _read_index(index, ".bin" if is_torch else ".safetensors")
        self._shards: dict[str, Checkpoint] = {}

    @property
    def names(self) -> list[str]:
        """The tensors' names."""
        return list(self._shard_names)

    def close(self, keep: str | None = None) -> None:
        """Close all files but the one that holds the tensor `keep`."""
        kept = None if keep is None else self._shard_names[keep]
        for shard_name, shard in self._shards.items():
            if shard_name != kept:
                shard.close()

    def holder(self, name: str) -> Checkpoint:
        """Return the open file that holds a tensor."""
        shard_name = self._shard_names[name]
        shard = self._shards.get(shard_name)
        if shard is None:
            if not self._folder.has(shard_name):
                raise CheckpointError(
                    f"{self.where}: incomplete download: tensor {shown(name)} is said to be in "
                    f"{shown(shard_name)}, which does not exist"
                )
            shard = self._open_shard(self._folder.open(shard_name))
            self._shards[shard_name] = shard
        if name not in shard.names:
            raise CheckpointError(
                f"{self.where}: tensor {shown(name)} is said to be in {shown(shard_name)}, "
                "which does not hold it"
            )
        return shard


def _read_index(file: InputFile, suffix: str) -> dict[str, str]:
    path = file.path
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
    return plain and name.endswith(suffix)
