"""An open checkpoint: reading ahead of its blocks, and what an unfinished reading leaves."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from embedfilter import open_unembedding

# An error that refers to itself keeps the frames it went through, and in them an iterator that is
# not at its end, until the garbage collector comes: here at every few allocations, those of
# threads that start and end among them.
ERRORS_IN_CIRCLES = """
import faulthandler, gc, random
import numpy as np
from embedfilter import EmbedFilter

faulthandler.dump_traceback_later(60, exit=True)
W = np.ones((300, 8), np.float32)
W[100, 3] = np.nan
for _ in range(1000):
    gc.set_threshold(random.randint(5, 400), 5, 5)
    try:
        EmbedFilter.from_checkpoint(W)
    except ValueError as error:
        error.circle = error
print("done")
"""


def test_an_iterator_ended_by_the_garbage_collector(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ERRORS_IN_CIRCLES],
        cwd=tmp_path,  # the source folder has no C module
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def test_closing_waits_for_the_block_that_is_being_read() -> None:
    reading, go_on = threading.Event(), threading.Event()
    W = open_unembedding(np.ones((64, 8), np.float32))
    read = W._stored.read

    def slow(start: int, stop: int) -> np.ndarray:
        if start:
            reading.set()
            assert go_on.wait(60)
        return read(start, stop)

    W._stored.read = slow
    blocks = W.blocks(32)
    next(blocks)
    assert reading.wait(60)
    closing = threading.Thread(target=W.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive()
    go_on.set()
    closing.join(60)
    assert not closing.is_alive()
    with pytest.raises(ValueError, match="the checkpoint is closed"):
        W.rows(0, 1)
