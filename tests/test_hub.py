"""Models on the Hub, with the real huggingface_hub and a Hub on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from checkpoint_files import safetensors_bytes
from hub_server import COMMIT, Answer, HubServer, SparseFile
from huggingface_hub import constants
from oracle import head_with_spectrum, model_like_spectrum

from embedfilter import EmbedFilter
from embedfilter.checkpoints import hub_file

ID = "owner/model"
V, D = 8192, 128
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
LAYERS = 4_000_000_000  # bytes a shard


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    W = head_with_spectrum(np.random.default_rng(5), V, model_like_spectrum(D, 25))
    return W.astype("<f4")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_file, "_FIRST_WAIT", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    huggingface_hub.close_session()
    yield server
    huggingface_hub.close_session()
    server.close()


def shard(tensors: dict[str, tuple[str, list[int], int]], end: bytes) -> SparseFile:
    header, position = {}, 0
    for name, (dtype, shape, n_bytes) in tensors.items():
        offsets = [position, position + n_bytes]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        position += n_bytes
    start = safetensors_bytes(header)
    return SparseFile(start, len(start) + position, end)


def sharded(head: np.ndarray) -> dict:
    """A repository that claims 8 GB."""
    layers = [("F32", [LAYERS // 4], LAYERS), ("F32", [LAYERS // 4], LAYERS)]
    names = [f"model.layers.{i}.weight" for i in (0, 1)]
    files = [
        shard({names[0]: layers[0]}, b""),
        shard(
            {names[1]: layers[1], "lm_head.weight": ("F32", [V, D], head.nbytes)}, head.tobytes()
        ),
    ]
    weight_map = {names[0]: SHARDS[0], names[1]: SHARDS[1], "lm_head.weight": SHARDS[1]}
    return {
        "config.json": {"hidden_size": D, "vocab_size": V},
        INDEX: {"metadata": {}, "weight_map": weight_map},
        "README.md": b"x" * 1000,
        **dict(zip(SHARDS, files, strict=True)),
    }


def test_costs_its_head_and_little_more(hub, head, tmp_path):
    hub.add(ID, sharded(head))
    assert sum(file.size for file in hub.repositories[ID].commits[COMMIT].values()) > 8e9
    f = EmbedFilter.from_checkpoint(ID)
    assert head.nbytes <= hub.served() < head.nbytes + 1_000_000
    same = EmbedFilter.from_matrix(head)
    np.testing.assert_array_equal(f.components, same.components)
    assert f.metadata["fingerprint"] == same.metadata["fingerprint"]
    assert f.metadata["source"] == ID
    assert f.metadata["revision"] == COMMIT


def test_a_second_fit_costs_nothing(hub, head):
    hub.add(ID, sharded(head))
    first = EmbedFilter.from_checkpoint(ID)
    hub.requests.clear()
    second = EmbedFilter.from_checkpoint(ID)
    assert [r.path.partition("?")[0] for r in hub.requests] == [f"/api/models/{ID}/revision/main"]
    hub.requests.clear()
    EmbedFilter.from_checkpoint(ID, revision=COMMIT)
    assert hub.requests == []
    np.testing.assert_array_equal(first.components, second.components)


def test_a_drop_is_resumed_from_the_byte_reached(hub, head):
    hub.add(ID, sharded(head))
    hub.answers.extend([Answer(), Answer(sent=2_500_000), Answer(sent=0)])
    f = EmbedFilter.from_checkpoint(ID)
    assert hub.served() < head.nbytes + 1_000_000
    assert not hub.answers
    np.testing.assert_array_equal(f.components, EmbedFilter.from_matrix(head).components)
