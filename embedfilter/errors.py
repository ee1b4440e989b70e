"""The exceptions raised by embedfilter, and its warnings.

Wrong arguments raise the built-in :class:`ValueError` and :class:`TypeError`;
files that cannot be used raise one of the classes below. Every message names
the file or the argument, what was expected and what was found.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

__all__ = ["CheckpointError", "EmbedFilterError", "FilterFileError", "HeadError", "warn_user"]

_PACKAGE = str(Path(__file__).parent)


class EmbedFilterError(Exception):
    """Base class of the errors that embedfilter defines."""


class CheckpointError(EmbedFilterError):
    """A checkpoint is missing, damaged, not supported or has no usable head."""


class HeadError(CheckpointError):
    """A checkpoint is sound, but which of its tensors is the head cannot be told, or it is packed.

    What fits a filter has to stop there; what has a filter already may go on.
    """


class FilterFileError(EmbedFilterError):
    """A saved filter is missing, damaged or of an unknown format version."""


def warn_user(message: str) -> None:
    """Warn of something in the data, at the line outside the package that led here."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
