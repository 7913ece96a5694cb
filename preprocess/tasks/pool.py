"""A pool of processes for the tasks: one volume at a time each, one thread each."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from preprocess.config import PreprocessConfig
from preprocess.tasks.task import run_task
from shards.errors import FmctError
from shards.parallel import process_pool

log = logging.getLogger(__name__)

RETOLD = 20
"""Task numbers in a message."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""What the numerical libraries take their number of threads from when they are loaded."""


def run_tasks(
    catalog: Path, out: Path, todo: list[int], config: PreprocessConfig
) -> Iterator[tuple[int, FmctError] | None]:
    """Do the tasks numbered `todo` in `config.workers` processes.

    Yields once after each task, in the order in which they end: its number and error if it failed. If one
    fails, the others continue. A process that dies (killed for memory, a decoder that crashed)
    affects the running tasks, which are tried again with the rest; raises FmctError where processes
    die and no task ends any more.
    """
    left = list(todo)
    while left:
        ended: list[int] = []
        try:
            for index, failure in _run_until_a_death(catalog, out, left, config):
                ended.append(index)
                yield (index, failure) if failure else None
            return
        except BrokenProcessPool:
            left = [index for index in left if index not in ended]
            if not ended:
                numbers = ", ".join(map(str, left[:RETOLD]))
                raise FmctError(
                    f"{out}: worker processes died, perhaps for lack of memory, in a task of {numbers}; "
                    f"finished tasks are kept: run again with fewer `workers`, or one task (--task {left[0]})"
                ) from None
            log.warning("a worker process died; continuing with the %d remaining tasks", len(left))


def _run_until_a_death(
    catalog: Path, out: Path, todo: list[int], config: PreprocessConfig
) -> Iterator[tuple[int, FmctError | None]]:
    """Number and error of each task as it ends; raises BrokenProcessPool when a process dies."""
    with _one_thread_each(), process_pool(min(config.workers, len(todo))) as pool:
        futures = {pool.submit(run_task, catalog, out, index, config): index for index in todo}
        for future in as_completed(futures):
            try:
                future.result()
            except FmctError as error:
                yield futures[future], error
            else:
                yield futures[future], None


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started within use one thread each: parallelism is over series."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
