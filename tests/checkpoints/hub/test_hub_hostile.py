"""The network that cannot be trusted: each test is one thing that a server may do.

What must hold: one CheckpointError of one line that names the repository or file and what was
found, and no more fetched than was asked for.
"""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace

import numpy as np
import pytest
from hub_server import (
    COMMIT,
    INDEX,
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

from embedfilter import CheckpointError, EmbedFilter, open_unembedding
from embedfilter.checkpoints.hub import hub_file

ID = "owner/model"
FILE = f"{ID}/model.safetensors"
HEAD = np.random.default_rng(3).standard_normal((4096, 128), np.float32)  # 2 MB


def refused(source: str = ID, **options: str) -> str:
    """Return the message with which reading all of a head is refused."""
    with pytest.raises(CheckpointError) as raised, open_unembedding(source, **options) as W:
        for _ in W.blocks():
            pass
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


def right_after_the_header(hub: HubServer, answer: Answer) -> None:
    """Let a small model's header come right, and then this answer, always."""
    hub.add(ID, small_model(HEAD))
    hub.answers.append(Answer())
    hub.answer = answer


# ---- Ranges ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_right", [0, 1])
def test_row_62_a_server_that_ignores_ranges(hub, n_right):
    hub.add(ID, large_model(HEAD))
    hub.answers.extend([Answer()] * n_right)
    hub.answer = Answer(status=200, headers={"Content-Range": None})
    message = refused()
    assert f"{ID}/{SHARDS[1]}: the server ignores ranges: expected HTTP status 206" in message
    assert "found 200 with the whole file of 400209" in message
    assert hub.served() < 30_000_000  # what lay in the connection's buffers


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "bytes 0-5/6",
        "bytes 1-{last}/{size}",
        "bytes {first}-1/{size}",
        "bytes {first}-{last}/7",
        "bytes {first}-{last}/*",
        "bytes */{size}",
        "bytes {first}-{last}/" + "9" * 5000,
    ],
)
def test_row_63_wrong_content_range(hub, value):
    hub.add(ID, small_model(HEAD))
    size = hub.repositories[ID].commits[COMMIT]["model.safetensors"].size
    if value is not None:
        value = value.format(first=131072, last=size - 1, size=size)
    right_after_the_header(hub, Answer(headers={"Content-Range": value}))
    message = refused()
    assert f"{FILE}: expected Content-Range 'bytes 131072-" in message
    assert "found '" in message
    assert len(message) < 500


@pytest.mark.parametrize("length", ["0", "5", "99999999", "1e3", "-1"])
def test_row_63_wrong_content_length(hub, length):
    right_after_the_header(hub, Answer(headers={"Content-Length": length}, sent=5))
    assert refused().startswith(FILE)


def test_row_63_a_body_that_is_short(hub):
    right_after_the_header(hub, Answer(sent=0))
    message = refused()
    assert f"{FILE}: incomplete download: expected 1966" in message
    assert "bytes at byte 131072, found 0" in message
    assert len(hub.ranges()) == 1 + 6  # some attempts, not endless ones


def test_row_63_a_body_that_ends_early_without_a_length(hub):
    right_after_the_header(hub, Answer(headers={"Content-Length": None}, sent=10))
    assert "incomplete download" in refused()


def test_row_63_a_body_that_is_long(hub):
    extra = bytes(10 << 20)
    right_after_the_header(hub, Answer(headers={"Content-Length": None}, extra=extra))
    message = refused()
    assert f"{FILE}: expected bytes 131072 to 2097" in message
    assert message.endswith("from the server, found more")


def test_row_63_a_body_that_is_compressed(hub):
    right_after_the_header(hub, Answer(headers={"Content-Encoding": "gzip"}))
    assert refused() == f"{FILE}: expected plain bytes, found encoding 'gzip'"


def test_a_connection_that_brings_a_little_each_time_is_given_up(hub):
    right_after_the_header(hub, Answer(sent=1))
    assert "found 6: " in refused()


# ---- Other contents than weights ---------------------------------------------------------------


