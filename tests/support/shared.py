"""What several workers need is made once, by the one that comes to it first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """Return a folder that `make` has filled, in this worker or in another."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # which the workers have in common
    folder = root / name
    with filelock.FileLock(root / f"{name}.lock"):
        if not folder.exists():
            unfinished = root / f"{name}.part"
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder
