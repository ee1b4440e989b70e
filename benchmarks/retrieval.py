"""What a filter does to a vector index: size, build time, speed, neighbours, task quality.

    python benchmarks/retrieval.py [--short] [--titles FOLDER] [--checkpoint FILE] [--only FILTER]

The rows are made from real embeddings of SmolLM2-135M (576 dimensions, PromptEOL): each is a
random point between two of them, plus Gaussian noise with the covariance of the real ones at a
tenth of their standard deviation. One million rows for flat indexes, fewer for HNSW, whose graph
takes long to build; 2000 more rows, made alike, are the queries (250 for int8, which is slow).
--titles names a folder with stackoverflow-titles.tsv (topic, tab, title) and
embeddings/stackoverflow-titles.npy, which join the embeddings that ship with the demo. --only
measures the quality and recall of one filter anew, and keeps what is known of the others; it takes
no times, which are those of any filter of as many dimensions.

filters    edge: EmbedFilter; calibrated: late, calibrated on 1000 rows; first coordinates: the
           peer at the same size, cut and scaled to unit length
indexes    of faiss, inner product of unit vectors: flat in float32, int8 (IndexScalarQuantizer,
           8 bits), binary (IndexBinaryFlat on ubinary output), HNSW (M 32, efSearch 64)
recall@10  of the ten nearest by unfiltered exact search, how many are found. A filter is meant
           to change who is near, so that this is no measure of quality
quality    on the real embeddings alone, in an index of the same kind: share of the demo's
           sentences whose own paraphrase comes first among all paraphrases, and of texts whose
           nearest other is of the same topic (their own paraphrase aside, in the demo)
seconds    to build: from embeddings to the finished index, filtering included; queries are
           searched in one batch, their filtering included
bytes      of the index as faiss writes it
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from measure import N_THREADS, RESULTS, machine, write

import faiss
import numpy as np
from numpy.typing import NDArray

from embedfilter import EmbedFilter
from embedfilter.demo import find_checkpoint

N_ROWS, N_ROWS_HNSW, N_SAMPLE, N_NEAREST = 1_000_000, 100_000, 1000, 10
# In one batch. faiss multiplies by BLAS, many times as fast, only where queries times dimensions
# are over some 130 000; int8, of which no batch is faster than single queries, is slow.
N_QUERIES = {"flat": 2000, "int8": 250, "binary": 2000, "HNSW": 2000}
NOISE = 0.1
BLOCK_ROWS = 50_000
D, RATIOS = 576, (2, 4, 8)
KINDS = ("flat", "int8", "binary", "HNSW")
Encode = Callable[[NDArray[np.float32], str], NDArray[Any]]  # rows and a precision


def demo_set() -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Return the demo's embeddings (2 n, d), sentences first, and their topics (2 n,)."""
    folder = resources.files("embedfilter.demo")
    X = np.load(io.BytesIO((folder / "prompteol.npy").read_bytes())).astype(np.float32)
    with (folder / "pairs.tsv").open(encoding="utf-8") as file:
        topics = np.array([row["topic"] for row in csv.DictReader(file, delimiter="\t")])
    return X, np.tile(topics, 2)