def test_row_63_a_git_lfs_pointer_in_place_of_the_data(hub):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    hub.add(ID, {"model.safetensors": pointer})
    assert refused().startswith(f"{FILE}: a Git LFS pointer, not the data")


def test_row_63_a_login_page_in_place_of_the_data(hub):
    page = b"<html>Log in</html>"
    hub.add(ID, small_model(HEAD))
    hub.answer = Answer(status=200, headers={"Content-Length": str(len(page))}, body=page)
    assert f"{FILE}: the server ignores ranges" in refused()
    hub.answer = Answer(headers={"Content-Length": str(len(page))}, body=page)
    assert f"{FILE}: expected Content-Length 131072, found '19'" in refused()


def test_row_63_a_login_page_in_place_of_the_config(hub):
    hub.add(ID, {**small_model(HEAD), "config.json": b"<html>Log in</html>"})
    assert f"{ID}/config.json: the config is not valid JSON" in refused()


def test_row_63_a_login_page_in_place_of_the_listing(hub):
    hub.listing = b"<html>Log in</html>"
    assert refused().startswith(f"{ID} at 'main': {hub.url}: ")


@pytest.mark.parametrize(
    "listing",
    [
        [],
        {},
        {"sha": None, "siblings": []},
        {"sha": "main", "siblings": []},
        {"sha": "../../../evil", "siblings": []},
        {"sha": "A" * 40, "siblings": []},
        {"sha": COMMIT, "siblings": 3},
        {"sha": COMMIT, "siblings": [{}]},
        {"sha": COMMIT, "siblings": [{"rfilename": 5}]},
        {"sha": 5, "siblings": []},
    ],
)
def test_listings_of_another_form(hub, listing):
    hub.listing = json.dumps(
        {"id": ID, **listing} if isinstance(listing, dict) else listing
    ).encode()
    assert refused().startswith(f"{ID} at 'main': ")
    assert len(hub.requests) == 1


def test_a_commit_that_is_answered_with_another(hub):
    hub.add(ID, small_model(HEAD)).revisions[OTHER_COMMIT] = COMMIT
    assert f"expected a commit from {hub.url}, found '{COMMIT}'" in refused(revision=OTHER_COMMIT)


# ---- Redirections ------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["file://a/etc/passwd", "ftp://localhost/x"])
def test_row_63_a_redirection_to_another_scheme(hub, location):
    hub.add(ID, small_model(HEAD))
    hub.hub_headers["Location"] = location
    scheme = location.partition(":")[0]
    assert f"{FILE}: the server redirects to another scheme" in (message := refused())
    assert message.endswith(f"found '{scheme}'")


def test_row_63_a_redirection_from_https_to_http(hub, tmp_path, monkeypatch):
    found = SimpleNamespace(commit_hash=COMMIT, size=9, etag="e", location=f"{hub.url}/x")
    monkeypatch.setattr(hub_file, "get_hf_file_metadata", lambda *_, **__: found)
    store = tmp_path / "x"
    url = "https://127.0.0.1/owner/model/resolve/1/x"
    file = hub_file.HubFile(url, commit=COMMIT, size=9, path=store, store=store)
    with pytest.raises(CheckpointError, match="another scheme: expected https, found 'http'"):
        file.read(0, 9)
    file.close()
    assert hub.requests == []


def test_row_63_the_token_is_not_carried_to_another_host(hub, monkeypatch):
    hub.add(ID, small_model(HEAD)).refusal = (401, "RepoNotFound")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # The storage redirects once more, to a third host.
    with socket.create_server(("127.0.0.1", 0)) as third:
        third.settimeout(60)
        address = f"http://127.0.0.1:{third.getsockname()[1]}/x"
        hub.answer = Answer(
            status=302, headers={"Location": address, "Content-Length": "0"}, body=b""
        )
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1.0)
        monkeypatch.setattr(hub_file, "_MOST_FAILURES", 0)
        assert refused().startswith(FILE)
        connection, _ = third.accept()
        with connection:
            asked = connection.recv(1 << 16)
    assert b"GET /x" in asked
    assert TOKEN.encode() not in asked
    assert {r.authorization for r in hub.requests if r.server == "storage"} == {None}


