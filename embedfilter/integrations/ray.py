"""Filters in Ray Data: a class for ``Dataset.map_batches``, one filter in each worker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from embedfilter.filter import EmbedFilter, as_filter

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FilterBatches"]


class FilterBatches:
    """Filters a column of batches; for ``map_batches`` with batch_format "numpy".

    Each worker is one process with a filter of its own. It uses as many threads as Ray gives it
    processors (``num_cpus`` of `map_batches`, by default 1), so that workers do not crowd the
    machine.

    Parameters
    ----------
    f : EmbedFilter or path
        The filter, or a file that each worker reads.
    column : str
        The column of embeddings (n, d).
    output_column : str, optional
        Where filtered embeddings go; by default into the same column.
    n_threads : int, optional
        Threads of a worker; by default, what Ray gives it.
    **options
        For `EmbedFilter.transform`: precision, normalize, ranges.

    Raises
    ------
    KeyError
        When called: a batch has no such column.
    TypeError, ValueError
        When called: as `EmbedFilter.transform`.
    """

    def __init__(
        self,
        f: EmbedFilter | str | os.PathLike[str],
        column: str,
        *,
        output_column: str | None = None,
        n_threads: int | None = None,
        **options: Any,
    ) -> None:
        self._filter = as_filter(f)
        self._column = column
        self._output = output_column or column
        self._n_threads = n_threads or _processors()
        self._options = options

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the batch with its embeddings filtered."""
        if self._column not in batch:
            known = ", ".join(batch)
            raise KeyError(f"column: expected one of {known}, found {self._column!r}")
        rows = self._filter.transform(
            batch[self._column], n_threads=self._n_threads, **self._options
        )
        return batch | {self._output: rows}


def _processors() -> int:
    """Return the processors that Ray has given to this worker, 1 where it says nothing."""
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError('to filter in Ray Data: pip install "embedfilter[ray]"') from error
    if not ray.is_initialized():
        return 1
    given = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    return max(1, int(given))
