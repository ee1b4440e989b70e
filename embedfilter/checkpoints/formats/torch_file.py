"""Files that torch.save writes: ``pytorch_model.bin``, ``.pt`` and ``.pth``.

Such a file is a pickle, which can run any code when it is read by an unrestricted reader.
It is read by ``torch.load`` with ``weights_only=True``, which builds tensors and plain
containers and nothing else, and maps the numbers into memory instead of reading them. torch
is imported here and must be there: it is no dependency of the package.

A file is a zip archive of the pickle and, each uncompressed, the tensors' numbers. Before
torch 1.6 it was a run of pickles, which are not mapped but read as a whole.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from typing import TYPE_CHECKING, Any

from embedfilter.checkpoints.formats.one_file import OneFile
from embedfilter.checkpoints.formats.pickle_scan import refuse_expanding
from embedfilter.checkpoints.formats.torch_tensors import (
    TorchRows,
    tensor_bytes,
    torch_storage_type,
)
from embedfilter.errors import CheckpointError
from embedfilter.files.containers.zip_file import open_zip, stored_begin
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedfilter.files.input_file import InputFile

__all__ = ["TorchFile"]

# The oldest whose weights_only reader has no known hole (CVE-2026-24747).
_OLDEST_TORCH = (2, 10)
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_PICKLES = 5  # a number, the version, the system, the object, the storages' keys
_MAX_PICKLE = 64 << 20
# What a training script may have put the weights under.
_NESTED = ("state_dict", "model_state_dict", "model", "module")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


class TorchFile(OneFile):
    """One file of torch.save, its tensors mapped.

    Parameters
    ----------
    file
        The open file, on this machine; closed with this object.

    Raises
    ------
    ImportError
        torch is not installed, or too old to be safe.

    Attributes
    ----------
    where : str
        The path, for messages.
    integers : dict of str to int
        Numbers beside the weights, which a training script has put there.
    """

    def __init__(self, file: InputFile) -> None:
        self.where = str(file.path)
        self._file = file
        try:
            file.refuse_lfs_pointer()
            mapped = _check_archive(file)
            loaded = _load(self.where, mapped)
            self._tensors = _state_dict(self.where, loaded)
            self.integers = {key: n for key, n in loaded.items() if type(n) is int}
        except BaseException:
            file.close()
            raise

    @property
    def names(self) -> list[str]:
        """The tensors' names."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> str:
        """Return the storage type of a tensor."""
        return torch_storage_type(self._tensors[name])

    def rows(self, name: str) -> TorchRows:
        """Return the rows of a matrix, which share the file."""
        # Memory that is mapped from a file that was cut cannot be read: the process would die.
        return TorchRows(
            self._tensors[name],
            where=self.where,
            name=name,
            check=self._file.check_unchanged,
            close=self._file.close,
        )

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return all bytes of a tensor, shape (n_bytes,)."""
        self._file.check_unchanged()
        return tensor_bytes(self._tensors[name].reshape(-1))

    def close(self, keep: str | None = None) -> None:
        """Let go of the tensors, and of the file unless the tensor `keep` is still needed."""
        self._tensors = {}
        super().close(keep)


def _check_archive(file: InputFile) -> bool:
    """Check a file without reading its pickle; return whether its tensors can be mapped."""
    start = file.read(0, min(file.size, len(_LEGACY_START))).tobytes()
    if start == _LEGACY_START:
        head = file.read(0, min(file.size, _MAX_PICKLE)).tobytes()
        refuse_expanding(str(file.path), io.BytesIO(head), _LEGACY_PICKLES)
        return False
    if not start.startswith(b"PK\x03\x04"):
        raise CheckpointError(
            f"{file.path}: not a file of torch.save: expected a zip archive, "
            f"found {shown(start) if start else 'an empty file'}"
        )
    with open_zip(file) as archive:
        infos = archive.infolist()
    for info in infos:
        where = f"{file.path}: entry {shown(info.filename)}"
        # As torch writes them: compressed entries would be mapped as they are, or expand.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise CheckpointError(
                f"{where}: expected it uncompressed, found compression {info.compress_type} "
                f"from {info.file_size} to {info.compress_size} bytes"
            )
        if info.filename.endswith(".pkl") and info.file_size > _MAX_PICKLE:
            raise CheckpointError(
                f"{where}: expected at most {_MAX_PICKLE} bytes, found {info.file_size}"
            )
        if info.filename.endswith(".pkl"):
            begin = stored_begin(file, info)
            data = file.read(begin, info.file_size).tobytes()
            refuse_expanding(str(file.path), io.BytesIO(data), 1)
    if not any(info.filename.endswith("/data.pkl") for info in infos):
        raise CheckpointError(
            f"{file.path}: not a file of torch.save: expected an entry data.pkl, "
            f"found {', '.join(shown(info.filename) for info in infos[:5]) or 'no entries'}"
        )
    return True


def _load(where: str, mapped: bool) -> Any:
    torch = _import_torch(where)
    try:
        return torch.load(where, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        # torch's own message goes on to explain how to run the pickle's code.
        found = _GLOBAL.search(str(error))
        what = f"{found[1]}, which is not loaded" if found else "something else in its pickle"
        raise CheckpointError(
            f"{where}: expected tensors alone, found {what}; convert it to safetensors where "
            "its author is trusted"
        ) from None
    except Exception as error:  # whatever a damaged pickle leads to
        first_line = next(iter(str(error).splitlines()), "")
        raise CheckpointError(
            f"{where}: expected a file of torch.save, found a damaged one: "
            f"{type(error).__name__}: {first_line[:200]}"
        ) from error


def _import_torch(where: str) -> Any:
    wanted = ".".join(map(str, _OLDEST_TORCH))
    try:
        import torch  # noqa: PLC0415 (heavy, and needed for these files only)
    except ImportError:
        raise ImportError(
            f"{where}: PyTorch files are read with torch, which is not installed: "
            f"pip install 'torch>={wanted}'"
        ) from None
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _OLDEST_TORCH:
        raise ImportError(
            f"{where}: expected torch {wanted} or newer, which reads files that are not trusted "
            f"safely, found {torch.__version__}: pip install -U 'torch>={wanted}'"
        )
    return torch


def _state_dict(where: str, loaded: Any) -> dict[str, Any]:
    """Return the dense tensors of what was loaded, by their names."""
    for key in _NESTED:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"{where}: expected tensors by their names, found a {type(loaded).__name__}"
        )
    return {
        name: value
        for name, value in loaded.items()
        if isinstance(name, str) and hasattr(value, "untyped_storage") and not value.is_sparse
    }
