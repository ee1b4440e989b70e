"""GGUF checkpoints, in one file or split: ``model-00001-of-00005.gguf`` and so on.

The first part has the metadata, each has some of the tensors, and nothing says which: the
headers of all are read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from embedfilter.checkpoints.config import ModelFacts
from embedfilter.checkpoints.formats.gguf import GgufFile
from embedfilter.checkpoints.formats.one_file import SeveralFiles
from embedfilter.checkpoints.head.names import GGUF_NAMES
from embedfilter.errors import CheckpointError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from embedfilter.files.folder import Folder
    from embedfilter.files.input_file import InputFile

__all__ = ["GgufParts", "open_gguf", "without_later_parts"]

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.ASCII | re.DOTALL | re.IGNORECASE)


class GgufParts(SeveralFiles):
    """The parts of a split GGUF checkpoint, as far as they are there.

    Parameters
    ----------
    folder
        The folder that holds them.
    first
        One of them, open; closed with this object.

    Attributes
    ----------
    where : str
        The path of the given part, for messages.
    missing : list of str
        The names of the parts that are not there.
    facts : ModelFacts or None
        What the first part's metadata state.
    """

    def __init__(self, folder: Folder, first: GgufFile) -> None:
        self.where = first.where
        self.missing: list[str] = []
        self._parts = [first]
        try:
            self._open_others(folder, first)
            self._holders = self._find_holders()
        except BaseException:
            self.close()
            raise
        facts = (part.facts for part in self._parts if part.architecture is not None)
        self.facts: ModelFacts | None = next(facts, None)

    @property
    def names(self) -> list[str]:
        """The tensors' names."""
        return list(self._holders)

    def holder(self, name: str) -> GgufFile:
        """Return the open part that holds a tensor."""
        return self._holders[name]

    def close(self, keep: str | None = None) -> None:
        """Close all parts but the one that holds the tensor `keep`."""
        kept = None if keep is None else self._holders[keep]
        for part in self._parts:
            if part is not kept:
                part.close()

    def _open_others(self, folder: Folder, first: GgufFile) -> None:
        number, count = first.part
        base = first.where.replace("\\", "/").rpartition("/")[2]
        match = _PART.fullmatch(base)
        if match is None or (int(match[2]), int(match[3])) != first.part:
            raise CheckpointError(
                f"{self.where}: part {number} of {count} of a split GGUF file: expected a name "
                f"that ends in -{number:05}-of-{count:05}.gguf, by which the others are found"
            )
        there = set(folder.names())
        for other in range(1, count + 1):
            name = f"{match[1]}-{other:05}-of-{count:05}.gguf"
            if other == number:
                continue
            if name not in there:
                self.missing.append(name)
                continue
            part = GgufFile(folder.open(name))
            self._parts.append(part)
            if part.part != (other, count):
                raise CheckpointError(
                    f"{part.where}: expected part {other} of {count} of a split GGUF file, "
                    f"found part {part.part[0]} of {part.part[1]}"
                )

    def _find_holders(self) -> dict[str, GgufFile]:
        holders: dict[str, GgufFile] = {}
        for part in sorted(self._parts, key=lambda part: part.part):
            for name in part.names:
                if name in holders:
                    raise CheckpointError(
                        f"{part.where}: the tensor {shown(name)} is in {holders[name].where}, too"
                    )
                holders[name] = part
        return holders


def open_gguf(folder: Folder, file: InputFile, tensor: str | None = None) -> GgufFile | GgufParts:
    """Open a GGUF checkpoint.

    Parameters
    ----------
    folder
        The folder that holds it, where other parts are looked for.
    file
        The open file, or one part; closed with the result.
    tensor
        The name of the tensor to take.

    Returns
    -------
    GgufFile or GgufParts
    """
    whole = GgufFile(file)
    if whole.part[1] == 1:
        return whole
    parts = GgufParts(folder, whole)
    wanted = GGUF_NAMES.heads if tensor is None else (tensor,)
    # Without a head there, the input embedding may serve, or a missing part may hold it.
    if parts.missing and not set(wanted) & set(parts.names):
        parts.close()
        raise CheckpointError(
            f"{parts.where}: incomplete download: {' or '.join(map(shown, wanted))} is in none "
            f"of the parts that are there, and {len(parts.missing)} are missing: "
            f"{', '.join(map(shown, parts.missing[:5]))}"
        )
    return parts


def without_later_parts(names: Iterable[str]) -> list[str]:
    """Return the names of GGUF files, only the first of each split checkpoint's parts."""
    kept: list[str] = []
    seen: set[tuple[str, str]] = set()
    for name in sorted(names):
        match = _PART.fullmatch(name)
        if match is not None:
            if (match[1], match[3]) in seen:
                continue
            seen.add((match[1], match[3]))
        kept.append(name)
    return kept
