"""GGUF checkpoints, in one file or split: ``model-00001-of-00005.gguf`` and so on.

The first part has the metadata, each has some of the tensors, and nothing says which: the
headers of all are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedfilter.checkpoints.config import ModelFacts
from embedfilter.checkpoints.formats.gguf import GgufFile
from embedfilter.checkpoints.formats.parts import Parts
from embedfilter.checkpoints.head.names import GGUF_NAMES
from embedfilter.errors import CheckpointError
from embedfilter.files.messages import shown
from embedfilter.files.part_names import part_of, parts_beside

if TYPE_CHECKING:
    from embedfilter.files.folder import Folder
    from embedfilter.files.input_file import InputFile

__all__ = ["GgufParts", "open_gguf"]


class GgufParts(Parts):
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
        files = [first]
        missing: list[str] = []
        try:
            self._open_others(folder, first, files, missing)
        except BaseException:
            for file in files:
                file.close()
            raise
        files.sort(key=lambda file: file.part)
        super().__init__(first.where, files, missing)
        facts = (file.facts for file in files if file.architecture is not None)
        self.facts: ModelFacts | None = next(facts, None)

    @staticmethod
    def _open_others(
        folder: Folder, first: GgufFile, files: list[GgufFile], missing: list[str]
    ) -> None:
        number, count = first.part
        base = first.where.replace("\\", "/").rpartition("/")[2]
        given = part_of(base)
        if given is None or (given.number, given.count) != first.part:
            raise CheckpointError(
                f"{first.where}: part {number} of {count} of a split GGUF file: expected a name "
                f"that ends in -{number:05}-of-{count:05}.gguf, by which the others are found"
            )
        there, absent = parts_beside(given, folder.names())
        missing += absent
        for other, name in there.items():
            if other == number:
                continue
            part = GgufFile(folder.open(name))
            files.append(part)
            if part.part != (other, count):
                raise CheckpointError(
                    f"{part.where}: expected part {other} of {count} of a split GGUF file, "
                    f"found part {part.part[0]} of {part.part[1]}"
                )


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
