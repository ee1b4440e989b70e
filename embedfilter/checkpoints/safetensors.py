"""Safetensors files, and folders of them with an index.

A file is

=====================  =====================================================
bytes                  content
=====================  =====================================================
8                      length N of the header, unsigned, little-endian
N                      the header: a JSON object, which starts with ``{`` and
                       may end with spaces
to the end             the tensors' bytes, little-endian, in C order
=====================  =====================================================

The header maps each tensor's name to ``dtype``, ``shape`` and ``data_offsets``
(begin and end, counted from the end of the header); ``__metadata__`` maps
strings to strings. The tensors cover the data without holes and overlaps.

An index (``model.safetensors.index.json``) maps each tensor's name to the file
of the folder that holds it. It is written by whoever published the model, so
its file names are taken as base names only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedfilter.checkpoints.config import ModelFacts, read_config
from embedfilter.checkpoints.encodings import FLOATS
from embedfilter.checkpoints.files import Folder, InputFile, parse_json, shown
from embedfilter.checkpoints.names import MODEL_NAMES, choose
from embedfilter.checkpoints.unembedding import FileRows, Unembedding, head_shape
from embedfilter.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import PurePath

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SafetensorsFile", "ShardedFolder", "open_index", "open_safetensors"]

# The format's own limit; an index has none and is held to the same.
_MAX_HEADER = 100_000_000
# Of the metadata; other files may have one of them or another.
_FILTER_KEYS = {"format_version", "kind", "d", "k"}
_DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "C64": 64,
    "U64": 64,
    "I64": 64,
    "F64": 64,
}


@dataclass(frozen=True)
class TensorInfo:
    """Where and how a tensor is stored; `offset` counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


