"""Models on the Hub: what is fetched, and what is kept.

The client is the real huggingface_hub, the server one on this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from checkpoint_files import gguf_file, gguf_tensor
from command_line import COMMAND
from hub_server import (
    COMMIT,
    OTHER_COMMIT,
    SHARDS,
    TOKEN,
    Answer,
    HubServer,
    SparseFile,
    large_model,
    small_model,
)
from huggingface_hub import constants
from oracle import head_with_spectrum, model_like_spectrum

from embedfilter import CheckpointError, EmbedFilter, open_unembedding

ID = "owner/model"
LISTING = f"/api/models/{ID}/revision/main"
V, D = 16384, 128


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """A head of 8 MB."""
    W = head_with_spectrum(np.random.default_rng(5), V, model_like_spectrum(D, 25))
    return W.astype("<f4")


@pytest.fixture(scope="module")
def expected(head) -> EmbedFilter:
    return EmbedFilter.from_matrix(head)


def paths(hub: HubServer) -> list[str]:
    return [request.path.partition("?")[0] for request in hub.requests]


def bytes_on_disk(folder: Path) -> int:
    return sum(512 * path.lstat().st_blocks for path in folder.rglob("*"))


# ---- What is fetched ---------------------------------------------------------------------------


def test_a_repository_of_8_gb_costs_its_head_and_under_1_mb(hub, head, expected, tmp_path):
    files = hub.add(ID, large_model(head)).commits[COMMIT]
    assert sum(file.size for file in files.values()) > 8e9
    f = EmbedFilter.from_checkpoint(ID)
    assert head.nbytes <= hub.served() < head.nbytes + 1_000_000
    assert len(hub.ranges()) == 2  # the header, and the head, which is one block
    assert bytes_on_disk(tmp_path) < head.nbytes + 1_000_000
    np.testing.assert_array_equal(f.components, expected.components)
    assert f.metadata["fingerprint"] == expected.metadata["fingerprint"]
    assert f.metadata["source"] == ID
    assert f.metadata["revision"] == COMMIT


def test_the_head_comes_in_blocks(hub):
    V = 100_000
    W = np.random.default_rng(1).standard_normal((V, D), np.float32)  # 51 MB
    hub.add(ID, small_model(W))
    with open_unembedding(ID) as opened:
        for start, rows in opened.blocks():
            np.testing.assert_array_equal(rows, W[start : start + len(rows)])
    assert max(last + 1 - first for first, last in hub.ranges()) <= 16 << 20
    assert (
        hub.served("storage")
        == W.nbytes + hub.repositories[ID].commits[COMMIT]["model.safetensors"].size - W.nbytes
    )


def test_single_rows_cost_little(hub, head):
    hub.add(ID, large_model(head))
    with open_unembedding(ID) as W:
        np.testing.assert_array_equal(W.rows(7000, 7003), head[7000:7003])
        before = hub.served()
        np.testing.assert_array_equal(W.rows(7001, 7002), head[7001:7002])
        np.testing.assert_array_equal(W.rows(6999, 7005), head[6999:7005])
    assert hub.served() == before + 3 * D * 4
    assert hub.served() < 200_000


def test_inspecting_costs_a_header(hub, head):
    hub.add(ID, large_model(head))
    with open_unembedding(ID) as W:
        assert W.shape == (V, D)
        assert W.revision == COMMIT
        assert W.source == ID
    assert hub.served() < 200_000


def test_a_gguf_file(hub, head):
    tensor = gguf_tensor("output.weight", [D, V], kind=0, offset=0)
    hub.add(ID, {"model-F32.gguf": gguf_file(tensors=[tensor], data=head.tobytes())})
    with open_unembedding(ID) as W:
        np.testing.assert_array_equal(W.rows(0, V), head)


def test_several_gguf_files_are_listed_and_one_is_named(hub, head):
    tensor = gguf_tensor("output.weight", [D, V], kind=0, offset=0)
    data = gguf_file(tensors=[tensor], data=head.tobytes())
    hub.add(ID, {"a-Q8_0.gguf": data, "sub/b-F16.gguf": data, "c-F16.gguf": data})
    with pytest.raises(CheckpointError, match=r"owner/model: .* 2: 'a-Q8_0.gguf', 'c-F16.gguf'"):
        open_unembedding(ID)
    for name in ("c-F16.gguf", "sub/b-F16.gguf"):
        with open_unembedding(f"{ID}/{name}") as W:
            np.testing.assert_array_equal(W.rows(3, 5), head[3:5])
            assert W.source == f"{ID}/{name}"


def test_a_model_of_sentence_transformers(hub, head):
    modules = [{"idx": 0, "name": "0", "path": "0_Transformer", "type": "a.Transformer"}]
    weights = {f"0_Transformer/{name}": data for name, data in small_model(head).items()}
    config = {"0_Transformer/config.json": {"hidden_size": D}}
    hub.add(ID, {"modules.json": modules, **weights, **config})
    with open_unembedding(ID) as W:
        np.testing.assert_array_equal(W.rows(0, 10), head[:10])


# ---- What is kept ------------------------------------------------------------------------------


def test_a_second_fit_costs_nothing(hub, head, expected):
    hub.add(ID, large_model(head))
    EmbedFilter.from_checkpoint(ID)
    hub.requests.clear()
    f = EmbedFilter.from_checkpoint(ID)
    assert paths(hub) == [LISTING]  # what main is now
    hub.requests.clear()
    EmbedFilter.from_checkpoint(ID, revision=COMMIT)
    assert hub.requests == []
    np.testing.assert_array_equal(f.components, expected.components)


def test_a_drop_is_resumed_from_the_byte_reached(hub, head, expected):
    hub.add(ID, large_model(head))
    hub.answers.extend([Answer(), Answer(sent=2_500_000), Answer(sent=0), Answer(sent=100)])
    f = EmbedFilter.from_checkpoint(ID)
    assert not hub.answers
    assert hub.served() < head.nbytes + 1_000_000
    np.testing.assert_array_equal(f.components, expected.components)


def test_a_fit_that_failed_is_resumed_by_the_next(hub, head, expected):
    hub.add(ID, large_model(head))
    hub.answers.extend([Answer(), Answer(sent=5_000_000)])
    hub.answer = Answer(sent=0)
    with pytest.raises(CheckpointError, match="incomplete download: expected 8388608 bytes"):
        EmbedFilter.from_checkpoint(ID)
    served = hub.served()
    assert 5_000_000 < served < 6_000_000
    hub.answer = Answer()
    f = EmbedFilter.from_checkpoint(ID)
    assert hub.served() < head.nbytes + 1_000_000
    np.testing.assert_array_equal(f.components, expected.components)


def test_a_fit_that_was_killed_is_resumed_by_the_next(hub, head, expected, tmp_path):
    hub.add(ID, large_model(head))
    hub.answers.extend([Answer(), Answer(sent=5_000_000), Answer(delay=60)])
    process = subprocess.Popen(
        [COMMAND, "fit", ID, "-o", tmp_path / "f.safetensors"], env=environment(hub, tmp_path)
    )
    while hub.answers:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    hub.answers.clear()
    f = EmbedFilter.from_checkpoint(ID)
    assert hub.served() < head.nbytes + 1_000_000
    np.testing.assert_array_equal(f.components, expected.components)


def test_two_that_fetch_at_a_time(hub, head):
    hub.add(ID, large_model(head))
    with open_unembedding(ID) as first, open_unembedding(ID) as second:
        for start in range(0, V, 4096):
            for W in (first, second) if start % 8192 else (second, first):
                np.testing.assert_array_equal(
                    W.rows(start, start + 4096), head[start : start + 4096]
                )
    hub.requests.clear()
    with open_unembedding(ID, revision=COMMIT) as W:
        np.testing.assert_array_equal(W.rows(0, V), head)
    assert hub.requests == []


def kept_file(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / "home" / "assets" / "embedfilter" / "owner--model" / COMMIT / "files"
    return folder / name


def test_a_damaged_record_is_fetched_again(hub, head, tmp_path):
    hub.add(ID, large_model(head))
    EmbedFilter.from_checkpoint(ID)
    kept = kept_file(tmp_path, SHARDS[1])
    journal = kept.with_name(f"{kept.name}.held")
    size = kept.stat().st_size
    journal.write_text(f"0 131072\n5 1\n\nx y\n0 {size + 1}\n0 99999999999999999999\n-1 5\n0 7 9")
    with open_unembedding(ID, revision=COMMIT) as W:
        hub.requests.clear()
        np.testing.assert_array_equal(W.rows(5, 6), head[5:6])
        assert hub.served("storage") == D * 4


def test_a_kept_file_of_another_size_is_begun_again(hub, head, tmp_path):
    hub.add(ID, large_model(head))
    EmbedFilter.from_checkpoint(ID)
    os.truncate(kept_file(tmp_path, SHARDS[1]), 1000)
    hub.requests.clear()
    with open_unembedding(ID) as W:
        np.testing.assert_array_equal(W.rows(0, V), head)
    assert hub.served("storage") > head.nbytes


def test_a_damaged_listing_is_asked_for_again(hub, head, tmp_path):
    hub.add(ID, small_model(head))
    open_unembedding(ID).close()
    listing = kept_file(tmp_path, "").parent / "listing.json"
    for text in ("", "[]", '{"model.saf'):
        listing.write_text(text)
        open_unembedding(ID, revision=COMMIT).close()


def test_a_model_that_is_whole_in_the_cache_is_read_there(hub, head):
    hub.add(ID, small_model(head))
    huggingface_hub.hf_hub_download(ID, "model.safetensors")
    hub.requests.clear()
    with open_unembedding(ID) as W:
        np.testing.assert_array_equal(W.rows(0, V), head)
        assert W.revision == COMMIT
    assert paths(hub) == [LISTING]


def test_a_model_that_is_whole_in_the_cache_is_read_offline(hub, head, monkeypatch):
    hub.add(ID, small_model(head))
    huggingface_hub.hf_hub_download(ID, "model.safetensors")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with open_unembedding(ID) as W:
        np.testing.assert_array_equal(W.rows(0, V), head)
        assert W.revision == COMMIT
    assert hub.requests == []


def test_what_was_fetched_serves_offline(hub, head, expected, monkeypatch):
    hub.add(ID, large_model(head))
    EmbedFilter.from_checkpoint(ID, revision="main")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    f = EmbedFilter.from_checkpoint(ID)
    assert hub.requests == []
    np.testing.assert_array_equal(f.components, expected.components)


@pytest.mark.parametrize("opened_before", [False, True])
def test_offline_without_the_bytes(hub, head, monkeypatch, opened_before):
    hub.add(ID, large_model(head))
    if opened_before:
        open_unembedding(ID).close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = "owner/model.*: not in the cache, and offline mode is on"
    with pytest.raises(CheckpointError, match=message):
        EmbedFilter.from_checkpoint(ID)


# ---- Revisions ---------------------------------------------------------------------------------


def test_revisions(hub, head):
    repository = hub.add(ID, small_model(head))
    hub.add(ID, small_model(2 * head), OTHER_COMMIT)
    repository.revisions |= {"v2": OTHER_COMMIT, "refs/pr/1": OTHER_COMMIT}
    for revision, commit in (
        (None, COMMIT),
        ("main", COMMIT),
        ("v2", OTHER_COMMIT),
        ("refs/pr/1", OTHER_COMMIT),
        (OTHER_COMMIT, OTHER_COMMIT),
    ):
        with open_unembedding(ID, revision=revision) as W:
            assert W.revision == commit
            factor = 1 if commit == COMMIT else 2
            np.testing.assert_array_equal(W.rows(0, 5), factor * head[:5])


def test_a_branch_that_moves_during_the_fit_moves_nothing(hub, head, expected):
    repository = hub.add(ID, large_model(head))
    hub.add(ID, large_model(2 * head), OTHER_COMMIT)

    def move() -> None:
        repository.revisions["main"] = OTHER_COMMIT

    hub.after_listing = move
    f = EmbedFilter.from_checkpoint(ID)
    assert f.metadata["revision"] == COMMIT
    assert f.metadata["fingerprint"] == expected.metadata["fingerprint"]
    resolved = [path for path in paths(hub) if "/resolve/" in path]
    assert resolved
    assert all(f"/resolve/{COMMIT}/" in path for path in resolved)
    assert EmbedFilter.from_checkpoint(ID).metadata["revision"] == OTHER_COMMIT


@pytest.mark.parametrize("revision", ["", 3, b"main"])
def test_a_revision_that_is_none(hub, revision):
    with pytest.raises((TypeError, ValueError), match="revision: expected a branch"):
        open_unembedding(ID, revision=revision)
    assert hub.requests == []


# ---- Tokens ------------------------------------------------------------------------------------


def test_the_token_opens_a_private_repository_and_stays_with_the_hub(hub, head, monkeypatch):
    hub.add(ID, large_model(head)).refusal = (401, "RepoNotFound")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    EmbedFilter.from_checkpoint(ID)
    tokens = {server: set() for server in ("hub", "storage")}
    for request in hub.requests:
        tokens[request.server].add(request.authorization)
    assert tokens == {"hub": {f"Bearer {TOKEN}"}, "storage": {None}}


def test_the_token_does_not_follow_a_redirection_to_another_host(hub, head, monkeypatch):
    hub.add(ID, small_model(head)).refusal = (401, "RepoNotFound")
    hub.direct = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    EmbedFilter.from_checkpoint(ID)
    fetches = [r for r in hub.requests if r.server == "hub" and r.range]
    assert all(r.authorization == f"Bearer {TOKEN}" for r in fetches)
    assert {r.authorization for r in hub.requests if r.server == "storage"} == {None}


# ---- Names of sources --------------------------------------------------------------------------


def test_a_local_path_comes_first(hub, head, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(ID)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"owner/model/model.safetensors: not a safetensors"):
        open_unembedding(ID)
    with pytest.raises(ValueError, match="revision: expected None for the local source"):
        open_unembedding(ID, revision="main")
    assert hub.requests == []


@pytest.mark.parametrize(
    "source",
    [
        "gpt2",
        "no/model.safetensors",
        "no/model.gguf",
        "./owner/model",
        "../owner/model",
        "/owner/model",
        "~/owner/model",
        "owner/model/",
        "owner/a/b",
        "owner/../model",
        "owner/mo--del",
        "owner/mo..del",
        "owner/model.git",
        "owner/-model",
        "öwner/model",
        "owner\\model",
        "owner/model\n",
        b"owner/model",
        Path("owner/model"),
    ],
)
def test_paths_that_are_no_ids(hub, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        open_unembedding(source)
    assert hub.requests == []


def test_a_file_that_is_not_in_the_repository(hub, head):
    hub.add(ID, small_model(head))
    with pytest.raises(CheckpointError, match=r"owner/model/x.gguf: no such file.*model.safe"):
        open_unembedding(f"{ID}/x.gguf")


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for name in ("repository", "hub_file", "hub_errors"):
        monkeypatch.delitem(sys.modules, f"embedfilter.checkpoints.hub.{name}", raising=False)
    with pytest.raises(ImportError, match=r"owner/model: no such.*pip install \"embedfilter\[hub"):
        open_unembedding(ID)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_what_is_kept_beside_a_fork(tmp_path: Path) -> None:
    """A child has the same open file: a position that one sets is the other's too."""
    from embedfilter.checkpoints.hub.hub_file import _KeptBytes

    half, step = 1 << 23, 1 << 10
    kept = _KeptBytes(tmp_path / "file", 2 * half)
    child = os.fork()
    first, byte = (half, b"c") if child == 0 else (0, b"p")
    try:
        for offset in range(first, first + half, step):
            kept.write(byte * step, offset)
    finally:
        if child == 0:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    kept.close()
    assert (tmp_path / "file").read_bytes() == b"p" * half + b"c" * half


