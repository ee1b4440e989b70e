"""Checkpoints in several files without an index: the headers of all say which holds what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedfilter.checkpoints.formats.one_file import SeveralFiles
from embedfilter.errors import CheckpointError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedfilter.checkpoints.checkpoint import Checkpoint

__all__ = ["Parts"]


class Parts(SeveralFiles):
    """The parts of a checkpoint, as far as they are there.

    Parameters
    ----------
    where
        The path of the part that was given, for messages.
    parts
        The open parts, each tensor in one of them; closed with this object.
    missing
        The names of the parts that are not there.

    Attributes
    ----------
    where, missing
        As above.
    """

    def __init__(self, where: str, parts: Sequence[Checkpoint], missing: Sequence[str]) -> None:
        self.where = where
        self.missing = list(missing)
        self._parts = parts
        self._holders: dict[str, Checkpoint] = {}
        try:
            for part in parts:
                self._add(part)
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> list[str]:
        """The tensors' names."""
        return list(self._holders)

    def holder(self, name: str) -> Checkpoint:
        """Return the open part that holds a tensor."""
        return self._holders[name]

    def close(self, keep: str | None = None) -> None:
        """Close all parts but the one that holds the tensor `keep`."""
        kept = None if keep is None else self._holders[keep]
        for part in self._parts:
            part.close(keep if part is kept else None)

    def _add(self, part: Checkpoint) -> None:
        for name in part.names:
            if name in self._holders:
                raise CheckpointError(
                    f"{part.where}: the tensor {shown(name)} is in {self._holders[name].where}, too"
                )
            self._holders[name] = part
