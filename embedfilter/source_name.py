"""How the source of a matrix is named where a filter or a lens is shown."""

from __future__ import annotations

from pathlib import PurePath

__all__ = ["source_name"]


def source_name(source: str) -> str:
    """Return a source; of an absolute path the last two parts, as notebooks are passed on."""
    path = PurePath(source)
    return str(PurePath(*path.parts[-2:])) if path.is_absolute() else source
