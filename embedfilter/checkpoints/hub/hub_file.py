"""A file of a repository on the Hub, of which only the bytes that are read are fetched.

What has been fetched is kept on disk in a file of the same length, with holes where
nothing has been fetched yet. A second file, ``<name>.held``, says which bytes are
there: a line ``start stop`` is added when they have been written. Processes that fetch
the same file write the same bytes to the same places, and need not know of each other.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from huggingface_hub import constants, get_hf_file_metadata
from huggingface_hub.utils import build_hf_headers, get_session

from embedfilter.checkpoints.hub.hub_errors import InterruptionError, hub_errors, status_error
from embedfilter.errors import CheckpointError
from embedfilter.files.input_file import InputFile
from embedfilter.files.messages import shown
from embedfilter.version import __version__

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path, PurePath

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LIBRARY", "HubFile"]

LIBRARY: dict[str, Any] = {
    "library_name": "embedfilter",
    "library_version": __version__,
}
"""How requests say who sends them."""

# The headers of most safetensors files end before this byte, and are fetched in one request.
_HEAD = 1 << 17
# Attempts in a row that bring less than _PROGRESS bytes, before giving up.
_MOST_FAILURES = 5
_PROGRESS = 1 << 20
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 60.0
# What storage answers when a signed address has expired.
_EXPIRED = (400, 401, 403, 404, 410)
_JOURNAL_LINE = re.compile(r"(\d{1,19}) (\d{1,19})", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)


class HubFile(InputFile):
    """A file of a repository at one commit, read by ranges.

    Parameters
    ----------
    url
        The file at its commit.
    commit
        The commit.
    size
        Its size in bytes.
    path
        The file, for messages.
    store
        The file on disk that keeps what has been fetched.
    """

    def __init__(self, url: str, *, commit: str, size: int, path: PurePath, store: Path) -> None:
        self._url = url
        self._commit = commit
        self._location: str | None = None
        self._etag: str | None = None
        # Blocks are read ahead in a thread, while the caller may read as well.
        self._lock = threading.Lock()
        self._kept = _KeptBytes(store, size)
        try:
            super().__init__(store)
        except BaseException:
            self._kept.close()
            raise
        self.path = path

    def read_into(self, offset: int, memory: NDArray[np.uint8]) -> None:
        """Fill `memory` with the bytes from byte `offset` on, fetching those that are not there."""
        stop = offset + len(memory)
        if stop <= self.size:  # else it is refused below
            with self._lock:
                for gap in self._kept.gaps(offset, max(stop, min(_HEAD, self.size))):
                    self._fetch(*gap)
        super().read_into(offset, memory)

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        super().close()
        self._kept.close()

    def _fetch(self, start: int, stop: int) -> None:
        """Fetch bytes `start` to `stop`; after an interruption go on from the byte reached."""
        position, failures = start, 0
        while position < stop:
            begun = position
            interruption = InterruptionError(self.path, "the connection ended early")
            try:
                with contextlib.closing(self._request(position, stop)) as chunks:
                    for chunk in chunks:
                        self._kept.write(chunk, position)
                        position += len(chunk)
            except InterruptionError as error:
                interruption = error
            finally:
                self._kept.add(begun, position)
            if position == stop:
                return
            failures = 0 if position - begun >= _PROGRESS else failures + 1
            if failures > _MOST_FAILURES:
                raise CheckpointError(
                    f"{self.path}: incomplete download: expected {stop - start} bytes at byte "
                    f"{start}, found {position - start}: {interruption.reason}"
                ) from interruption
            wait = max(_FIRST_WAIT * 2 ** max(0, failures - 1), interruption.wait)
            time.sleep(min(wait, _LONGEST_WAIT))

    def _request(self, start: int, stop: int) -> Generator[bytes]:
        """Ask for bytes `start` to `stop` and return them as they come, never more."""
        with hub_errors(self.path):
            if self._location is None:
                self._location = self._resolved()
            headers = build_hf_headers(**LIBRARY)
            if _origin(self._location) != _origin(self._url):
                headers.pop("authorization", None)  # the token is the Hub's, not its storage's
            headers["Range"] = f"bytes={start}-{stop - 1}"
            headers["Accept-Encoding"] = "identity"
            with get_session().stream(
                "GET",
                self._location,
                headers=headers,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            ) as response:
                self._check(response, start, stop)
                left = stop - start
                for chunk in response.iter_raw():  # as they come: none are lost in a drop
                    left -= len(chunk)
                    if left < 0:
                        raise CheckpointError(
                            f"{self.path}: expected bytes {start} to {stop - 1} from the server, "
                            "found more"
                        )
                    yield chunk

    def _resolved(self) -> str:
        """Return where the file's bytes are, after checking that it is the file of the commit."""
        found = get_hf_file_metadata(self._url, timeout=constants.HF_HUB_ETAG_TIMEOUT, **LIBRARY)
        for what, expected, value in (
            ("commit", self._commit, found.commit_hash),
            ("size", self.size, found.size),
            ("etag", self._etag or found.etag, found.etag),
        ):
            if value != expected:
                raise CheckpointError(
                    f"{self.path}: changed on the server: expected {what} {expected}, found {value}"
                )
        self._etag = found.etag
        location = str(found.location)
        self._refuse_downgrade(location)
        return location

    def _check(self, response: Any, start: int, stop: int) -> None:
        """Raise unless a response's status and headers promise bytes `start` to `stop`."""
        status, headers = response.status_code, response.headers
        self._refuse_downgrade(str(response.url))
        if status == 200:
            raise CheckpointError(
                f"{self.path}: the server ignores ranges: expected HTTP status 206 with "
                f"{stop - start} bytes, found 200 with the whole file of {self.size}; download it "
                "with `hf download` and pass its path"
            )
        if status in _EXPIRED and self._location != self._url:
            self._location = None  # asked for again
            raise InterruptionError(self.path, f"its storage answers HTTP status {status}")
        if status != 206:
            raise status_error(self.path, status, headers)
        encoding = headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise CheckpointError(
                f"{self.path}: expected plain bytes, found encoding {shown(encoding)}"
            )
        promised = headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(promised)
        if match is None or tuple(map(int, match.groups())) != (start, stop - 1, self.size):
            raise CheckpointError(
                f"{self.path}: expected Content-Range 'bytes {start}-{stop - 1}/{self.size}', "
                f"found {shown(promised)}"
            )
        length = headers.get("Content-Length", str(stop - start))
        if length != str(stop - start):
            raise CheckpointError(
                f"{self.path}: expected Content-Length {stop - start}, found {shown(length)}"
            )

    def _refuse_downgrade(self, location: str) -> None:
        scheme, expected = urlsplit(location).scheme, urlsplit(self._url).scheme
        if scheme not in (expected, "https"):
            raise CheckpointError(
                f"{self.path}: the server redirects to another scheme: expected {expected}, "
                f"found {scheme!r}"
            )


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