def test_redirections_in_a_circle(hub, monkeypatch):
    hub.add(ID, small_model(HEAD))
    hub.answer = Answer(status=302, headers={"Location": "?again", "Content-Length": "0"}, body=b"")
    monkeypatch.setattr(hub_file, "_MOST_FAILURES", 0)
    assert "TooManyRedirects" in refused()


# ---- What changes meanwhile --------------------------------------------------------------------


def test_row_63_a_revision_that_moves_between_requests(hub):
    repository = hub.add(ID, large_model(HEAD))
    hub.add(ID, large_model(-HEAD), OTHER_COMMIT)
    hub.after_listing = lambda: repository.revisions.update(main=OTHER_COMMIT)
    f = EmbedFilter.from_checkpoint(ID)
    assert f.metadata["fingerprint"] == EmbedFilter.from_matrix(HEAD).metadata["fingerprint"]


@pytest.mark.parametrize(
    ("header", "value", "message"),
    [
        ("X-Repo-Commit", OTHER_COMMIT, f"expected commit {COMMIT}, found {OTHER_COMMIT}"),
        ("X-Linked-Size", "5", "expected size {size}, found 5"),
        ("X-Linked-Size", "x", "expected size {size}, found None"),
    ],
)
def test_another_file_than_was_listed(hub, header, value, message):
    hub.add(ID, small_model(HEAD))
    hub.hub_headers[header] = value
    size = hub.repositories[ID].commits[COMMIT]["model.safetensors"].size
    assert refused() == f"{FILE}: changed on the server: {message.format(size=size)}"


def test_an_address_that_has_expired_is_asked_for_again(hub):
    right_after_the_header(hub, Answer())
    hub.answers.append(Answer(status=403, headers={"Content-Range": None}))
    with open_unembedding(ID) as W:
        np.testing.assert_array_equal(W.rows(0, 4096), HEAD)
    assert sum(r.method == "HEAD" for r in hub.requests) == 2


def test_an_etag_that_changes(hub):
    right_after_the_header(hub, Answer())
    hub.answers.append(Answer(status=403, headers={"Content-Range": None}))
    with open_unembedding(ID) as W:
        hub.hub_headers["X-Linked-Etag"] = '"other"'
        with pytest.raises(CheckpointError, match=f"{FILE}: changed on the server: expected etag"):
            W.rows(0, 4096)


# ---- Names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../other.safetensors",
        "../../../../private/model/resolve/main/model.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "http://127.0.0.1/x.safetensors",
        "..",
        "C:x.safetensors",
        "a\\..\\x.safetensors",
        "x.safetensors\u0000",
    ],
)
def test_row_64_an_index_that_leads_elsewhere(hub, name):
    hub.add("private/model", small_model(HEAD))
    hub.add(ID, {INDEX: {"weight_map": {"lm_head.weight": name}}})
    message = refused()
    assert f"{ID}/{INDEX}: " in message
    assert "expected the base name" in message
    asked = {r.path.partition("?")[0] for r in hub.requests}
    assert asked == {f"/api/models/{ID}/revision/main", f"/{ID}/resolve/{COMMIT}/{INDEX}"}


def test_row_64_a_listing_with_names_that_lead_elsewhere(hub, tmp_path):
    content = small_model(HEAD)["model.safetensors"]
    names = ("../../../evil.safetensors", "/evil.safetensors", "a/../../evil.safetensors", "a//b")
    hub.add(ID, dict.fromkeys([*names, "a\\..\\evil.safetensors", "./evil.safetensors"], content))
    assert "found nothing" in refused()
    assert not list(tmp_path.rglob("*evil*"))
    assert "no such file" in refused(f"{ID}/../../../evil.safetensors")


