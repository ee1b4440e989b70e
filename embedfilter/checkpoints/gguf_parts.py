"""GGUF checkpoints, in one file or split: ``model-00001-of-00005.gguf`` and so on.

The first part has the metadata, each has some of the tensors, and nothing says which: the
headers of all are read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from embedfilter.checkpoints.config import ModelFacts
from embedfilter.checkpoints.files import shown
from embedfilter.checkpoints.gguf import GgufFile
from embedfilter.checkpoints.head import open_head
from embedfilter.checkpoints.names import GGUF_NAMES
from embedfilter.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from embedfilter.checkpoints.files import Folder, InputFile
    from embedfilter.checkpoints.unembedding import FileRows, Unembedding

__all__ = ["GgufParts", "open_gguf", "without_later_parts"]

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.ASCII | re.DOTALL)


class GgufParts:
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

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, outermost dimension first."""
        return self._holders[name].shape(name)

    def dtype(self, name: str) -> str:
        """Return the storage type of a tensor."""
        return self._holders[name].dtype(name)

    def rows(self, name: str) -> FileRows:
        """Return the rows of a matrix, which share the open part that holds it."""
        return self._holders[name].rows(name)

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return all bytes of a tensor, shape (n_bytes,)."""
        return self._holders[name].read(name)

    def file_of(self, name: str) -> str:
        """Return the path of the part that holds a tensor."""
        return self._holders[name].where

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


def open_gguf(
    folder: Folder, file: InputFile, *, source: str, tensor: str | None = None
) -> Unembedding:
    """Open the unembedding matrix of a GGUF checkpoint.

    Parameters
    ----------
    folder
        The folder that holds it, where other parts are looked for.
    file
        The open file, or one part; closed with the result.
    source
        The source as it was given.
    tensor
        The name of the tensor to take.

    Returns
    -------
    Unembedding
        The open matrix; only the file that holds it stays open.
    """
    whole = GgufFile(file)
    if whole.part[1] == 1:
        return open_head(whole, GGUF_NAMES, source=source, tensor=tensor, facts=whole.facts)
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
    return open_head(parts, GGUF_NAMES, source=source, tensor=tensor, facts=parts.facts)


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
