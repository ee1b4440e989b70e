"""The exceptions raised by embedfilter.

Wrong arguments raise the built-in :class:`ValueError` and :class:`TypeError`;
files that cannot be used raise one of the classes below. Every message names
the file or the argument, what was expected and what was found.
"""

from __future__ import annotations

__all__ = ["CheckpointError", "EmbedFilterError", "FilterFileError", "HeadError"]


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
