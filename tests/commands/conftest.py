"""A small checkpoint, its filter and embeddings, for the commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import D, write_checkpoint
from numpy.typing import NDArray

from embedfilter import EmbedFilter


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def filter_file(checkpoint: Path, tmp_path: Path) -> Path:
    path = tmp_path / "filter.safetensors"
    EmbedFilter.from_checkpoint(checkpoint).save(path)
    return path


@pytest.fixture
def X(rng: np.random.Generator) -> NDArray:
    return rng.standard_normal((1000, D)).astype(np.float32)
