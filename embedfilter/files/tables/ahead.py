"""Reading ahead: the next part comes while this one is in use."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["ahead"]

_Item = TypeVar("_Item")
_PATIENCE = 1.0  # seconds


class _End:
    """The last that the thread hands over: that there is no more, or why."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Iterable[_Item]) -> Iterator[_Item]:
    """Iterate over what a thread takes from an iterable, which is one item ahead.

    Left unfinished, it waits a second for the thread and no more: standard input may never come
    to an end, and Ctrl-C ends the command all the same.
    """
    handed: queue.SimpleQueue[_Item | _End] = queue.SimpleQueue()
    wanted = threading.Semaphore(1)  # one item more
    is_left = threading.Event()

    def read() -> None:
        iterator = iter(items)
        try:
            while wanted.acquire() and not is_left.is_set():
                handed.put(next(iterator))
        except StopIteration:
            handed.put(_End(None))
        except BaseException as error:
            handed.put(_End(error))

    thread = threading.Thread(target=read, name="embedfilter", daemon=True)
    thread.start()
    try:
        while not isinstance(item := handed.get(), _End):
            wanted.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        is_left.set()
        wanted.release()
        thread.join(_PATIENCE)
