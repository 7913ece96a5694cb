"""Preprocessing from catalog to finished datasets on one machine: plan, a pool of tasks, collect.

A cluster runs the same three parts as separate jobs (`plan`, `run_share` in an array, `collect`).
"""

import logging
from collections.abc import Callable
from pathlib import Path

from preprocess.config import PreprocessConfig
from preprocess.tasks import ledger
from preprocess.tasks.collect import Summary, collect
from preprocess.tasks.ledger import Status, TaskResult, status
from preprocess.tasks.plan import Task, plan, read_current_plan
from preprocess.tasks.pool import run_tasks
from preprocess.tasks.task import run_task
from shards.errors import FmctError
from shards.lock import writing

__all__ = [
    "Status",
    "Summary",
    "TaskResult",
    "collect",
    "plan",
    "preprocess",
    "run_share",
    "run_task",
    "status",
]

Progress = Callable[[int, int], None]
"""Is called with (tasks done, tasks)."""

log = logging.getLogger(__name__)


def preprocess(
    catalog: Path, out: Path, config: PreprocessConfig, progress: Progress | None = None
) -> Summary:
    """Turn the series of `catalog` into shards, manifest, quarantine, QC montage and summary in `out`.

    Only tasks that are missing, or whose input or configuration changed, are done; the files do not
    depend on `config.workers`, nor on how often the work was interrupted.

    Raises FmctError as `plan`, `run_task` and `collect` do. A task that fails lets the others finish.
    """
    plan(catalog, out, config)
    run_share(catalog, out, 0, 1, config, progress)
    return collect(out, config)


def run_share(
    catalog: Path,
    out: Path,
    share: int,
    shares: int,
    config: PreprocessConfig,
    progress: Progress | None = None,
) -> int:
    """Do the tasks `share`, `share` + `shares` and so on of the plan in `out`; returns how many they are.

    Several shares may be done at a time, on any nodes: no task is in two of them. A share may be empty.

    Raises FmctError as `run_task` does. A task that fails lets the others finish.
    """
    tasks = list(enumerate(read_current_plan(out, config).tasks))[share::shares]
    with writing(out, f"fmct preprocess --share {share}/{shares}", shared=True):
        return _run_share(catalog, out, tasks, config, progress)


def _run_share(
    catalog: Path,
    out: Path,
    tasks: list[tuple[int, Task]],
    config: PreprocessConfig,
    progress: Progress | None,
) -> int:
    todo = [index for index, task in tasks if not ledger.result(ledger.files(out, index, task))]
    log.info("%d tasks, %d of them to do", len(tasks), len(todo))
    failures: list[tuple[int, FmctError]] = []
    if todo:
        for done, failure in enumerate(run_tasks(catalog, out, todo, config), len(tasks) - len(todo) + 1):
            if failure:
                failures.append(failure)
            if progress:
                progress(done, len(tasks))
    if failures:
        index, error = min(failures, key=lambda failure: failure[0])
        raise type(error)(f"{len(failures)} of {len(tasks)} tasks failed, first {index}: {error}")
    return len(tasks)