class _KeptBytes:
    """The bytes of a file that have been fetched, on disk.

    Parameters
    ----------
    path
        The file of the same length that holds them.
    size
        Its length.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._held: list[tuple[int, int]] = []
        journal = path.with_name(f"{path.name}.held")
        with self._errors(), contextlib.ExitStack() as stack:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data = _open(path, os.O_RDWR)
            stack.callback(os.close, self._data)
            if os.fstat(self._data).st_size not in (0, size):  # damaged: begin again
                journal.unlink(missing_ok=True)
                os.ftruncate(self._data, 0)
            os.ftruncate(self._data, size)
            self._journal = _open(journal, os.O_WRONLY | os.O_APPEND)
            stack.callback(os.close, self._journal)
            # A line that was cut short still says less than is there, never more.
            lines = map(_JOURNAL_LINE.fullmatch, journal.read_text("latin-1").splitlines())
            ranges = [(int(line[1]), int(line[2])) for line in lines if line]
            self._held = _merged([r for r in ranges if r[0] < r[1] <= size])
            self.close = stack.pop_all().close

    def gaps(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the parts of bytes `start` to `stop` that have not been fetched."""
        gaps = []
        for held_start, held_stop in self._held:
            if held_start < stop and held_stop > start:
                if held_start > start:
                    gaps.append((start, held_start))
                start = held_stop
        if start < stop:
            gaps.append((start, stop))
        return gaps

    def write(self, data: bytes, offset: int) -> None:
        """Write fetched bytes at their place; `add` makes them count."""
        view = memoryview(data)
        with self._errors():
            while view:
                count = self._write_some(offset, view)
                view, offset = view[count:], offset + count

    def _write_some(self, offset: int, view: memoryview) -> int:
        """Write the beginning of a view, and return how many bytes. A fork shares the position."""
        if hasattr(os, "pwrite"):
            return os.pwrite(self._data, view, offset)
        os.lseek(self._data, offset, os.SEEK_SET)
        return os.write(self._data, view)

    def add(self, start: int, stop: int) -> None:
        """Record that bytes `start` to `stop` have been written."""
        if start == stop:
            return
        with self._errors():
            os.fsync(self._data)
            os.write(self._journal, f"{start} {stop}\n".encode())
        self._held = _merged([*self._held, (start, stop)])

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self._path}: what is fetched cannot be kept there: {error.strerror}; "
                "HF_ASSETS_CACHE can name another folder"
            ) from error


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges in order, those that touch made one."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged
