"""Sizes that the C core's arithmetic sets a limit to."""

__all__ = ["MAX_HIDDEN_SIZE"]

MAX_HIDDEN_SIZE = 32766
"""The widest matrix there is a decomposition for: the sizes of LAPACK's workspace are 32-bit."""
