"""A process pool for the tasks: each process has one volume at a time and one thread."""

import logging
from collections.abc import Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from preprocess.config import PreprocessConfig
from preprocess.tasks.task import run_task
from shards.environment import environment
from shards.errors import FmctError
from shards.parallel import process_pool

log = logging.getLogger(__name__)

RETOLD = 20
"""Most task numbers in a message."""
IMPORTED = ("preprocess.tasks.task", "shards.numba_tables")
"""Modules that all worker processes use."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Environment variables for the number of threads of numerical libraries, read when they are loaded."""


def run_tasks(
    catalog: Path, out: Path, todo: list[int], config: PreprocessConfig
) -> Iterator[tuple[int, FmctError] | None]:
    """Run the tasks numbered `todo` in `config.workers` processes.

    Yields once per task, in order of completion: its number and error if it failed. If one fails, the others
    continue. If a process dies (killed for memory, a crashed decoder), the running tasks are retried with the
    rest. Raises FmctError if processes die and no more tasks finish.
    """
    left = list(todo)
    while left:
        ended: list[int] = []
        try:
            for index, failure in _run_until_worker_dies(catalog, out, left, config):
                ended.append(index)
                yield (index, failure) if failure else None
            return
        except BrokenProcessPool:
            left = [index for index in left if index not in ended]
            if not ended:
                numbers = ", ".join(map(str, left[:RETOLD]))
                raise FmctError(
                    f"{out}: worker processes died, possibly out of memory, in one of the tasks {numbers}; "
                    f"finished tasks are kept: rerun with fewer `workers`, or one task (--task {left[0]})"
                ) from None
            log.warning("a worker process died; continuing with %d remaining tasks", len(left))


def _run_until_worker_dies(
    catalog: Path, out: Path, todo: list[int], config: PreprocessConfig
) -> Iterator[tuple[int, FmctError | None]]:
    """Number and error of each task as it finishes; raises BrokenProcessPool when a process dies."""
    workers = min(config.workers, len(todo))
    one_thread = environment(dict.fromkeys(THREAD_VARIABLES, "1"))  # parallelism is over series
    with one_thread, process_pool(workers, *IMPORTED) as pool:
        futures = {pool.submit(run_task, catalog, out, index, config): index for index in todo}
        for future in as_completed(futures):
            try:
                future.result()
            except FmctError as error:
                yield futures[future], error
            else:
                yield futures[future], None
