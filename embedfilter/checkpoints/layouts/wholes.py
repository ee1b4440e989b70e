"""From one file of a model to all that make up the model's weights.

A part of several says nothing of it but by its name: alone it would pass for a whole that has no
output head.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from embedfilter.checkpoints.config import read_config, read_params
from embedfilter.checkpoints.formats.parts import Parts
from embedfilter.checkpoints.formats.safetensors import SafetensorsCheckpoint
from embedfilter.checkpoints.formats.sharded import ShardedFolder, index_files
from embedfilter.checkpoints.formats.torch_file import TorchFile
from embedfilter.checkpoints.head.names import speak_of_head
from embedfilter.checkpoints.layouts.consolidated import CONSOLIDATED, open_consolidated
from embedfilter.checkpoints.layouts.other_tools import ZERO_ADVICE
from embedfilter.errors import CheckpointError
from embedfilter.files.endings import TORCH
from embedfilter.files.json_file import read_json
from embedfilter.files.messages import listed, shown
from embedfilter.files.part_names import part_of, parts_beside

if TYPE_CHECKING:
    from embedfilter.checkpoints.checkpoint import Checkpoint
    from embedfilter.checkpoints.config import ModelFacts
    from embedfilter.files.folder import Folder
    from embedfilter.files.input_file import InputFile
    from embedfilter.files.part_names import Part

__all__ = ["MP_RANK", "NUMBERED", "open_whole"]

_RANK = re.compile(r"rank(\d{1,5})\.safetensors", re.ASCII | re.IGNORECASE)
MP_RANK = re.compile(r"mp_rank_(\d{1,5})_model_states\.pt", re.ASCII | re.IGNORECASE)
NUMBERED = (CONSOLIDATED, _RANK, MP_RANK)
"""Other names of parts than NAME-00001-of-00002, the number in group 1."""

_MAX_CONFIG = 16 << 20
_INDEX = re.compile(r".*\.index(\.\w+)?\.json", re.IGNORECASE)


def open_whole(
    folder: Folder,
    file: InputFile,
    kind: str,
    tensor: str | None,
    facts: ModelFacts | None,
) -> tuple[Checkpoint, ModelFacts | None]:
    """Open a safetensors file or one of torch.save, and what belongs to it.

    Parameters
    ----------
    folder
        The folder that holds the file.
    file
        The file, open; closed with the result.
    kind
        The ending of its format.
    tensor
        The name of the tensor to take.
    facts
        What is known of the model.

    Returns
    -------
    Checkpoint
        The whole, as far as it is there and needed.
    ModelFacts or None
        What is known of it, now that its folder has been looked at.

    Raises
    ------
    CheckpointError
        It is a part, and the others are not there or cannot be put together.
    """
    name = file.path.name
    open_file = TorchFile if kind in TORCH else SafetensorsCheckpoint
    if CONSOLIDATED.fullmatch(name):
        return open_consolidated(folder, file, tensor, facts)
    if _RANK.fullmatch(name):
        return _open_rank(folder, file), facts
    if MP_RANK.fullmatch(name):
        return _open_model_states(folder, file), facts
    part = part_of(name)
    if part is not None:
        facts = facts or read_config(folder) or read_params(folder)
        return _open_part(folder, part, open_file(file), tensor, facts), facts
    if name.lower().startswith("consolidated."):  # Mistral's, in one file
        facts = facts or read_params(folder)
    return open_file(file), facts


def _open_part(
    folder: Folder, part: Part, given: Checkpoint, tensor: str | None, facts: ModelFacts | None
) -> Checkpoint:
    """Return one part where it holds what is wanted, else what is beside it, too."""
    try:
        if tensor in given.names or (tensor is None and speak_of_head(given.names)):
            return given
        index = _index_of(folder, part)
        if index is None:
            return _join(folder, part, given, tensor)
        given.close()
        tied = None if facts is None else facts.tied
        return ShardedFolder(folder, folder.open(index), tensor=tensor, tied=tied)
    except BaseException:
        given.close()
        raise


def _index_of(folder: Folder, part: Part) -> str | None:
    """Return the name of an index beside a part which names it."""
    for name in folder.names():
        if _INDEX.fullmatch(name):
            with contextlib.suppress(CheckpointError):  # of another program
                if part.name in index_files(folder.open(name)):
                    return name
    return None


def _join(folder: Folder, part: Part, given: Checkpoint, tensor: str | None) -> Parts:
    """Open the parts beside one, and put together what they hold."""
    there, missing = parts_beside(part, folder.names())
    files = [given]
    open_file = type(given)
    try:
        for number, name in there.items():
            if number != part.number:
                files.append(open_file(folder.open(name)))  # type: ignore[call-arg]
    except BaseException:
        for file in files:
            file.close()
        raise
    parts = Parts(given.where, files, missing)
    found = tensor in parts.names if tensor is not None else speak_of_head(parts.names)
    if missing and not found:
        parts.close()
        wanted = "an output head" if tensor is None else f"the tensor {shown(tensor)}"
        raise CheckpointError(
            f"{given.where}: part {part.number} of {part.count} of a checkpoint, without {wanted} "
            f"in it or in the others beside it; give the folder with all parts, or put the "
            f"missing ones there: {listed(missing)}"
        )
    return parts


def _open_rank(folder: Folder, file: InputFile) -> SafetensorsCheckpoint:
    """Open a checkpoint of TensorRT-LLM, which has a file for each rank, where there is one."""
    others = _others(folder, file, _RANK)
    settings: dict[str, object] = {}
    if folder.has("config.json"):
        settings = read_json(folder.open("config.json"), "the config", limit=_MAX_CONFIG)
    mapping = settings.get("mapping")
    size = mapping.get("world_size") if isinstance(mapping, dict) else None
    if others or size != 1:
        found = f"{size} by config.json" if size else "nothing that says how many there are"
        file.close()
        raise CheckpointError(
            f"{file.path}: one rank's part of a model of TensorRT-LLM: expected a world_size of "
            f"1, found {listed(others) if others else found}; pass the model that it was made from"
        )
    return SafetensorsCheckpoint(file)


def _open_model_states(folder: Folder, file: InputFile) -> TorchFile:
    """Open the model of a checkpoint of DeepSpeed, which is whole where it is not cut for GPUs."""
    others = _others(folder, file, MP_RANK)
    if others:
        file.close()
        raise CheckpointError(
            f"{file.path}: a part of a model, cut for {len(others) + 1} GPUs, the others being "
            f"{listed(others)}; convert it with the tool of the project that trained it "
            "(Megatron-DeepSpeed's tools/convert_checkpoint)"
        )
    states = TorchFile(file)
    size = states.integers.get("mp_world_size", 1)
    shapes = [states.shape(name) for name in states.names]
    # With ZeRO stage 3 the tensors are there, each with no numbers.
    if size == 1 and any(len(shape) == 2 and 0 not in shape for shape in shapes):
        return states
    states.close()
    found = "no weights" if size == 1 else f"mp_world_size {size}"
    raise CheckpointError(
        f"{file.path}: a part of a checkpoint of DeepSpeed: expected a whole model under "
        f"'module', found {found}{f'; {ZERO_ADVICE}' if size == 1 else ''}"
    )


def _others(folder: Folder, file: InputFile, pattern: re.Pattern[str]) -> list[str]:
    here = file.path.name
    return [name for name in folder.names() if name != here and pattern.fullmatch(name)]