class SafetensorsFile:
    """One safetensors file, its header read and checked.

    Parameters
    ----------
    file
        The open file; closed with this object.

    Attributes
    ----------
    where : str
        The path, for messages.
    metadata : dict of str to str
        The header's ``__metadata__``.
    tensors : dict of str to TensorInfo
        The tensors, in the header's order.
    """

    def __init__(self, file: InputFile) -> None:
        self.where = str(file.path)
        self._file = file
        try:
            self._file.refuse_lfs_pointer()
            self.metadata, self.tensors = _read_header(self._file)
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> list[str]:
        """The tensors' names."""
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.tensors[name].shape

    @property
    def is_filter(self) -> bool:
        """Whether this is not a checkpoint but a filter that `EmbedFilter.save` has written."""
        return self.metadata.keys() >= _FILTER_KEYS and "components" in self.tensors

    def holder(self, name: str) -> SafetensorsFile:
        """Return the file that holds a tensor: this one."""
        return self

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return all bytes of a tensor, shape (n_bytes,)."""
        info = self.tensors[name]
        return self._file.read(info.offset, info.n_bytes)

    def rows(self, name: str) -> FileRows:
        """Return the rows of a matrix, which share this object's open file."""
        info = self.tensors[name]
        n_rows = info.shape[0]
        return FileRows(
            self._file,
            name=name,
            dtype=info.dtype,
            offset=info.offset,
            row_bytes=info.n_bytes // n_rows if n_rows else 0,
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ShardedFolder:
    """A folder of safetensors files with an index; files are opened as they are needed.

    Parameters
    ----------
    folder
        The folder.
    index
        The index.

    Attributes
    ----------
    where : str
        The path of the index, for messages.
    """

    def __init__(self, folder: Folder, index: InputFile) -> None:
        self.where = str(index.path)
        self._folder = folder
        self._shard_names = _read_index(index)
        self._shards: dict[str, SafetensorsFile] = {}

    @property
    def names(self) -> list[str]:
        """The tensors' names."""
        return list(self._shard_names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, from the header of its file."""
        return self.holder(name).shape(name)

    def rows(self, name: str) -> FileRows:
        """Return the rows of a matrix, which share the open file that holds it."""
        return self.holder(name).rows(name)

    def holder(self, name: str) -> SafetensorsFile:
        """Return the file that holds a tensor."""
        shard_name = self._shard_names[name]
        shard = self._shards.get(shard_name)
        if shard is None:
            if not self._folder.has(shard_name):
                raise CheckpointError(
                    f"{self.where}: incomplete download: tensor {shown(name)} is said to be in "
                    f"{shown(shard_name)}, which does not exist"
                )
            shard = self._shards[shard_name] = SafetensorsFile(self._folder.open(shard_name))
        if name not in shard.tensors:
            raise CheckpointError(
                f"{self.where}: tensor {shown(name)} is said to be in {shown(shard_name)}, "
                f"which does not hold it"
            )
        return shard

    def close(self, keep: SafetensorsFile | None = None) -> None:
        """Close all files but `keep`."""
        for shard in self._shards.values():
            if shard is not keep:
                shard.close()


def open_safetensors(
    file: InputFile, *, source: str, tensor: str | None = None, facts: ModelFacts | None = None
) -> Unembedding:
    """Open the unembedding matrix of one safetensors file.

    Parameters
    ----------
    file
        The open file; closed with the result.
    source
        The source as it was given.
    tensor
        The name of the tensor to take.
    facts
        What the model's config says.

    Returns
    -------
    Unembedding
        The open matrix.
    """
    checkpoint = SafetensorsFile(file)
    if checkpoint.is_filter:
        checkpoint.close()
        raise CheckpointError(
            f"{checkpoint.where}: this is a filter, not a checkpoint: expected a model's weights, "
            "found what 'embedfilter fit' writes"
        )
    return _open(checkpoint, source, tensor, facts)


def open_index(
    folder: Folder, index: InputFile, *, source: str, tensor: str | None = None
) -> Unembedding:
    """Open the unembedding matrix of a sharded folder.

    Parameters
    ----------
    folder
        The folder.
    index
        The open index, a ``.safetensors.index.json``; closed here.
    source
        The source as it was given.
    tensor
        The name of the tensor to take.

    Returns
    -------
    Unembedding
        The open matrix; only the file that holds it stays open.
    """
    return _open(ShardedFolder(folder, index), source, tensor, read_config(folder))


def _open(
    checkpoint: SafetensorsFile | ShardedFolder,
    source: str,
    tensor: str | None,
    facts: ModelFacts | None,
) -> Unembedding:
    try:
        choice = choose(checkpoint, MODEL_NAMES, tensor)
        holder = checkpoint.holder(choice.name)
        info = holder.tensors[choice.name]
        reason = choice.reason
        if info.dtype not in FLOATS:
            raise CheckpointError(
                f"{holder.where}: tensor {shown(choice.name)} of shape {shown(info.shape)}: "
                f"expected one of {', '.join(FLOATS)}, found {info.dtype}, {_not_read(info.dtype)}"
            )
        # A tensor that the user names may be any matrix of the file.
        if facts is not None and tensor is None:
            facts.check(holder.where, choice.name, info.shape)
            reason += facts.remark(tied=choice.tied)
        shape = head_shape(holder.where, choice.name, info.shape)
    except BaseException:
        checkpoint.close()
        raise
    if isinstance(checkpoint, ShardedFolder):
        checkpoint.close(keep=holder)
    return Unembedding(
        holder.rows(choice.name),
        source=source,
        name=choice.name,
        shape=shape,
        dtype=info.dtype,
        tied=choice.tied,
        reason=reason,
    )


def _not_read(dtype: str) -> str:
    if dtype.startswith(("F8", "F6", "F4")):
        return "which is not supported: its numbers mean nothing without their scales"
    if dtype.startswith(("U", "I", "BOOL")):
        return "the codes of a quantised matrix, which are not supported"
    return "which an unembedding matrix cannot have"


def _read_header(file: InputFile) -> tuple[dict[str, str], dict[str, TensorInfo]]:
    path = file.path
    if file.size < 8:
        raise CheckpointError(
            f"{path}: not a safetensors file: expected at least 8 bytes, found {file.size}"
        )
    length = int.from_bytes(file.read(0, 8).tobytes(), "little")
    if length > _MAX_HEADER:
        raise CheckpointError(
            f"{path}: not a safetensors file: expected a header of at most {_MAX_HEADER} bytes, "
            f"found a length of {length}"
        )
    if length > file.size - 8:
        raise CheckpointError(
            f"{path}: incomplete download: expected a header of {length} bytes, "
            f"found {file.size - 8}"
        )
    # One byte first: a sparse file of zeros would make the whole header be read.
    start = file.read(8, min(length, 1)).tobytes()
    if start != b"{":
        raise CheckpointError(
            f"{path}: not a safetensors file: expected a header that starts with '{{', "
            f"found {shown(start)}"
        )
    header = parse_json(file.read(8, length).tobytes(), path, "the header")
    metadata = header.pop("__metadata__", {})
    _check_metadata(path, metadata)
    begin = 8 + length
    tensors = {name: _tensor_info(path, name, entry, begin) for name, entry in header.items()}
    _check_coverage(path, tensors, begin, file.size)
    return metadata, tensors


def _check_metadata(path: PurePath, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(
            f"{path}: __metadata__: expected an object of strings, found {shown(metadata)}"
        )


def _tensor_info(path: PurePath, name: str, entry: Any, data_begin: int) -> TensorInfo:
    where = f"{path}: tensor {shown(name)}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise CheckpointError(
            f"{where}: expected an object with dtype, shape and data_offsets, found {shown(entry)}"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
        raise CheckpointError(
            f"{where}: expected a dtype such as {', '.join(FLOATS)}, found {shown(dtype)}"
        )
    if not _is_sizes(shape):
        raise CheckpointError(f"{where}: expected a shape of integers >= 0, found {shown(shape)}")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            f"{where}: expected data_offsets [begin, end] with 0 <= begin <= end, "
            f"found {shown(offsets)}"
        )
    begin, end = offsets
    n_bits = _DTYPE_BITS[dtype]
    for size in shape:
        n_bits *= size
        # Python's integers do not wrap, but a long shape would make them huge.
        if n_bits >= 1 << 67:
            raise CheckpointError(f"{where}: expected fewer than 2^64 bytes, found {shown(shape)}")
    if n_bits != 8 * (end - begin):
        raise CheckpointError(
            f"{where}: expected {n_bits / 8:.15g} bytes for {dtype} of shape {shown(shape)}, "
            f"found data_offsets of {end - begin} bytes"
        )
    return TensorInfo(dtype, tuple(shape), data_begin + begin, end - begin)


def _is_sizes(value: Any) -> bool:
    # type() and not isinstance(): a JSON true is an int in Python.
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 64 for v in value)


def _check_coverage(path: PurePath, tensors: dict[str, TensorInfo], begin: int, size: int) -> None:
    position = begin
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].n_bytes)):
        if info.offset != position:
            what = "overlaps another tensor" if info.offset < position else "follows a hole"
            raise CheckpointError(
                f"{path}: tensor {shown(name)} {what}: expected it at byte {position - begin} "
                f"of the data, found {info.offset - begin}"
            )
        position += info.n_bytes
    if position > size:
        raise CheckpointError(
            f"{path}: incomplete download: expected {position} bytes, found {size}"
        )
    if position < size:
        raise CheckpointError(
            f"{path}: bytes after the last tensor: expected {position} bytes, found {size}"
        )


def _read_index(file: InputFile) -> dict[str, str]:
    path = file.path
    try:
        if file.size > _MAX_HEADER:
            raise CheckpointError(
                f"{path}: expected an index of at most {_MAX_HEADER} bytes, found {file.size}"
            )
        index = parse_json(file.read(0, file.size).tobytes(), path, "the index")
    finally:
        file.close()
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(
            f"{path}: expected a weight_map of tensor names and file names, "
            f"found {shown(weight_map)}"
        )
    for name, shard_name in weight_map.items():
        if not isinstance(shard_name, str) or not _is_base_name(shard_name):
            raise CheckpointError(
                f"{path}: tensor {shown(name)}: expected the base name of a .safetensors file, "
                f"found {shown(shard_name)}"
            )
    return weight_map


def _is_base_name(name: str) -> bool:
    # A colon would be a drive letter, a stream or a URL's scheme on one system or another.
    plain = name.isprintable() and not any(character in "/\\:" for character in name)
    return plain and name.endswith(".safetensors")
