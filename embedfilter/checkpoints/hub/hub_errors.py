"""What huggingface_hub raises, as one line that names the repository and what was found."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from embedfilter.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import PurePath

__all__ = ["InterruptionError", "hub_errors", "status_error"]

# Timeouts, too many requests, and servers that are overloaded or being restarted.
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_MEANINGS = {401: " (not logged in)", 403: " (access refused)", 429: " (too many requests)"}
_MOST_SHOWN = 200


class InterruptionError(CheckpointError):
    """A request that may succeed when it is sent again.

    Attributes
    ----------
    reason : str
        The message without the file's name.
    wait : float
        For how many seconds the server asks to wait.
    """

    def __init__(self, where: PurePath | str, reason: str, wait: float = 0.0) -> None:
        super().__init__(f"{where}: {reason}")
        self.reason = reason
        self.wait = wait


@contextlib.contextmanager
def hub_errors(where: PurePath | str) -> Iterator[None]:
    """Turn whatever a request raises into a CheckpointError whose message begins with `where`.

    A server may send anything, and the client that parses it may fail in any way.

    Raises
    ------
    InterruptionError
        If the request may succeed when it is sent again.
    CheckpointError
        Otherwise.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise _translated(where, error) from error


def status_error(where: PurePath | str, status: int, headers: Mapping[str, str]) -> CheckpointError:
    """Return the error for an HTTP status that was not expected."""
    reason = f"{constants.ENDPOINT} answers HTTP status {status}{_MEANINGS.get(status, '')}"
    if status in _BUSY:
        seconds = headers.get("Retry-After", "")
        wait = float(seconds) if seconds.isascii() and seconds.isdigit() else 0.0
        return InterruptionError(where, reason, wait)
    return CheckpointError(f"{where}: {reason}, {_token()}")


def _translated(where: PurePath | str, error: BaseException) -> CheckpointError:
    # What hf_hub_download raises when it cannot ask the server says less than its cause.
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return _translated(where, error.__cause__)
    known = _known_reason(error)
    if known:
        return CheckpointError(f"{where}: {known}")
    if isinstance(error, HfHubHTTPError):
        return status_error(where, error.response.status_code, error.response.headers)
    text = " ".join(str(error).split())
    if len(text) > _MOST_SHOWN:
        text = f"{text[:_MOST_SHOWN]}..."
    reason = f"{constants.ENDPOINT}: {type(error).__name__}{': ' * bool(text)}{text}"
    if isinstance(error, HTTPError):  # of the connection: refused, broken off, timed out
        return InterruptionError(where, reason)
    return CheckpointError(f"{where}: {reason}")


def _known_reason(error: BaseException) -> str:
    endpoint = constants.ENDPOINT
    # A gated repository is, to the client, also one that is not found.
    reasons: dict[type[BaseException], str] = {
        OfflineModeIsEnabled: "not in the cache, and offline mode is on (HF_HUB_OFFLINE)",
        GatedRepoError: f"a gated repository, which {endpoint} does not give {_token()}; accept "
        "its terms there, then log in with `hf auth login` or set HF_TOKEN",
        RepositoryNotFoundError: f"no such repository on {endpoint}, or "
        f"a private one, which it does not give {_token()}",
        RevisionNotFoundError: f"no such revision on {endpoint}",
        EntryNotFoundError: f"no such file on {endpoint}",
    }
    return next((text for kind, text in reasons.items() if isinstance(error, kind)), "")


def _token() -> str:
    return "without a token" if get_token() is None else "with the token in use"
