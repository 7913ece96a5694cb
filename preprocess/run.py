"""Preprocessing from catalog to finished datasets on one machine: plan, a pool of tasks, collect.

A cluster runs the same three parts as separate jobs (`plan`, `run_task` in an array, `collect`).
"""

import logging
from collections.abc import Callable
from pathlib import Path

from preprocess import ledger
from preprocess.collect import Summary, collect
from preprocess.config import PreprocessConfig
from preprocess.ledger import Status, TaskResult, status
from preprocess.plan import plan, read_plan
from preprocess.pool import run_tasks
from preprocess.task import run_task
from shards.errors import FmctError

__all__ = ["Status", "Summary", "TaskResult", "collect", "plan", "preprocess", "run_task", "status"]

log = logging.getLogger(__name__)


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
    for done, failure in enumerate(run_tasks(catalog, out, todo, config), total - len(todo) + 1):
        if failure:
            failures.append(failure)
        if progress:
            progress(done, total)
    if failures:
        index, error = min(failures, key=lambda failure: failure[0])
        raise FmctError(f"{len(failures)} of {total} tasks failed, first {index}: {error}")
    return collect(out, config)
