"""Preprocessing from catalog to finished datasets on one machine: plan, a pool of tasks, collect.

A cluster runs the same three parts as separate jobs (`plan`, `run_task` in an array, `collect`).
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from preprocess import ledger
from preprocess.collect import Summary, collect
from preprocess.config import PreprocessConfig
from preprocess.ledger import Status, TaskResult, status
from preprocess.plan import plan, read_plan
from preprocess.task import run_task
from shards.errors import FmctError

__all__ = ["Status", "Summary", "TaskResult", "collect", "plan", "preprocess", "run_task", "status"]

log = logging.getLogger(__name__)

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""What the numerical libraries take their number of threads from when they are loaded."""


def preprocess(
    catalog: Path, out: Path, config: PreprocessConfig, progress: Callable[[int, int], None] | None = None
) -> Summary:
    """Turn the series of `catalog` into shards, manifest, quarantine, QC montage and summary in `out`.

    Only tasks that are missing, or whose input or configuration changed, are done; the files do not
    depend on `config.workers`, nor on how often the work was broken off. `progress` is called with
    (tasks done, tasks).

    Raises FmctError as `plan`, `run_task` and `collect` do. A task that fails lets the others finish.
    """
    total = plan(catalog, out, config)
    places = [ledger.files(out, index, task) for index, task in enumerate(read_plan(out).tasks)]
    todo = [place.index for place in places if not ledger.result(place)]
    log.info("%d tasks, %d of them to do", total, len(todo))
    failures: list[tuple[int, FmctError]] = []
    for done, failure in enumerate(_run_tasks(catalog, out, todo, config), total - len(todo) + 1):
        if failure:
            failures.append(failure)
        if progress:
            progress(done, total)
    if failures:
        index, error = min(failures, key=lambda failure: failure[0])
        raise FmctError(f"{len(failures)} of {total} tasks failed, first {index}: {error}")
    return collect(out, config)


def _run_tasks(
    catalog: Path, out: Path, todo: list[int], config: PreprocessConfig
) -> Iterator[tuple[int, FmctError] | None]:
    """Do the tasks in a pool of processes; yields after each, with its number and error if it failed."""
    if not todo:
        return
    with _one_thread_each(), _pool(min(config.workers, len(todo))) as pool:
        futures = {pool.submit(run_task, catalog, out, index, config): index for index in todo}
        for future in as_completed(futures):
            try:
                future.result()
            except FmctError as error:
                yield futures[future], error
            except BrokenProcessPool:
                raise FmctError(
                    f"{out}: a worker process died, perhaps for lack of memory; what is done is kept: "
                    "run the same command again, with fewer `workers` if it recurs"
                ) from None
            else:
                yield None


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool that starts no further task once an exception leaves its context."""
    # Spawned, not forked: the caller may hold threads (a progress bar, BLAS).
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_set_up_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _set_up_worker() -> None:
    """Die with the parent, however it dies, and at once on Ctrl-C: markers make that safe."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


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
