"""How many requests opening a model of many shards takes, and how many bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hub_server import INDEX, HubServer, shard

from embedfilter import CheckpointError, open_unembedding

ID = "owner/model"
V, D = 4096, 64
COUNT = 30
HEAD = np.random.default_rng(0).standard_normal((V, D)).astype("<f4")
NAMES = [f"model-{number:05}-of-{COUNT:05}.safetensors" for number in range(1, COUNT + 1)]
_LAYER = ("F32", [500_000_000], 2_000_000_000)


def model(*, head: bool, indexed: bool = True, tied: bool | None = False) -> dict[str, Any]:
    """The files of a model of 60 GB: the embedding in the first shard, a head in the last."""
    matrix = ("F32", [V, D], HEAD.nbytes)
    files: dict[str, Any] = {}
    weight_map = {}
    for number, name in enumerate(NAMES):
        tensors = {f"model.layers.{number}.weight": _LAYER}
        matrices = {0: "model.embed_tokens.weight", COUNT - 1: "lm_head.weight" if head else None}
        if matrices.get(number):
            tensors[matrices[number]] = matrix
        files[name] = shard(tensors, HEAD.tobytes() if len(tensors) == 2 else b"")
        weight_map |= dict.fromkeys(tensors, name)
    if not indexed:
        weight_map.pop("lm_head.weight", None)
    files[INDEX] = {"metadata": {}, "weight_map": weight_map}
    flag = {} if tied is None else {"tie_word_embeddings": tied}
    files["config.json"] = {"hidden_size": D, "vocab_size": V, **flag}
    return files


def asked_for(hub: HubServer) -> set[str]:
    paths = [request.path.partition("?")[0] for request in hub.requests]
    return {path.rpartition("/")[2] for path in paths if "/resolve/" in path}


@pytest.mark.parametrize(
    ("options", "source", "files"),
    [
        # As before indexes were doubted: the index, the config, and the head's shard.
        ({"head": True}, ID, [NAMES[-1]]),
        ({"head": True, "tied": None}, ID, [NAMES[-1]]),
        ({"head": True, "tied": True}, ID, [NAMES[-1]]),
        ({"head": False, "tied": True}, ID, [NAMES[0]]),
        ({"head": True}, f"{ID}/{INDEX}", [NAMES[-1]]),
        # Where nothing says that the index is complete, the header of each.
        ({"head": True, "indexed": False}, ID, NAMES),
        ({"head": True, "indexed": False, "tied": None}, ID, NAMES),
        # A shard that is given: its own header, and the head's.
        ({"head": True}, f"{ID}/{NAMES[3]}", [NAMES[3], NAMES[-1]]),
        ({"head": True}, f"{ID}/{NAMES[-1]}", [NAMES[-1]]),
    ],
)
def test_requests(hub: HubServer, options, source, files):
    hub.add(ID, model(**options))
    with open_unembedding(source) as W:
        np.testing.assert_array_equal(W.rows(0, 10), HEAD[:10])
    # The first 128 kB of each shard, which hold its header, and the rows.
    assert len(hub.ranges()) == len(files) + 1
    assert max(last + 1 - first for first, last in hub.ranges()) <= 1 << 17
    assert asked_for(hub) <= {INDEX, "config.json", *files}
    assert sum("/api/models/" in request.path for request in hub.requests) == 1


def test_a_part_of_a_repository_without_an_index(hub: HubServer):
    files = model(head=True)
    del files[INDEX]
    hub.add(ID, files)
    with open_unembedding(ID) as W:
        np.testing.assert_array_equal(W.rows(0, 10), HEAD[:10])
    assert len(hub.ranges()) == COUNT + 1
    hub.add(ID, {name: files[name] for name in NAMES[:-1]}, "3" * 40)
    with pytest.raises(CheckpointError, match=f"missing ones there: '{NAMES[-1]}'"):
        open_unembedding(ID, revision="3" * 40)


def test_a_whole_file_beside_the_shards(hub: HubServer):
    tensors = {"lm_head.weight": ("F32", [V, D], HEAD.nbytes)}
    whole = shard(tensors, HEAD.tobytes())
    hub.add(ID, {**model(head=True), "model.safetensors": whole})
    with open_unembedding(ID) as W:
        assert "is not used, as transformers does not" in W.reason
    assert len(hub.ranges()) == 1