@pytest.mark.parametrize("repository", ["owner/..", "owner/mo..del", "owner/--", "owner/.git"])
def test_row_64_an_id_that_leads_elsewhere(hub, repository):
    assert "no such file or folder" in refused(repository)
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["../../api/whoami", "a b", "x?y#z", "%2e%2e", "ö" * 300])
def test_row_64_a_revision_that_leads_elsewhere(hub, revision):
    hub.add(ID, small_model(HEAD))
    assert refused(revision=revision).startswith(f"{ID} at ")
    start = f"/api/models/{ID}/revision/"
    assert all(r.path.startswith(start) and "/" not in r.path[len(start) :] for r in hub.requests)


# ---- Sizes -------------------------------------------------------------------------------------


def test_an_index_that_is_too_large_is_not_fetched(hub):
    hub.add(ID, {INDEX: SparseFile(b"{", 100_000_001), **small_model(HEAD)})
    assert f"{ID}/{INDEX}: expected at most 100000000 bytes, found 100000001" in refused()
    assert hub.served() < 10_000


def test_a_config_that_is_too_large_is_refused(hub):
    hub.add(ID, {"config.json": SparseFile(b"{", 17 << 20), **small_model(HEAD)})
    assert f"{ID}/config.json: the config: expected at most 16777216 bytes" in refused()


def test_a_header_that_is_too_long_is_not_fetched(hub):
    start = (1 << 39).to_bytes(8, "little") + b"{"
    hub.add(ID, {"model.safetensors": SparseFile(start, 1 << 40)})
    assert f"{FILE}: not a safetensors file: expected a header of at most" in refused()
    assert hub.served() < 200_000


def test_a_listing_without_sizes(hub):
    hub.add(ID, small_model(HEAD))
    siblings = [{"rfilename": "model.safetensors"}]
    hub.listing = json.dumps({"id": ID, "sha": COMMIT, "siblings": siblings}).encode()
    with open_unembedding(ID) as W:
        np.testing.assert_array_equal(W.rows(0, 4096), HEAD)


@pytest.mark.parametrize("size", [1 << 63, -1, 2.5, "9", None])
def test_sizes_that_files_cannot_have(hub, size):
    siblings = [{"rfilename": "model.safetensors", "size": size}]
    hub.listing = json.dumps({"id": ID, "sha": COMMIT, "siblings": siblings}).encode()
    assert refused().startswith(FILE)


# ---- Access ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_listed", [False, True])
@pytest.mark.parametrize("first", ["config.json", "model.safetensors"])
def test_row_63_a_gated_repository(hub, monkeypatch, is_listed, first):
    config = {"config.json": {}} if first == "config.json" else {}
    repository = hub.add(ID, {**config, **small_model(HEAD)})
    repository.refusal, repository.is_listed = (403, "GatedRepo"), is_listed
    where = f"{ID}/{first}" if is_listed else f"{ID} at 'main'"
    expected = f"{where}: a gated repository, which {hub.url} does not give"
    message = refused()
    assert message.startswith(f"{expected} without a token; accept its terms")
    assert "hf auth login" in message
    monkeypatch.setenv("HF_TOKEN", "hf_without_access")
    assert refused().startswith(f"{expected} with the token in use")


def test_row_63_a_private_repository(hub, monkeypatch):
    hub.add(ID, small_model(HEAD)).refusal = (401, "RepoNotFound")
    expected = f"{ID} at 'main': no such repository on {hub.url}, or a private one, which it does"
    here = f"; nor is there a file or folder {ID} here"
    assert refused() == f"{expected} not give without a token{here}"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert refused() == f"{expected} not give with the token in use{here}"


def test_a_repository_that_is_missing(hub):
    message = f"{ID} at 'main': no such repository on {hub.url}"
    assert message in refused()


def test_a_revision_that_is_missing(hub):
    hub.add(ID, small_model(HEAD))
    assert refused(revision="v9") == f"{ID} at 'v9': no such revision on {hub.url}"


def test_a_file_that_is_missing(hub):
    hub.add(ID, small_model(HEAD))
    files = hub.repositories[ID].commits[COMMIT]
    hub.after_listing = files.clear
    assert refused() == f"{FILE}: no such file on {hub.url}"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 418, 451])
