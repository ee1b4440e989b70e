"""Every file that fuzzing has kept, read again: refused or read, and nothing else."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from targets import TARGETS

CASES = sorted((Path(__file__).parent / "corpus").glob("*/*"))


def test_there_is_a_corpus_of_each_target() -> None:
    assert {path.parent.name for path in CASES} == set(TARGETS)
    assert len(CASES) > 200


@pytest.mark.usefixtures("deadline")
@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_it_is_read_or_refused(path: Path) -> None:
    data = path.read_bytes()
    tracemalloc.start()
    try:
        TARGETS[path.parent.name](data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200e6
