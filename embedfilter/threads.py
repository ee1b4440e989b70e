"""How many threads to use."""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from numbers import Integral
from pathlib import Path

from embedfilter.errors import warn_user

__all__ = ["resolve_n_threads"]

_VARIABLES = ("EMBEDFILTER_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
_UNLIMITED = 1 << 30
_SECONDS = 0.25  # so old may what is known of processors be: both are changed while we run


def resolve_n_threads(n_threads: int | None) -> int:
    """Return the number of threads to use.

    Parameters
    ----------
    n_threads : int or None
        As many as asked for, but never more than the processors this process may run on.
        None means as many as those, or as the first of ``EMBEDFILTER_NUM_THREADS``,
        ``OPENBLAS_NUM_THREADS`` and ``OMP_NUM_THREADS`` that is set to a positive number says;
        they are read at the first call, which warns of other text in the first, our own.

    Raises
    ------
    TypeError, ValueError
        If `n_threads` is not an integer of at least 1.
    """
    if n_threads is None:
        return min(_from_environment(), available_cpus())
    if type(n_threads) is int and n_threads >= 1:  # nearly always
        return 1 if n_threads == 1 else min(n_threads, available_cpus())
    if isinstance(n_threads, bool) or not isinstance(n_threads, Integral):
        raise TypeError(f"n_threads: expected an int or None, found {n_threads!r}")
    if n_threads < 1:
        raise ValueError(f"n_threads: expected at least 1, found {n_threads}")
    return min(int(n_threads), available_cpus())


def available_cpus() -> int:
    """Return the number of processors that affinity and the cgroup's quota leave us."""
    when = int(time.monotonic() / _SECONDS)
    return max(1, min(_allowed(when, threading.get_ident()), _cgroup_quota(when)))


# Both are read again with each other `when`.
@functools.lru_cache(maxsize=64)
def _allowed(_when: int, _thread: int) -> int:
    """Return the number of processors that the calling thread may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache  # once, as BLAS libraries do
def _from_environment() -> int:
    for variable in _VARIABLES:
        # OMP_NUM_THREADS may list one number a nesting level: the first is the outer level's.
        text = os.environ.get(variable, "").split(",")[0].strip()
        if text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0:
            return int(text)
        if text and variable == _VARIABLES[0]:
            warn_user(f"{variable}: expected a number of threads, at least 1, found {text!r}")
    return _UNLIMITED


@functools.lru_cache(maxsize=1)
def _cgroup_quota(_when: int) -> int:
    """Return the whole processors of the tightest CPU quota above us, or _UNLIMITED."""
    try:
        membership = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return _UNLIMITED
    quota = _UNLIMITED
    for line in membership:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2: one tree
            for folder in _upwards(Path("/sys/fs/cgroup"), path):
                quota = min(quota, _quota(folder / "cpu.max", None))
        elif "cpu" in controllers.split(","):  # version 1
            for folder in _upwards(Path("/sys/fs/cgroup/cpu"), path):
                quota = min(
                    quota, _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
                )
    return quota


def _upwards(root: Path, path: str) -> list[Path]:
    folder = root / path.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def _quota(quota_file: Path, period_file: Path | None) -> int:
    """Return ceil(quota / period), or _UNLIMITED where there is no quota."""
    try:
        words = quota_file.read_text(encoding="ascii").split()
        if period_file is not None:
            words += period_file.read_text(encoding="ascii").split()
        quota, period = int(words[0]), int(words[1])
    except (OSError, ValueError, IndexError):  # no such file, or "max"
        return _UNLIMITED
    return math.ceil(quota / period) if quota > 0 and period > 0 else _UNLIMITED
