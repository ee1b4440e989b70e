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
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "1" * 40
TOKEN = "hf_of_the_test"
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


@dataclass(frozen=True)
class Request:
    """What a client asked for, and how many bytes of body it was sent."""

    server: str
    method: str
    path: str
    range: str | None
    authorization: str | None
    n_bytes: int


class HubServer:
    """The Hub at `url`, its storage at `storage_url`.

    `answers` are the storage's next ones, `answer` those after them.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.answers: deque[Answer] = deque()
        self.answer = RIGHT
        # Statuses for the next requests to the Hub itself, by the start of their path.
        self.hub_status: dict[str, int] = {}
        self.hub_headers: dict[str, str] = {}
        self.location: str | None = None
        self.after_listing: Any = None
        self._stored: dict[str, SparseFile] = {}
        self._lock = threading.Lock()
        self._servers = [self._listen(_HubHandler), self._listen(_StorageHandler)]
        self.url, self.storage_url = (
            f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers
        )

    def add(self, repository: str, files: dict[str, Any], commit: str = COMMIT) -> Repository:
        """Add a commit to a repository; files are bytes, what becomes JSON, or sparse."""
        known = self.repositories.setdefault(repository, Repository({}))
        known.commits[commit] = {name: _as_file(content) for name, content in files.items()}
        return known

    def served(self, server: str | None = None) -> int:
        """Return the number of bytes of bodies that were sent, by one server or both."""
        return sum(r.n_bytes for r in self.requests if server in (None, r.server))

    def store(self, file: SparseFile) -> str:
        key = hashlib.sha256(file.start + file.end + str(file.size).encode()).hexdigest()
        self._stored[key] = file
        return key

    def stored(self, key: str) -> SparseFile:
        return self._stored[key]

    def next_answer(self) -> Answer:
        with self._lock:
            return self.answers.popleft() if self.answers else self.answer

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _listen(self, handler: type[_Handler]) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        server.hub = self  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server


def _as_file(content: Any) -> SparseFile:
    if isinstance(content, SparseFile):
        return content
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return SparseFile(data, len(data))


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
        n_bytes = 0
        with contextlib.suppress(OSError):  # the client has gone
            self.send_response(status)
            for header, value in headers.items():
                if value is not None:
                    self.send_header(header, value)
            self.end_headers()
            if self.command != "HEAD":
                for piece in (body,) if isinstance(body, bytes) else body:
                    self.wfile.write(piece)
                    n_bytes += len(piece)
        self.hub.requests.append(
            Request(
                self.name,
                self.command,
                self.path,
                self.headers["Range"],
                self.headers["Authorization"],
                n_bytes,
            )
        )


class _HubHandler(_Handler):
    name = "hub"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
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
        if repository.refusal and self.headers["Authorization"] != f"Bearer {TOKEN}":
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
                "Location": self.hub.location or f"{self.hub.storage_url}/{key}?signature=1",
                "Content-Length": "0",
                **self.hub.hub_headers,
            }
            self.reply(302, headers)
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
