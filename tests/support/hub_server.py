"""A Hugging Face Hub of a few repositories on this machine, which counts what it serves.

It answers as the Hub does: the API tells a revision's commit and files; small files come from
it, weights from a storage server of another origin, to which it redirects with a signed address.
What the storage answers can be changed, once or always, to what no server should answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from checkpoint_files import safetensors_bytes
from numpy.typing import NDArray

COMMIT = "1" * 40
OTHER_COMMIT = "2" * 40
TOKEN = "hf_of_the_test"
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
_LAYER = 1_000_000_000  # numbers of four bytes
_PIECE = 1 << 16


@dataclass(frozen=True)
class SparseFile:
    """A file of zeros but for some bytes at its start and some at its end."""

    start: bytes
    size: int
    end: bytes = b""

    def read(self, begin: int, stop: int) -> bytes:
        data = bytearray(stop - begin)
        for offset, known in ((0, self.start), (self.size - len(self.end), self.end)):
            low, high = max(begin, offset), min(stop, offset + len(known))
            if low < high:
                data[low - begin : high - begin] = known[low - offset : high - offset]
        return bytes(data)


@dataclass
class Repository:
    """A model: the files of each commit, and the commit of each branch or tag."""

    commits: dict[str, dict[str, SparseFile]]
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    # What is sent to those who have no token: an HTTP status and an error code, or nothing.
    refusal: tuple[int, str] | None = None
    # Whether its listing is open to all nevertheless, as that of a gated repository is.
    is_listed: bool = False


@dataclass(frozen=True)
class Answer:
    """How the storage's answer differs from a right one."""

    status: int = 206
    headers: dict[str, str | None] = field(default_factory=dict)
    sent: int | None = None
    """The connection is closed after so many bytes of the body."""
    extra: bytes = b""
    body: bytes | None = None
    delay: float = 0.0


RIGHT = Answer()


@dataclass
class Request:
    """What a client asked for, and how many bytes of body it was sent."""

    server: str
    method: str
    path: str
    range: str | None
    authorization: str | None
    n_bytes: int = 0


