"""The C module in the hands of several threads, with the interpreter's lock or without."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from embedfilter import _core

N, D, K = 300, 90, 20
ROUNDS = 40
X = np.random.default_rng(7).standard_normal((N, D)).astype(np.float32)
SYMMETRIC = (X.T @ X).astype(np.float64)
FILTER = _core.PackedFilter(np.ascontiguousarray(X[:K]))
BASIS = np.eye(2, D, dtype=np.float32)


def project() -> np.ndarray:
    out = np.empty((N, K), np.float32)
    FILTER.project(X, out, "float32", True, None, None, 2)
    return out


def gram() -> np.ndarray:
    total, out = _core.Gram(D, BASIS), np.zeros((D, D))
    total.add(X, 2)
    total.finish(out, 2)
    return out


def lens() -> np.ndarray:
    search, ids, logits = _core.Lens(X[:9], 4), np.empty((9, 4), np.int64), np.empty((9, 4), "f4")
    search.add(X, 2)
    search.finish(ids, logits)
    return np.hstack([ids, logits])


def eigh() -> np.ndarray:
    values, _ = _core.eigh(SYMMETRIC.copy(), np.arange(3), 2)
    return values


def at_once(*calls: Callable[[], None]) -> None:
    """Run each in a thread of its own; raise what one of them raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], None]) -> None:
        start.wait()
        try:
            call()
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=run, args=(call,)) for call in calls]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    if errors:
        raise errors[0]


def test_each_call_while_instruction_sets_change() -> None:
    names = _core.available_isas()
    before = _core.get_isa()

    def check(call: Callable[[], np.ndarray], expected: np.ndarray) -> None:
        for _ in range(ROUNDS):
            np.testing.assert_allclose(call(), expected, rtol=1e-9, atol=1e-9)

    def change() -> None:
        for i in range(ROUNDS * 10):
            _core.set_isa(names[i % len(names)])

    checks = [(call, call()) for call in (project, gram, lens, eigh)]
    try:
        at_once(change, *[lambda c=c, e=e: check(c, e) for c, e in checks * 2])
    finally:
        _core.set_isa(before)


@pytest.mark.parametrize("what", ["sum", "lens"])
def test_one_object_takes_one_thread_at_a_time(what: str) -> None:
    """A call that finds another inside is refused; every other one counts."""
    shared = _core.Gram(D, None) if what == "sum" else _core.Lens(X[:9], 4)
    added = []

    def add() -> None:
        for _ in range(ROUNDS):
            try:
                shared.add(X, 1)
            except RuntimeError as error:
                assert str(error) == f"the {what} is in use by another thread"  # noqa: PT017
            else:
                added.append(1)

    at_once(add, add, add)
    assert added
    if what == "sum":
        out = np.zeros((D, D))  # of which the upper triangle is written
        shared.finish(out, 1)
        exact = X.astype(np.float64).T @ X.astype(np.float64)
        np.testing.assert_allclose(out, np.triu(len(added) * exact), rtol=1e-9, atol=1e-9)
    else:
        ids, logits = np.empty((9, 4), np.int64), np.empty((9, 4), np.float32)
        shared.finish(ids, logits)
        assert np.array_equal(ids % N, np.repeat(ids[:, :1] % N, 4, axis=1))  # each row so often
        assert ids.max() < len(added) * N
