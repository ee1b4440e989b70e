"""What files may be, to tell whoever has typed them in another order."""

from __future__ import annotations

from pathlib import Path

from embedfilter.errors import CheckpointError, EmbedFilterError
from embedfilter.files.endings import (
    ARROW,
    CSV,
    GGUF,
    JSON_LINES,
    NPY,
    NPZ,
    PARQUET,
    SAFETENSORS,
    TORCH,
    TSV,
    inner_ending,
)

__all__ = ["EMBEDDINGS", "FILTER", "MODEL", "TEXTS", "check_order", "is_model"]

FILTER, MODEL, EMBEDDINGS, TEXTS = "the filter", "the model", "embeddings", "texts"
_ARRAYS = (*NPY, *NPZ, *TORCH, *SAFETENSORS)
_TABLES = (*PARQUET, *ARROW, *JSON_LINES, *CSV, *TSV)
_OF_MODELS = ("config.json", "modules.json", "params.json")  # names in their folders
_OF_TEXT = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"\xfe\xff")  # compressed, UTF-16
_LOOKED_AT = 4096  # bytes


def check_order(first: tuple[str, str | Path], second: tuple[str, str | Path]) -> None:
    """Raise if two arguments are the other way round, each given with what it is to be.

    Files that may be what they are to be are no fault, whatever else they may be.
    """
    (wanted, path), (other, beside) = first, second
    one, two = _roles(path), _roles(beside)
    if not (wanted in one and other in two) and other in one and wanted in two:
        raise EmbedFilterError(
            f"{path}: expected {wanted} here and {other} in place of {beside}, found them the other"
            " way round"
        )


def is_model(path: str | Path) -> bool:
    """Tell whether there is a model, and nothing else that a command takes."""
    from embedfilter.checkpoints.layouts.ollama import PREFIX  # noqa: PLC0415 - light --help
    from embedfilter.files.folder import exists  # noqa: PLC0415

    is_there = exists(Path(path)) or str(path).startswith(PREFIX)
    return is_there and _roles(path) == {MODEL}


def _roles(given: str | Path) -> set[str]:
    """Return what a file, a folder or a name may be; nothing where it is not there."""
    from embedfilter.checkpoints.layouts.ollama import PREFIX  # noqa: PLC0415 - light --help
    from embedfilter.checkpoints.locating import hub_name  # noqa: PLC0415

    path = Path(given)
    try:
        if path.is_file():
            return _of_file(path)
        if path.is_dir():
            named = any((path / name).is_file() for name in _OF_MODELS)
            return {MODEL} if named else {MODEL, EMBEDDINGS, TEXTS}
        if str(path) == "-" or path.exists():  # a pipe, which is not to be read here
            return {EMBEDDINGS, TEXTS}
        return {MODEL} if str(given).startswith(PREFIX) or hub_name(str(given)) else set()
    except (CheckpointError, OSError, ValueError):
        return set()


def _of_file(path: Path) -> set[str]:
    from embedfilter.files.filter_file import is_filter_file  # noqa: PLC0415 - light --help

    with path.open("rb") as file:
        start = file.read(_LOOKED_AT)
    kind = inner_ending(path)
    if start.startswith(b"GGUF") or kind in GGUF:
        return {MODEL}
    if is_filter_file(path):
        return {FILTER}
    if kind in _TABLES or start.startswith(_OF_TEXT):
        return {EMBEDDINGS, TEXTS}
    if kind in _ARRAYS or b"\x00" in start:
        return {MODEL, EMBEDDINGS}
    return {MODEL, TEXTS} if kind == ".json" else {TEXTS}
