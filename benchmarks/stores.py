"""What a filter does in faiss and in LanceDB: bytes, neighbours, topics.

``python benchmarks/stores.py FOLDER [CHECKPOINT]``. FOLDER has stackoverflow-titles.tsv (topic,
tab, title) and embeddings/stackoverflow-titles.npy, as for retrieval.py; CHECKPOINT is
SmolLM2-135M, if it is not found by itself. Every sixth title is a query, the others are stored.

recall@10  of the ten nearest by unfiltered exact search, how many are found. A filter is meant
           to change who is near, so that this is no measure of quality
topic@10   share of the ten found that have the query's topic: of 20, so 0.05 by chance
bytes      of a row: faiss's serialised index, LanceDB's folder; what does not grow with the rows
           is in it
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retrieval import encoders, recall, titles_set, written_bytes

import faiss
import lancedb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedfilter.demo import find_checkpoint

N_NEAREST, N_SAMPLE = 10, 1000
Found = tuple[NDArray[np.int64], int]  # the ids of the nearest, and bytes


def in_faiss(index: Any, rows: NDArray[Any], queries: NDArray[Any]) -> Found:
    """Return what an index of faiss finds, and its size."""
    if not index.is_trained:
        index.train(rows)
    index.add(rows)
    return index.search(queries, N_NEAREST)[1], written_bytes(index)


def in_lancedb(distance: str, rows: NDArray[Any], queries: NDArray[Any]) -> Found:
    """Return what a table of LanceDB finds without an index, and its size."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    with tempfile.TemporaryDirectory() as folder:
        data = pa.table({"vector": lists, "id": np.arange(len(rows))})
        table = lancedb.connect(folder).create_table("texts", data)
        found = [
            table.search(query, vector_column_name="vector")
            .distance_type(distance)
            .limit(N_NEAREST)
            .to_arrow()["id"]
            .to_numpy()
            for query in queries
        ]
        n_bytes = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return np.stack(found), n_bytes


def float16(k: int) -> Any:
    """Return an index of faiss that keeps float16."""
    return faiss.IndexScalarQuantizer(k, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


# The store, what is kept in it, as which type it is handed over, and what searches there.
STORES: tuple[
    tuple[str, str, type[np.generic], Callable[[int, NDArray[Any], NDArray[Any]], Found]], ...
] = (
    ("faiss", "float32", np.float32, lambda k, X, q: in_faiss(faiss.IndexFlatIP(k), X, q)),
    ("faiss", "float16", np.float32, lambda k, X, q: in_faiss(float16(k), X, q)),
    ("faiss", "ubinary", np.uint8, lambda k, X, q: in_faiss(faiss.IndexBinaryFlat(k), X, q)),
    ("LanceDB", "float32", np.float32, lambda _, X, q: in_lancedb("cosine", X, q)),
    ("LanceDB", "float16", np.float16, lambda _, X, q: in_lancedb("cosine", X, q)),
    ("LanceDB", "ubinary", np.uint8, lambda _, X, q: in_lancedb("hamming", X, q)),
)


def main() -> None:
    """Print what the tables of docs/faiss.md and docs/vector-stores.md show."""
    X, topics = titles_set(Path(sys.argv[1]))
    checkpoint = Path(sys.argv[2]) if len(sys.argv) > 2 else find_checkpoint()
    asked = np.arange(len(X)) % 6 == 0
    kept, wanted = topics[~asked], topics[asked][:, np.newaxis]
    exact: NDArray[np.int64] | None = None
    for name, k, encode in encoders(checkpoint, X[~asked][:N_SAMPLE]):
        for store, precision, type_, search in STORES:
            made = "ubinary" if precision == "ubinary" else "float32"
            rows, queries = (encode(part, made).astype(type_) for part in (X[~asked], X[asked]))
            found, n_bytes = search(k, rows, queries)
            exact = found if exact is None else exact
            cells = f"{name} | {k} | {n_bytes / len(kept):.0f} | {recall(found, exact):.2f}"
            topic = float(np.mean(kept[found] == wanted))
            print(f"| {store} | {precision} | {cells} | {topic:.2f} |", flush=True)


if __name__ == "__main__":
    main()
