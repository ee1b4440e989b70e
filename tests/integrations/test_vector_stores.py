"""Filtered embeddings in LanceDB tables and usearch indexes, as the docs show them."""

from __future__ import annotations

from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import HnswSq
from usearch.index import Index, MetricKind

from embedfilter import EmbedFilter

pytestmark = pytest.mark.long
K = 144


@pytest.fixture(scope="module")
def X(demo_embeddings) -> np.ndarray:
    return demo_embeddings["Echo"]


@pytest.fixture(scope="module")
def f(smollm2: Path) -> EmbedFilter:
    return EmbedFilter.from_checkpoint(smollm2, ratio=4)


@pytest.fixture(scope="module")
def expected(f: EmbedFilter, X: np.ndarray) -> np.ndarray:
    """The ids of the five nearest of the first 40, by cosine in float64."""
    Y = f.transform(X).astype(np.float64)
    return np.argsort(-(Y[:40] @ Y.T), axis=1)[:, :5]


def overlap(found: np.ndarray, expected: np.ndarray) -> float:
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, expected, strict=True)])


def table_of(Y: np.ndarray, texts: list[str], f: EmbedFilter) -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(Y.ravel()), Y.shape[1])
    table = pa.table({"id": np.arange(len(Y)), "text": texts, "vector": vectors})
    return table.replace_schema_metadata({"embedfilter": f.metadata["fingerprint"]})


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_lancedb(f, X, demo_texts, expected, tmp_path, precision) -> None:
    database = lancedb.connect(tmp_path)
    Y = f.transform(X, precision=precision)
    database.create_table("texts", table_of(Y, demo_texts, f))

    table = lancedb.connect(tmp_path).open_table("texts")
    vector = table.schema.field("vector").type
    assert vector == pa.list_(pa.from_numpy_dtype(Y.dtype), K)
    assert table.schema.metadata[b"embedfilter"].decode() == f.metadata["fingerprint"]
    found, cosines = [], []
    for query in f.transform(X[:40]):
        rows = table.search(query).distance_type("cosine").limit(5).to_list()
        found.append([row["id"] for row in rows])
        cosines.append([1 - row["_distance"] for row in rows])
    assert overlap(found, expected) > (0.999 if precision == "float32" else 0.98)
    Y = Y.astype(np.float64)
    exact = np.take_along_axis(Y[:40] @ Y.T, np.array(found), axis=1)
    assert np.abs(exact - cosines).max() < (1e-5 if precision == "float32" else 2e-3)
    assert rows[0]["text"] == demo_texts[39]


def test_lancedb_index(f, X, demo_texts, expected, tmp_path) -> None:
    table = lancedb.connect(tmp_path).create_table("texts", table_of(f(X), demo_texts, f))
    table.create_index("vector", config=HnswSq(distance_type="cosine", num_partitions=1))
    assert [index.index_type for index in table.list_indices()] == ["IvfHnswSq"]
    found = [
        [row["id"] for row in table.search(query).distance_type("cosine").limit(5).to_list()]
        for query in f.transform(X[:40])
    ]
    assert overlap(found, expected) > 0.9


def test_lancedb_refuses_a_query_that_is_not_filtered(f, X, demo_texts, tmp_path) -> None:
    table = lancedb.connect(tmp_path).create_table("texts", table_of(f(X), demo_texts, f))
    with pytest.raises(ValueError, match="144"):
        table.search(X[0].astype(np.float32), vector_column_name="vector").limit(5).to_list()


@pytest.mark.parametrize(("dtype", "least"), [("f32", 0.99), ("f16", 0.98), ("i8", 0.9)])
def test_usearch(f, X, expected, tmp_path, dtype, least) -> None:
    index = Index(ndim=K, metric="cos", dtype=dtype)
    index.add(np.arange(len(X)), f(X))
    index.save(str(tmp_path / "texts.usearch"))
    again = Index.restore(str(tmp_path / "texts.usearch"))
    assert (again.ndim, len(again)) == (K, len(X))
    # Exact among what is stored, so that only its rounding shows; then through the graph, which
    # usearch builds anew, and a little otherwise, in each run.
    assert overlap(again.search(f.transform(X[:40]), 5, exact=True).keys, expected) > least
    assert overlap(again.search(f.transform(X[:40]), 5).keys, expected) > 0.8


def test_usearch_on_bits(f, X) -> None:
    bits = f.transform(X, precision="ubinary")
    index = Index(ndim=K, metric=MetricKind.Hamming, dtype="b1")
    index.add(np.arange(len(bits)), bits)
    found = index.search(bits[:40], 5, exact=True)
    hamming = np.unpackbits(bits[:40, np.newaxis] ^ bits, axis=2).sum(axis=2)
    exact = np.sort(hamming, axis=1)[:, :5]
    assert np.array_equal(found.distances, exact)
    assert np.array_equal(np.take_along_axis(hamming, found.keys.astype(int), 1), exact)


def test_usearch_refuses_a_query_that_is_not_filtered(f, X) -> None:
    index = Index(ndim=K, metric="cos", dtype="f32")
    index.add(np.arange(len(X)), f(X))
    with pytest.raises(ValueError, match="dimension"):
        index.search(X[:1].astype(np.float32), 5)