def titles_set(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Return the embeddings (n, d) of the titles and their topics (n,)."""
    lines = (folder / "stackoverflow-titles.tsv").read_text(encoding="utf-8").splitlines()[1:]
    X = np.load(folder / "embeddings" / "stackoverflow-titles.npy").astype(np.float32)
    return X, np.array([line.split("\t", 1)[0] for line in lines])


def mixtures(real: NDArray[np.float32], n: int, seed: int) -> NDArray[np.float32]:
    """Return n rows between pairs of real ones (m, d), with noise of the real covariance."""
    rng = np.random.default_rng(seed)
    spread = NOISE / np.sqrt(len(real)) * np.linalg.qr(real - real.mean(axis=0), mode="r")
    rows = np.empty((n, real.shape[1]), np.float32)
    for start in range(0, n, BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        one, other = rng.integers(len(real), size=(2, len(block)))
        share = rng.random((len(block), 1), np.float32)
        np.matmul(rng.standard_normal((len(block), len(spread)), np.float32), spread, out=block)
        block += share * real[one]
        block += (1 - share) * real[other]
    return rows


def coordinates(k: int) -> Encode:
    """Return what makes vectors of the first coordinates of rows."""

    def encode(X: NDArray[np.float32], precision: str) -> NDArray[Any]:
        Y = X[:, :k] / np.linalg.norm(X[:, :k], axis=1, keepdims=True)
        return np.packbits(Y > 0, axis=1) if precision == "ubinary" else Y

    return encode


def encoders(checkpoint: Path, sample: NDArray[np.float32]) -> Iterator[tuple[str, int, Encode]]:
    """Iterate over what is compared: its name, its dimensions, and what makes vectors of rows."""

    def filtered(f: EmbedFilter) -> Encode:
        return lambda X, precision: f.transform(X, precision=precision, n_threads=N_THREADS)

    edge = EmbedFilter.from_checkpoint(checkpoint, ratio=1)
    late = EmbedFilter.from_checkpoint(checkpoint, kind="late")
    yield "no filter", D, coordinates(D)
    for ratio in RATIOS:
        k = D // ratio
        yield "edge", k, filtered(edge.truncate(k))
        yield "calibrated", k, filtered(late.calibrate(sample, n_components=k))
        yield "first coordinates", k, coordinates(k)


def build(kind: str, k: int, X: NDArray[np.float32], encode: Encode) -> Any:
    """Return an index of a kind over the vectors (n, k) of rows (n, d)."""
    precision = "ubinary" if kind == "binary" else "float32"
    metric = faiss.METRIC_INNER_PRODUCT
    if kind == "flat":
        index = faiss.IndexFlatIP(k)
    elif kind == "int8":
        index = faiss.IndexScalarQuantizer(k, faiss.ScalarQuantizer.QT_8bit, metric)
        index.train(encode(X[:BLOCK_ROWS], precision))
    elif kind == "binary":
        index = faiss.IndexBinaryFlat(k)
    else:
        index = faiss.IndexHNSWFlat(k, 32, metric)
        index.hnsw.efSearch = 64
    for start in range(0, len(X), BLOCK_ROWS):
        index.add(encode(X[start : start + BLOCK_ROWS], precision))
    return index


def search(
    kind: str, index: Any, queries: NDArray[np.float32], encode: Encode, n: int
) -> NDArray[np.int64]:
    """Return the ids (m, n) of the nearest of each query."""
    ids: NDArray[np.int64] = index.search(
        encode(queries, "ubinary" if kind == "binary" else "float32"), n
    )[1]
    return ids


def timed_search(
    kind: str, index: Any, queries: NDArray[np.float32], encode: Encode
) -> tuple[NDArray[np.int64], float]:
    """Return the ids of the nearest, and the median seconds of searches that take 0.5 in all."""
    times: list[float] = []
    while sum(times) < 0.5:
        start = time.perf_counter()
        found = search(kind, index, queries, encode, N_NEAREST)
        times.append(time.perf_counter() - start)
    return found, statistics.median(times)


def written_bytes(index: Any) -> int:
    """Return the size of the file that faiss would write."""
    total = 0

    def count(part: bytes) -> int:
        nonlocal total
        total += len(part)
        return len(part)

    binary = isinstance(index, faiss.IndexBinary)
    write_index = faiss.write_index_binary if binary else faiss.write_index
    write_index(index, faiss.PyCallbackIOWriter(count))
    return total


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Return the share of the exact ids (m, n) that were found, in any order."""
    both = (found[:, :, np.newaxis] == exact[:, np.newaxis, :]).any(axis=1)
    return float(both.mean())


def paraphrase_first(kind: str, k: int, X: NDArray[np.float32], encode: Encode) -> float:
    """Return the share of sentences (the first half) whose paraphrase is the nearest of all."""
    n = len(X) // 2
    nearest = search(kind, build(kind, k, X[n:], encode), X[:n], encode, 1)[:, 0]
    return float(np.mean(nearest == np.arange(n)))


def same_topic(
    kind: str,
    k: int,
    X: NDArray[np.float32],
    encode: Encode,
    topics: NDArray[np.str_],
    partner: NDArray[np.int64],
) -> float:
    """Return the share of rows whose nearest, but for itself and its partner, has its topic."""
    near = search(kind, build(kind, k, X, encode), X, encode, 3)
    other = (near != np.arange(len(X))[:, np.newaxis]) & (near != partner[:, np.newaxis])
    first = near[np.arange(len(X)), other.argmax(axis=1)]
    return float(np.mean(topics[first] == topics))


def main() -> None:
    """Run the benchmark and write results/retrieval.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="20 000 rows")
    parser.add_argument("--titles", type=Path, help="folder with more embeddings, and topics")
    parser.add_argument("--checkpoint", type=Path, help="SmolLM2-135M, if not found by itself")
    parser.add_argument("--only", help="the name of a filter to measure anew")
    options = parser.parse_args()
    faiss.omp_set_num_threads(N_THREADS)
    demo, demo_topics = demo_set()
    sets = [demo] if options.titles is None else [demo, titles_set(options.titles)[0]]
    real = np.concatenate(sets)
    n_rows = {kind: N_ROWS_HNSW if kind == "HNSW" else N_ROWS for kind in KINDS}
    if options.short:
        n_rows = {kind: 5_000 if kind == "HNSW" else 20_000 for kind in KINDS}
    X = mixtures(real, n_rows["flat"], seed=0)
    queries = mixtures(real, max(N_QUERIES.values()), seed=1)
    encode = coordinates(D)
    exact = {
        n: search("flat", build("flat", D, X[:n], encode), queries, encode, N_NEAREST)
        for n in {*n_rows.values()}
    }
    pairs = (np.arange(len(demo)) + len(demo) // 2) % len(demo)
    report: dict[str, Any] = {
        "machine": machine(),
        "real_embeddings": len(real),
        "queries": N_QUERIES,
        "noise": NOISE,
        "rows": [],
    }
    report_name = "retrieval-short" if options.short else "retrieval"
    kept: list[dict[str, Any]] = []
    if options.only is not None:
        report = json.loads((RESULTS / f"{report_name}.json").read_text(encoding="utf-8"))
        kept, report["rows"] = report["rows"], []
    print(f"{len(real)} real embeddings")
    for name, k, encode in encoders(options.checkpoint or find_checkpoint(), X[:N_SAMPLE]):
        if options.only not in (None, name):
            report["rows"] += [row for row in kept if (row["filter"], row["k"]) == (name, k)]
            continue
        for kind, n in n_rows.items():
            start = time.perf_counter()
            index = build(kind, k, X[:n], encode)
            build_seconds = time.perf_counter() - start
            asked = queries[: N_QUERIES[kind]]
            found, seconds = timed_search(kind, index, asked, encode)
            row = {
                "filter": name, "k": k, "index": kind, "n": n, "bytes": written_bytes(index),
                "build_seconds": build_seconds, "queries_per_second": len(asked) / seconds,
                "recall_at_10": recall(found, exact[n][: len(asked)]),
                "paraphrase_first": paraphrase_first(kind, k, demo, encode),
                "demo_same_topic": same_topic(kind, k, demo, encode, demo_topics, pairs),
            }  # fmt: skip
            del index
            if options.titles is not None:
                titles, topics = titles_set(options.titles)
                alone = np.full(len(titles), -1)
                row["titles_same_topic"] = same_topic(kind, k, titles, encode, topics, alone)
            report["rows"].append(row)
            print(
                f"{name:17} {k:3} {kind:6} {n:8} rows: {row['bytes'] / 1e6:7.1f} MB, built in"
                f" {build_seconds:6.2f} s, {row['queries_per_second']:9.1f} queries/s, recall"
                f" {row['recall_at_10']:.3f}, paraphrase {row['paraphrase_first']:.3f}, topic"
                f" {row['demo_same_topic']:.3f} {row.get('titles_same_topic', float('nan')):.3f}",
                flush=True,
            )
            if options.only is not None:
                row |= {"build_seconds": None, "queries_per_second": None}
    write(report_name, report)


if __name__ == "__main__":
    main()