class HubServer:
    """The Hub at `url`, its storage at `storage_url`.

    Attributes
    ----------
    requests
        What has been asked for.
    answers, answer
        The storage's next answers, and all after them.
    hub_status
        HTTP statuses for paths of the Hub itself that begin so.
    hub_headers
        What the Hub tells of weights in place of what is right.
    direct
        The Hub tells of weights without a redirection, and redirects who fetches them.
    listing
        What the Hub tells of every revision, in place of what is right.
    after_listing
        Called when the Hub has told a revision's commit.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.answers: deque[Answer] = deque()
        self.answer = RIGHT
        self.hub_status: dict[str, int] = {}
        self.hub_headers: dict[str, str] = {}
        self.direct = False
        self.listing: bytes | None = None
        self.after_listing: Callable[[], None] | None = None
        self._stored: dict[str, SparseFile] = {}
        self._lock = threading.Lock()
        self._servers = [self._listen(_HubHandler), self._listen(_StorageHandler)]
        # Of another name, which is what versions of huggingface_hub tell hosts apart by.
        self.url, self.storage_url = (
            f"http://{name}:{server.server_address[1]}"
            for name, server in zip(("127.0.0.1", "localhost"), self._servers, strict=True)
        )

    def add(self, repository: str, files: dict[str, Any], commit: str = COMMIT) -> Repository:
        """Add a commit to a repository; files are bytes, what becomes JSON, or sparse."""
        known = self.repositories.setdefault(repository, Repository({}))
        known.commits[commit] = {name: _as_file(content) for name, content in files.items()}
        return known

    def served(self, server: str | None = None) -> int:
        """Return the number of bytes of bodies that were sent, by one server or both."""
        return sum(r.n_bytes for r in self.requests if server in (None, r.server))

    def ranges(self) -> list[tuple[int, int]]:
        """Return the ranges that the storage was asked for: first byte, last byte."""
        texts = [r.range for r in self.requests if r.server == "storage" and r.range]
        pairs = [text.removeprefix("bytes=").split("-") for text in texts]
        return [(int(first), int(last)) for first, last in pairs]

    def store(self, file: SparseFile) -> str:
        """Put a file where the storage has it; return its key there."""
        key = hashlib.sha256(file.start + file.end + str(file.size).encode()).hexdigest()
        self._stored[key] = file
        return key

    def stored(self, key: str) -> SparseFile:
        """Return the file of a key."""
        return self._stored[key]

    def next_answer(self) -> Answer:
        """Return how the storage answers now."""
        with self._lock:
            return self.answers.popleft() if self.answers else self.answer

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _listen(self, handler: type[_Handler]) -> ThreadingHTTPServer:
        server = _Server(("127.0.0.1", 0), handler)
        server.hub = self  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server


def shard(tensors: dict[str, tuple[str, list[int], int]], end: bytes = b"") -> SparseFile:
    """A safetensors file of zeros but for its end, from names and dtype, shape, number of bytes."""
    header, position = {}, 0
    for name, (dtype, shape, n_bytes) in tensors.items():
        offsets = [position, position + n_bytes]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        position += n_bytes
    start = safetensors_bytes(header)
    return SparseFile(start, len(start) + position, end)


def large_model(head: NDArray[np.float32]) -> dict[str, Any]:
    """The files of a model of two shards of 4 GB; the second ends with its head."""
    layers = [f"model.layers.{i}.weight" for i in (0, 1)]
    layer = ("F32", [_LAYER], 4 * _LAYER)
    weight_map = {**dict(zip(layers, SHARDS, strict=True)), "lm_head.weight": SHARDS[1]}
    return {
        "config.json": {"hidden_size": head.shape[1], "vocab_size": head.shape[0]},
        INDEX: {"metadata": {}, "weight_map": weight_map},
        "tokenizer.json": SparseFile(b"{", 20_000_000),
        SHARDS[0]: shard({layers[0]: layer}),
        SHARDS[1]: shard({layers[1]: layer, **one_tensor(head)}, head.tobytes()),
    }


def small_model(head: NDArray[np.float32]) -> dict[str, Any]:
    """The files of a model of one file with a head and nothing else."""
    return {"model.safetensors": shard(one_tensor(head), head.tobytes())}


def one_tensor(head: NDArray[np.float32]) -> dict[str, tuple[str, list[int], int]]:
    """A head as `shard` takes it."""
    return {"lm_head.weight": ("F32", list(head.shape), head.nbytes)}


def _as_file(content: Any) -> SparseFile:
    if isinstance(content, SparseFile):
        return content
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return SparseFile(data, len(data))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients that break a connection off are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = ""

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        raise NotImplementedError

    def log_message(self, *_: Any) -> None:
        pass

    def reply(
        self, status: int, headers: dict[str, str | None], body: Iterator[bytes] | bytes = b""
    ) -> None:
        """Send an answer and record the request; a header of None is left out."""
        request = Request(
            self.name,
            self.command,
            self.path,
            self.headers["Range"],
            self.headers["Authorization"],
        )
        self.hub.requests.append(request)
        with contextlib.suppress(OSError):  # the client has gone
            self.send_response(status)
            for header, value in headers.items():
                if value is not None:
                    self.send_header(header, value)
            self.end_headers()
            if self.command != "HEAD":
                for piece in (body,) if isinstance(body, bytes) else body:
                    request.n_bytes += len(piece)
                    self.wfile.write(piece)


class _HubHandler(_Handler):
    name = "hub"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/api/agent-harnesses":  # huggingface_hub asks once a day, of itself
            self.send_error(404)
            return
        if self.hub.listing is not None and path.startswith("/api/"):
            self.reply(200, {"Content-Length": str(len(self.hub.listing))}, self.hub.listing)
            return
        for start, status in self.hub.hub_status.items():
            if path.startswith(start):
                self.refuse(status, "")
                return
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        repository = self.hub.repositories.get(match[1]) if match else None
        if match is None or repository is None:
            self.refuse(401, "RepoNotFound")
            return
        is_open = repository.refusal is None or (api and repository.is_listed)
        if not is_open and self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.refuse(*repository.refusal)
            return
        revision = unquote(match[2])
        commit = repository.revisions.get(revision, revision)
        if commit not in repository.commits:
            self.refuse(404, "RevisionNotFound")
        elif api:
            self.send_listing(repository, commit)
        else:
            self.send_file(repository, commit, unquote(match[3]))

    def refuse(self, status: int, code: str) -> None:
        body = b'{"error": "refused"}'
        self.reply(status, {"X-Error-Code": code, "Content-Length": str(len(body))}, body)

    def send_listing(self, repository: Repository, commit: str) -> None:
        files = repository.commits[commit].items()
        siblings = [{"rfilename": name, "size": file.size} for name, file in files]
        body = json.dumps({"id": "a/b", "sha": commit, "siblings": siblings}).encode()
        self.reply(200, {"Content-Length": str(len(body))}, body)
        if self.hub.after_listing:
            self.hub.after_listing()

    def send_file(self, repository: Repository, commit: str, name: str) -> None:
        file = repository.commits[commit].get(name)
        if file is None:
            self.refuse(404, "EntryNotFound")
            return
        key = self.hub.store(file)
        headers: dict[str, str | None] = {"X-Repo-Commit": commit, "ETag": f'"{key}"'}
        if name.endswith((".safetensors", ".gguf", ".bin")):
            headers |= {
                "X-Linked-Size": str(file.size),
                "X-Linked-Etag": f'"{key}"',
                "Location": f"{self.hub.storage_url}/{key}?signature=1",
                "Content-Length": "0",
                **self.hub.hub_headers,
            }
            direct = self.hub.direct and self.command == "HEAD"
            if direct:
                headers["Location"] = None
            self.reply(200 if direct else 302, headers)
        else:
            headers["Content-Length"] = str(file.size)
            self.reply(200, headers, file.read(0, file.size))


class _StorageHandler(_Handler):
    name = "storage"

    def do_GET(self) -> None:
        answer = self.hub.next_answer()
        time.sleep(answer.delay)
        file = self.hub.stored(urlsplit(self.path).path.strip("/").split("/")[-1])
        start, stop = 0, file.size
        if answer.status != 200 and self.headers["Range"]:
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
            assert match
            start, stop = int(match[1]), int(match[2]) + 1
        headers: dict[str, str | None] = {
            "Content-Length": str(stop - start + len(answer.extra)),
            "Content-Range": f"bytes {start}-{stop - 1}/{file.size}",
            **answer.headers,
        }
        if answer.sent is not None or headers["Content-Length"] is None:
            self.close_connection = True
        self.reply(answer.status, headers, self.body(answer, file, start, stop))

    def body(self, answer: Answer, file: SparseFile, start: int, stop: int) -> Iterator[bytes]:
        if answer.body is not None:
            file, stop = _as_file(answer.body), start + len(answer.body)
            start, stop = 0, stop - start
        left = stop - start if answer.sent is None else min(answer.sent, stop - start)
        while left:
            size = min(left, _PIECE)
            yield file.read(start, start + size)
            start, left = start + size, left - size
        yield answer.extra
