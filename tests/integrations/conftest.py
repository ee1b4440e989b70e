"""A filter of 48 dimensions, plain and calibrated, and embeddings for it."""

from __future__ import annotations

import numpy as np
import pytest

from embedfilter import EmbedFilter


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((200, 48)).astype(np.float32) + 3


@pytest.fixture(scope="module")
def edge() -> EmbedFilter:
    return EmbedFilter.from_matrix(np.random.default_rng(1).standard_normal((300, 48)))


@pytest.fixture(params=["plain", "calibrated"])
def f(request: pytest.FixtureRequest, edge: EmbedFilter, X: np.ndarray) -> EmbedFilter:
    return edge if request.param == "plain" else edge.calibrate(X)