# ---- The command line --------------------------------------------------------------------------


def environment(hub: HubServer, tmp_path: Path, **variables: str) -> dict[str, str]:
    home = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    return {**os.environ, **home, **variables}


def test_the_command_line(hub, head, expected, tmp_path):
    hub.add(ID, large_model(head)).revisions["v1"] = COMMIT
    output = tmp_path / "filter.safetensors"

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *map(str, arguments)],
            env=environment(hub, tmp_path, **variables),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    hub.repositories[ID].commits[COMMIT]["tokenizer.json"] = SparseFile(b"{}", 2)
    done = run("inspect", ID, "--revision", "v1", "--json")
    assert json.loads(done.stdout)["revision"] == COMMIT
    done = run("fit", ID, "-o", output, "--revision", "v1")
    assert (done.returncode, done.stderr) == (0, "")
    f = EmbedFilter.load(output)
    np.testing.assert_array_equal(f.components, expected.components)
    assert f.metadata["revision"] == COMMIT
    hub.requests.clear()
    done = run("inspect", ID, "--revision", "v1", HF_HUB_OFFLINE="1")
    assert (done.returncode, hub.requests) == (0, [])
    done = run("fit", "owner/other", "-o", output)
    assert done.returncode == 2
    assert done.stderr.startswith("embedfilter: error: owner/other at 'main': no such repository")
    assert len(done.stderr.splitlines()) == 1


def test_the_progress_bar(hub, head, capsys):
    hub.add(ID, small_model(head))
    EmbedFilter.from_checkpoint(ID)
    assert capsys.readouterr().err == ""
    EmbedFilter.from_checkpoint(ID, progress=True)
    assert "100%" in capsys.readouterr().err
