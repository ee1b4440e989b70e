"""Which file of a model's folder is its checkpoint."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embedfilter.checkpoints.formats.safetensors import SafetensorsCheckpoint
from embedfilter.checkpoints.formats.sharded import index_files
from embedfilter.checkpoints.formats.torch_file import TorchFile
from embedfilter.checkpoints.layouts.other_tools import (
    is_of_another_tool,
    is_state,
    refuse_other_tools,
)
from embedfilter.checkpoints.layouts.wholes import MP_RANK, NUMBERED
from embedfilter.errors import CheckpointError
from embedfilter.files.endings import GGUF, SAFETENSORS, TORCH, ending
from embedfilter.files.messages import listed
from embedfilter.files.part_names import first_parts, part_of, parts_beside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedfilter.files.folder import Folder

__all__ = ["Found", "find_checkpoint", "other_checkpoints"]


@dataclass(frozen=True)
class _Format:
    """A format's names in a folder: the whole in one file, its index, and the endings of others."""

    endings: tuple[str, ...]
    single: str | None = None
    index: str | None = None


# The better ones come first.
_FORMATS = (
    _Format(SAFETENSORS, "model.safetensors", "model.safetensors.index.json"),
    _Format(GGUF),
    _Format(TORCH, "pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_MLX = "weights.npz"  # of MLX, before it wrote safetensors
# DeepSpeed's folders of steps, and the file that names the last one.
_STEP = re.compile(r"global_step\d+", re.ASCII)
_LATEST = "latest"
_LONGEST_TAG = 200
# Folders in a model's folder into which other tools write: Orbax, Optimum.
_INNER = ("checkpoint", "default", "state", "onnx", "openvino")


@dataclass(frozen=True)
class Found:
    """A folder's checkpoint.

    Attributes
    ----------
    folder : Folder
        The folder that holds it, which may be one inside the given one.
    name : str
        Its name, or that of one of its parts.
    remark : str
        What to add to the reason for the choice, or "".
    """

    folder: Folder
    name: str
    remark: str = ""


def find_checkpoint(folder: Folder, expected: str) -> Found:
    """Find a folder's checkpoint, in the best format that is there.

    Of one file and the index of several, the file is taken, as transformers does, unless it is
    damaged and all that the index names is there.

    Parameters
    ----------
    folder
        The folder.
    expected
        What a source may be, for the message.

    Returns
    -------
    Found
        The checkpoint.
    """
    names = folder.names()
    stale = ""  # an index of whose files none is there
    for form in _FORMATS:
        if form.single in names:
            single = _single_or_parts(folder, form, form.single, names)
            return replace(single, remark=single.remark + stale)
        if form.index in names:
            files = index_files(folder.open(form.index))
            if not files or files & set(names):
                return Found(folder, form.index, stale)
            stale = f"; {form.index} beside it is not used: it names files that are not there"
        # Beside an index other names than the usual ones may be those of anything.
        candidates = [] if stale else _candidates(names, form.endings)
        if candidates:
            return Found(folder, _only_one(folder, candidates))
    for form in _FORMATS:
        if form.index in names:
            return Found(folder, form.index)  # its reader says which file is not there
    if _MLX in names:
        return Found(folder, _MLX)
    found = _deepspeed(folder, names)
    if found is None:
        refuse_other_tools(folder.path, names)
        for inner in _INNER:
            refuse_other_tools(
                folder.path / inner, _inside(folder, inner) if inner in names else []
            )
        raise CheckpointError(f"{folder.path}: expected {expected}, found {listed(names)}")
    return found


def other_checkpoints(folder: Folder, name: str) -> list[str]:
    """Return the files of weights in a folder beside one of them, and beside its other parts.

    Parameters
    ----------
    folder
        The folder.
    name
        The file, or the index of several.

    Returns
    -------
    list of str
        Their names; not those of adapters, nor of what a trainer keeps.
    """
    names = folder.names()
    part = part_of(name)
    own = {name} if part is None else {name, *parts_beside(part, names)[0].values()}
    if ending(name) == ".json":
        own |= index_files(folder.open(name))
    found = first_parts((name for name in names if _may_hold_weights(name)), NUMBERED)
    return [
        other
        for other in found
        if ending(other) in (*SAFETENSORS, *TORCH)
        if other not in own and not other.startswith("adapter_")
    ]


def _single_or_parts(folder: Folder, form: _Format, single: str, names: list[str]) -> Found:
    """Take one file that is whole before several, and several before one that is not."""
    several, remark = _several(folder, form, names)
    if several is None:
        return Found(folder, single, remark)
    reader = TorchFile if form.endings is TORCH else SafetensorsCheckpoint
    try:
        reader(folder.open(single)).close()
    except CheckpointError as error:
        why = str(error).removeprefix(f"{folder.path / single}: ")
        return Found(folder, several, f"; {single} beside it is not whole: {why}")
    return Found(folder, single, f"; {several} beside it is not used, as transformers does not")


def _several(folder: Folder, form: _Format, names: list[str]) -> tuple[str | None, str]:
    """Return the index or the first part of what is there in several files, all of them.

    Else None, and what to say of an index that there is.
    """
    remark = ""
    if form.index in names:
        index = folder.open(form.index)
        try:
            files = index_files(index)
        except CheckpointError as error:
            return None, f"; the index beside it is not used: {error}"
        missing = files - set(names)
        if files and not missing:
            return form.index, ""
        remark = f"; {form.index} beside it is not used: it names files that are not there"
    for name in _candidates(names, form.endings):
        if part_of(name) is not None and not _lacks_parts(name, names):
            return name, ""
    return None, remark


def _candidates(names: list[str], endings: tuple[str, ...]) -> list[str]:
    """Return the files that may be checkpoints, of several parts the first alone."""
    own = (name for name in names if ending(name) in endings and _may_hold_weights(name))
    found = first_parts(own, NUMBERED)
    # What Meta and Mistral publish beside the same in the layout of transformers.
    others = [name for name in found if not name.lower().startswith("consolidated")]
    if len(others) == len(found):
        return found
    whole = {name for name in found if not _lacks_parts(name, names)}
    return [name for name in others if name in whole] or sorted(whole) or found


def _may_hold_weights(name: str) -> bool:
    return not is_state(name) and not is_of_another_tool(name)


def _lacks_parts(name: str, names: list[str]) -> bool:
    part = part_of(name)
    return part is not None and bool(parts_beside(part, names)[1])


def _deepspeed(folder: Folder, names: list[str]) -> Found | None:
    """Return the model of the step that ``latest`` names, or of the only one."""
    steps = [name for name in names if _STEP.fullmatch(name)]
    tag = None
    if _LATEST in names:
        with contextlib.suppress(CheckpointError, UnicodeDecodeError):
            file = folder.open(_LATEST)
            tag = file.read(0, min(file.size, _LONGEST_TAG)).tobytes().decode().strip()
            file.close()
    if tag is None and steps:
        tag = _only_one(folder, steps)
    if tag is None or tag not in names:
        return None
    inner = _inside(folder, tag)
    states = [name for name in inner if MP_RANK.fullmatch(name)]
    if not states:
        refuse_other_tools(folder.path / tag, inner)
        return None
    return Found(folder.folder(tag), states[0], f"; of {tag}")


def _inside(folder: Folder, name: str) -> list[str]:
    """Return the names in a folder of the folder; none where it is no folder."""
    try:
        return folder.folder(name).names()
    except CheckpointError:
        return []


def _only_one(folder: Folder, names: Sequence[str]) -> str:
    if len(names) > 1:
        raise CheckpointError(
            f"{folder.path}: expected one checkpoint, found {len(names)}: {listed(names)}; "
            "pass the path of the right one"
        )
    return names[0]
