"""Filters in front of faiss indexes, which a process without this package reads and uses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from embedfilter import EmbedFilter
from embedfilter.integrations.faiss import transforms

PLAIN_FAISS = """
import sys
sys.modules["embedfilter"] = None  # an import of it would raise
import faiss, numpy as np
index = faiss.read_index("filter.faiss")
X = np.load("X.npy")
index.add(X)
scores, ids = index.search(X[:50], 5)
np.savez("found.npz", scores=scores, ids=ids, d=index.d)
"""


@pytest.fixture(scope="module")
def X(demo_embeddings) -> np.ndarray:
    return demo_embeddings["Echo"].astype(np.float32)


@pytest.fixture(scope="module")
def edge(smollm2: Path) -> EmbedFilter:
    return EmbedFilter.from_checkpoint(smollm2, ratio=4)


@pytest.fixture(params=["plain", "calibrated"])
def f(request: pytest.FixtureRequest, edge: EmbedFilter, X: np.ndarray) -> EmbedFilter:
    return edge if request.param == "plain" else edge.calibrate(X[::2])


def test_the_transforms_compute_what_transform_does(f: EmbedFilter, X: np.ndarray) -> None:
    *first, unit = transforms(f)
    assert len(first) == 1 + (f.mean is not None)
    projected = X
    for transform in first:
        projected = transform.apply(projected)
    Y = f.transform(X, normalize=False)
    assert (np.abs(projected - Y) / np.linalg.norm(Y, axis=1, keepdims=True)).max() < 1e-6
    assert np.abs(unit.apply(projected) - f.transform(X)).max() < 1e-6


def test_a_far_mean_costs_no_digits(edge: EmbedFilter, X: np.ndarray) -> None:
    """As in `transform`; a bias after the product would be off by 1e-2."""
    signs = np.where(np.arange(576) % 2, 1, -1)
    far = (X + 3e4 * X.std(axis=0) * signs).astype(np.float32)
    f = edge.calibrate(far)
    index = f.to_faiss()
    index.add(far)
    exact = (far.astype(np.float64) - f.mean) @ f.components.T.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    stored = faiss.downcast_index(index.index).reconstruct_n(0, len(X))
    assert np.abs(stored - exact).max() < 1e-6
    assert np.abs(f.transform(far) - exact).max() < 1e-6


def test_zero_rows_stay_zero(edge: EmbedFilter) -> None:
    linear, unit = transforms(edge)
    assert not unit.apply(linear.apply(np.zeros((3, 576), np.float32))).any()


def test_an_index_takes_embeddings_as_they_are(f: EmbedFilter, X: np.ndarray) -> None:
    index = f.to_faiss()
    assert (index.d, index.index.d) == (576, 144)
    index.add(X)
    Y = f.transform(X)
    stored = faiss.downcast_index(index.index).reconstruct_n(0, len(X))
    assert np.abs(stored - Y).max() < 1e-6
    scores, ids = index.search(X, 1)
    assert np.array_equal(ids[:, 0], np.arange(len(X)))
    assert np.abs(scores - 1).max() < 1e-6


def test_read_by_faiss_alone(f: EmbedFilter, X: np.ndarray, tmp_path: Path) -> None:
    faiss.write_index(f.to_faiss(), str(tmp_path / "filter.faiss"))
    np.save(tmp_path / "X.npy", X)
    subprocess.run([sys.executable, "-c", PLAIN_FAISS], cwd=tmp_path, check=True)
    with np.load(tmp_path / "found.npz") as found:
        assert found["d"] == 576
        Y = f.transform(X).astype(np.float64)
        cosines = Y[:50] @ Y.T
        best = -np.sort(-cosines, axis=1)[:, :5]
        assert np.abs(found["scores"] - best).max() < 1e-6
        assert np.abs(np.take_along_axis(cosines, found["ids"], axis=1) - best).max() < 1e-6


def test_transforms_saved_one_by_one(f: EmbedFilter, X: np.ndarray, tmp_path: Path) -> None:
    Y = X
    for i, transform in enumerate(transforms(f)):
        faiss.write_VectorTransform(transform, str(tmp_path / f"{i}"))
        Y = faiss.read_VectorTransform(str(tmp_path / f"{i}")).apply(Y)
    assert np.abs(Y - f.transform(X)).max() < 1e-6


def test_back_into_the_models_dimensions(edge: EmbedFilter, X: np.ndarray) -> None:
    linear, _ = transforms(edge)
    assert linear.is_orthonormal
    Y = edge.transform(X)
    assert np.abs(linear.reverse_transform(Y) - edge.inverse_transform(Y)).max() < 1e-6
    index = edge.to_faiss()
    index.add(X)
    assert np.abs(index.reconstruct(7) - edge.inverse_transform(Y[7])).max() < 1e-6


def test_faiss_refuses_the_way_back_through_a_calibrated_filter(
    edge: EmbedFilter, X: np.ndarray
) -> None:
    _, linear, _ = transforms(edge.calibrate(X))
    assert not linear.is_orthonormal
    with pytest.raises(RuntimeError, match="orthonormal"):
        linear.reverse_transform(np.ones((1, 144), np.float32))


@pytest.mark.parametrize("name", ["HNSW16,Flat", "IVF4,Flat", "SQ8"])
def test_in_front_of_other_indexes(f: EmbedFilter, X: np.ndarray, name: str) -> None:
    inner = faiss.index_factory(144, name, faiss.METRIC_INNER_PRODUCT)
    if name.startswith("IVF"):
        inner.nprobe = 4  # all lists, whichever of them a row is in
    alone = faiss.clone_index(inner)
    index = f.to_faiss(inner)
    index.train(X)
    index.add(X)
    Y = f.transform(X)
    alone.train(Y)
    alone.add(Y)
    found, expected = index.search(X, 10)[1], alone.search(Y, 10)[1]
    # Numbers that differ in the last bit may turn a near tie or the choice of a graph's edge.
    assert np.mean(found == expected) > 0.98
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    again = faiss.deserialize_index(faiss.serialize_index(index))
    assert np.array_equal(again.search(X, 10)[1], found)


def test_binary_index(edge: EmbedFilter, X: np.ndarray) -> None:
    bits = edge.transform(X, precision="ubinary")
    index = faiss.IndexBinaryFlat(144)
    index.add(bits)
    distances, _ = index.search(bits[:20], 6)
    hamming = np.unpackbits(bits[:20, np.newaxis] ^ bits, axis=2).sum(axis=2)
    assert np.array_equal(distances, np.sort(hamming, axis=1)[:, :6])


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (faiss.IndexFlatIP(576), ValueError, "index: expected one of 144 dimensions.*found 576"),
        ("Flat", TypeError, "index: expected a faiss.Index, found str"),
        (faiss.IndexBinaryFlat(144), TypeError, "found IndexBinaryFlat: add f.transform.*ubinary"),
    ],
)  # fmt: skip
def test_bad_index(edge: EmbedFilter, index, error, message) -> None:
    with pytest.raises(error, match=message):
        edge.to_faiss(index)


def test_faiss_refuses_another_width(edge: EmbedFilter, X: np.ndarray) -> None:
    index = edge.to_faiss()
    with pytest.raises(AssertionError):
        index.add(X[:, :100].copy())
    assert index.ntotal == 0


def test_without_faiss(edge: EmbedFilter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.delitem(sys.modules, "embedfilter.integrations.faiss")
    with pytest.raises(ImportError, match=r'pip install "embedfilter\[faiss\]"'):
        edge.to_faiss()