def test_http_statuses_of_the_hub(hub, status):
    hub.hub_status["/api"] = status
    message = refused()
    assert message.startswith(f"{ID} at 'main': {hub.url} answers HTTP status {status}")
    assert len(hub.requests) == 1


def test_a_hub_that_is_busy(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
    hub.add(ID, {**small_model(HEAD), "config.json": {}})
    hub.hub_status[f"/{ID}/resolve"] = 503
    assert refused() == f"{ID}/config.json: {hub.url} answers HTTP status 503"
    del hub.repositories[ID].commits[COMMIT]["config.json"]
    message = refused()
    assert message.startswith(f"{FILE}: incomplete download: expected 131072 bytes at byte 0")
    assert message.endswith("answers HTTP status 503")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(hub, status, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(hub_file, "time", SimpleNamespace(sleep=waits.append))
    headers = {"Content-Range": None, "Retry-After": "7"}
    right_after_the_header(hub, Answer())
    hub.answers.append(Answer(status=status, headers=headers))
    with open_unembedding(ID) as W:
        np.testing.assert_array_equal(W.rows(0, 4096), HEAD)
    assert waits == [7.0]
    hub.answer = Answer(status=status, headers={"Content-Range": None, "Retry-After": "9" * 400})
    hub.add("owner/other", small_model(HEAD))
    message = refused("owner/other")
    assert f"answers HTTP status {status}" in message
    assert message.startswith("owner/other/model.safetensors: incomplete download")
    assert waits[1:] == [60.0] * 5


@pytest.mark.parametrize("status", [416, 418, 451, 304, 201])
def test_http_statuses_of_the_storage(hub, status):
    right_after_the_header(hub, Answer(status=status, headers={"Content-Range": None}))
    assert f"{FILE}: {hub.url} answers HTTP status {status}" in refused()


def test_row_63_offline_mode(hub, monkeypatch):
    hub.add(ID, small_model(HEAD))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = f"{ID} at 'main': not in the cache, and offline mode is on (HF_HUB_OFFLINE)"
    assert refused().startswith(message)
    assert hub.requests == []


# ---- Connections -------------------------------------------------------------------------------


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_hub_that_is_not_there(hub, monkeypatch):
    address = closed_port()
    monkeypatch.setattr(constants, "ENDPOINT", address)
    assert refused().startswith(f"{ID} at 'main': {address}: ConnectError")


def test_a_storage_that_is_not_there(hub):
    hub.add(ID, small_model(HEAD))
    hub.hub_headers["Location"] = f"{closed_port()}/x"
    message = refused()
    assert message.startswith(f"{FILE}: incomplete download: expected 131072 bytes at byte 0")
    assert "ConnectError" in message


def test_a_server_that_is_silent(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    monkeypatch.setattr(hub_file, "_MOST_FAILURES", 1)
    right_after_the_header(hub, Answer(delay=1.0))
    message = refused()
    assert message.startswith(f"{FILE}: incomplete download: ")
    assert "ReadTimeout" in message


def test_a_hub_that_is_silent(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(
            constants, "ENDPOINT", address := f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        assert refused().startswith(f"{ID} at 'main': {address}: ReadTimeout")


# ---- Weights that are not fetched, and disks that are full -------------------------------------


def test_pytorch_pickles_only(hub):
    hub.add(ID, {"pytorch_model.bin": b"x" * 1000, "config.json": {}})
    message = refused()
    assert message.startswith(f"{ID}/pytorch_model.bin: PyTorch pickles are not fetched; run `hf")
    assert all("pytorch_model" not in r.path for r in hub.requests)


def test_a_folder_that_cannot_be_written(hub, tmp_path, monkeypatch):
    hub.add(ID, small_model(HEAD))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "file" / "assets"))
    message = refused()
    assert "what is fetched cannot be kept there: Not a directory; HF_ASSETS_CACHE" in message


def test_a_disk_that_is_full(hub, monkeypatch):
    right_after_the_header(hub, Answer())

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with open_unembedding(ID) as W:
        monkeypatch.setattr(hub_file.os, "write", full)
        with pytest.raises(CheckpointError, match=r"kept there: No space left on device"):
            W.rows(0, 4096)
