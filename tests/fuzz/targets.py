"""What is fuzzed: bytes in, nothing out; only an error of this package's may be raised.

The harness (`fuzz.py`) and the replay of the corpus (`test_fuzz_corpus.py`) share it. Each target
reads all that a file tells: a header that is accepted must give its tensors, too.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from embedfilter import EmbedFilter, EmbedFilterError
from embedfilter.checkpoints import open_unembedding

_ROWS = 4


def _read_head(path: Path) -> None:
    """Open a checkpoint and read the first rows of its head."""
    with warnings.catch_warnings(), open_unembedding(path) as W:
        warnings.simplefilter("ignore")
        rows = W.rows(0, min(_ROWS, W.shape[0]))
        assert rows.shape == (min(_ROWS, W.shape[0]), W.shape[1])


def _load_filter(path: Path) -> None:
    """Load a filter file and apply the filter."""
    f = EmbedFilter.load(path)
    assert f.transform(f.components[:_ROWS]).shape == (min(_ROWS, f.n_components), f.n_components)


def _in_file(suffix: str, read: Callable[[Path], None]) -> Callable[[bytes], None]:
    folder = tempfile.TemporaryDirectory(prefix="fuzz-")
    path = Path(folder.name) / f"case{suffix}"

    def target(data: bytes, _folder: tempfile.TemporaryDirectory[str] = folder) -> None:
        path.write_bytes(data)
        with contextlib.suppress(EmbedFilterError):
            read(path)

    return target


TARGETS: dict[str, Callable[[bytes], None]] = {
    "safetensors": _in_file(".safetensors", _read_head),
    "gguf": _in_file(".gguf", _read_head),
    "filter": _in_file(".safetensors", _load_filter),
}
