"""The long and large runs, small."""

from __future__ import annotations

import pytest
from endurance import RUNS

SMALL = {
    "out_of_core": 150_000,
    "many_elements": 640_000,
    "wide": 600,
    "tall": 20_000,
    "unpickled": 2,
    "shutdown": 4,
    "forks": 3,
}


@pytest.mark.parametrize("name", list(RUNS))
def test_small(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)  # away from the source, which has no C core
    assert RUNS[name](SMALL[name])
