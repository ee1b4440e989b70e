"""Filters in Dask arrays."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
from dask.base import tokenize

from embedfilter import EmbedFilter

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def f() -> EmbedFilter:
    return EmbedFilter.from_matrix(np.random.default_rng(1).standard_normal((300, 24)))


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_map_blocks(f: EmbedFilter, rng: np.random.Generator, scheduler: str) -> None:
    X = rng.standard_normal((1000, 24)).astype(np.float32)
    x = da.from_array(X, chunks=(170, 24))
    y = x.map_blocks(f, n_threads=1, dtype=np.float32, chunks=(x.chunks[0], (f.n_components,)))
    assert y.shape == (1000, 12)
    with dask.config.set(scheduler=scheduler, num_workers=2):
        np.testing.assert_array_equal(y.compute(), f.transform(X))


def test_equal_filters_are_one_to_dask(f: EmbedFilter) -> None:
    same = EmbedFilter.from_matrix(np.random.default_rng(1).standard_normal((300, 24)))
    assert tokenize(f) == tokenize(same)
    f.transform(np.ones((1, 24)))  # what it has packed by now is not part of it
    assert tokenize(f) == tokenize(same)
    assert tokenize(f) != tokenize(f.truncate(3))


def test_calibrated_on_parts(f: EmbedFilter, rng: np.random.Generator) -> None:
    X = rng.standard_normal((1000, 24)) + 1

    def statistics(block: np.ndarray) -> object:
        part = f.statistics()
        part.add(block)
        return part

    parts = [dask.delayed(statistics)(block) for block in np.array_split(X, 7)]
    first, *others = dask.compute(*parts, scheduler="processes", num_workers=2)
    for other in others:
        first += other
    g = f.calibrate(first, n_components=5)
    np.testing.assert_allclose(
        g.transform(X), f.calibrate(X, n_components=5).transform(X), atol=1e-6
    )
