"""A Ray Data job over a folder of Parquet files: ``ray_job.py FOLDER FILTER OUT [--kill]``.

Run in a process of its own by test_ray.py: Ray leaves threads and sockets behind. With --kill,
one worker is killed by the signal that nothing survives when it comes to its third batch.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import ray

from embedfilter.integrations.ray import FilterBatches


class DyingOnce(FilterBatches):
    """Kills its process in the middle of the work, the first of all that come there."""

    def __init__(self, *arguments: Any, mark: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._mark, self._n_batches = mark, 0

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        self._n_batches += 1
        if self._n_batches == 3:
            try:
                os.close(os.open(self._mark, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


def main() -> None:
    """Filter all rows, and write them to Parquet files."""
    folder, filter_file, out = sys.argv[1:4]
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    kill = "--kill" in sys.argv
    rows = ray.data.read_parquet(folder)
    filtered = rows.map_batches(
        DyingOnce if kill else FilterBatches,
        fn_constructor_args=(filter_file, "embedding"),
        fn_constructor_kwargs={"mark": str(Path(out).with_suffix(".killed"))} if kill else {},
        batch_size=100,
        batch_format="numpy",
        concurrency=2,
        num_cpus=0.5,
    )
    filtered.write_parquet(out)
    ray.shutdown()


if __name__ == "__main__":
    main()
