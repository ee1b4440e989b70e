"""Each allocation of the interpreter made to fail in turn, in each call of the C module."""

from __future__ import annotations

import _testcapi
import importlib.util

import numpy as np

from embedfilter import _core

X = np.ones((40, 30), np.float32)
BAD = np.full((40, 30), np.nan, np.float32)
BASIS = np.eye(2, 30, dtype=np.float32)
SQUARE, FIRST, BLOCKS = np.eye(30), np.arange(3), np.ones((20, 68), np.uint8)
FILTER = _core.PackedFilter(np.eye(5, 30, dtype=np.float32))
GRAM = _core.Gram(30, BASIS)
OUT = np.empty((40, 5), np.float32)


# Made once more, as it has no state of its own; found while there is memory. In CPython 3.12 and
# 3.13.0 a `lambda` that finds none loses its code, which the next call of it ends by a fault
# (python/cpython#122752), and importlib makes functions while it looks for a module.
SPEC = importlib.util.spec_from_file_location("embedfilter._core", _core.__file__)
assert SPEC is not None
assert SPEC.loader is not None
EXECUTE = SPEC.loader.exec_module
MODULES = iter([importlib.util.module_from_spec(SPEC) for _ in range(1000)])

CALLS = {
    "available_isas": lambda: _core.available_isas(),
    "set_isa": lambda: _core.set_isa("none"),
    "Gram": lambda: _core.Gram(30, BASIS),
    "Gram.add": lambda: GRAM.add(BAD, 1),
    "eigh": lambda: _core.eigh(SQUARE, FIRST, 1),
    "PackedFilter": lambda: _core.PackedFilter(X),
    "project": lambda: FILTER.project(BAD, OUT, "float32", True, None, None, 1),
    "Lens": lambda: _core.Lens(X, 2),
    "dequantize": lambda: _core.dequantize("Q8_0", BLOCKS),
    "import": lambda: EXECUTE(next(MODULES)),
}
for name, call in CALLS.items():
    n_failed = 0
    for start in range(1000):
        error: Exception | None = None
        _testcapi.set_nomemory(start, start + 1)
        try:
            try:
                call()
            finally:  # before this script needs memory
                _testcapi.remove_mem_hooks()
        except Exception as raised:
            error = raised
        if not isinstance(error, MemoryError):
            break
        n_failed += 1
    assert n_failed < 1000, name
    print(name, n_failed, repr(error)[:60])  # noqa: T201 - the caller reads it
