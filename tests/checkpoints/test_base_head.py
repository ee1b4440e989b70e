"""What a model's config says, without its head, and whether another's head suits it."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from checkpoint_files import ARCHITECTURE, gguf_file, gguf_pair, uint32
from hub_server import HubServer, SparseFile, small_model

from embedfilter.checkpoints.base_head import check_vocabularies, open_for
from embedfilter.checkpoints.opening import read_facts
from embedfilter.errors import CheckpointError

GGUF = gguf_file((ARCHITECTURE, gguf_pair("llama.embedding_length", 4, uint32(2))))


def write(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def sizes(source: object) -> tuple[int, ...] | None:
    facts = read_facts(source)
    return None if facts is None else facts.hidden_sizes


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = write(tmp_path / "base", hidden_size=8)
    W = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
    safetensors.numpy.save_file({"lm_head.weight": W}, folder / "model.safetensors")
    return folder


def test_facts_of_what_has_no_head(tmp_path: Path) -> None:
    model = write(tmp_path / "model", hidden_size=8, vocab_size=400)
    assert sizes(model) == (8,)
    assert sizes(str(model)) == (8,)
    (model / "model.safetensors.index.json").write_text("{}")
    assert sizes(model / "model.safetensors.index.json") == (8,)
    st = tmp_path / "st"
    write(st / "0_Transformer", hidden_size=16)
    modules = [{"type": "sentence_transformers.models.Transformer", "path": "0_Transformer"}]
    (st / "modules.json").write_text(json.dumps(modules))
    assert sizes(st) == (16,)
    (tmp_path / "model.gguf").write_bytes(GGUF)
    assert sizes(tmp_path / "model.gguf") == (2,)
    (tmp_path / "sha256-0").write_bytes(GGUF)  # as in Ollama's store
    assert sizes(tmp_path / "sha256-0") == (2,)
    for link in ("linked/model.gguf", "linked/sha256-0"):  # to anywhere, as its user named it
        (tmp_path / link).parent.mkdir(exist_ok=True)
        (tmp_path / link).symlink_to(tmp_path / "model.gguf")
        assert sizes(tmp_path / link) == (2,)
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "model.gguf").write_bytes(GGUF)
    assert sizes(tmp_path / "gguf") == (2,)


def test_nothing_says_them(base: Path, tmp_path: Path) -> None:
    (base / "config.json").unlink()
    assert read_facts(base / "model.safetensors") is None
    assert read_facts(base) is None
    with pytest.raises(CheckpointError, match="no such file or folder"):
        read_facts(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        read_facts(write(tmp_path / "empty").parent)
    (tmp_path / "empty" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_facts(tmp_path / "empty")


def test_facts_of_a_repository(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    files = small_model(np.zeros((40, 8), np.float32))
    config = json.dumps({"hidden_size": 8}).encode()
    files["config.json"] = SparseFile(config, len(config))
    files["inner/model.gguf"] = SparseFile(GGUF, len(GGUF))
    hub.add("owner/model", files)
    assert sizes("owner/model") == (8,)
    assert not hub.ranges()  # of weights
    assert sizes("owner/model/inner/model.gguf") == (2,)
    monkeypatch.setitem(sys.modules, "embedfilter.checkpoints.hub.repository", None)
    assert read_facts("owner/model") is None


def test_a_head_for_another_model(base: Path, tmp_path: Path) -> None:
    model = write(tmp_path / "model", hidden_size=8, vocab_size=397)
    with open_for(model, base) as W:
        assert (W.source, W.fitted_for, W.shape) == (str(base), str(model), (400, 8))
    with open_for(base, None) as W:
        assert W.fitted_for is None
    write(model)
    with open_for(model, base, tensor="lm_head.weight") as W:
        assert W.reason == "named by tensor="
    write(model, hidden_size=8, text_config={"hidden_size": 32})
    with open_for(model, base) as W:
        assert W.fitted_for == str(model)
    write(model, hidden_size=32, text_config={"hidden_size": 16})
    with pytest.raises(ValueError, match=r"the hidden size 16 or 32, as .*model has, found 8"):
        open_for(model, base)


@pytest.mark.parametrize(
    ("n_rows", "sizes", "outcome"),
    [
        (400, (400,), None),
        (464, (400,), None),
        (465, (400,), ValueError),
        (300, (400,), ValueError),
        (32000, (32256,), None),
        (32000, (32257,), UserWarning),
        (32768, (32000,), UserWarning),
        (128256, (32000,), ValueError),
        (151936, (152064,), None),
        (151936, (1000, 151936), None),
    ],
)
def test_vocabularies(n_rows: int, sizes: tuple[int, ...], outcome: type | None) -> None:
    arguments = (n_rows, "a/base", sizes, "a/model")
    if outcome is ValueError:
        with pytest.raises(ValueError, match=rf"a/base has {n_rows} tokens, a/model has"):
            check_vocabularies(*arguments)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_vocabularies(*arguments)
    assert bool(caught) == (outcome is UserWarning)
