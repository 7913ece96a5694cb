"""Preprocessing from catalog to finished datasets on one machine: plan, a pool of tasks, collect.

A cluster runs the same three parts as separate jobs (`plan`, `run_share` in an array, `collect`).
"""

import logging
from collections.abc import Callable
from pathlib import Path

from preprocess.config import PreprocessConfig
from preprocess.tasks import task as tasks
from preprocess.tasks.collect import Summary, collect
from preprocess.tasks.ledger import Status, TaskFiles, TaskResult, ledger, status
from preprocess.tasks.plan import plan, read_current_plan
from preprocess.tasks.pool import run_tasks
from shards.errors import FmctError
from shards.ledger import Ledger
from shards.lock import writing
from shards.progress import register
from shards.share import Share

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
    whole = ledger(out, read_current_plan(out, config))
    with writing(out, f"fmct preprocess --share {share}/{shares}", shared=True):
        return _run_share(catalog, out, whole, Share(share, shares), config, progress)


def run_task(catalog: Path, out: Path, index: int, config: PreprocessConfig) -> TaskResult:
    """Do task number `index` of the plan in `out`, unless it is done; raises as `tasks.task.run_task`."""
    register("preprocess", out, Share.only(index), total=1)
    return tasks.run_task(catalog, out, index, config)


def _run_share(
    catalog: Path,
    out: Path,
    whole: Ledger[TaskFiles, TaskResult],
    share: Share,
    config: PreprocessConfig,
    progress: Progress | None,
) -> int:
    own = whole.share(share)
    total, of_all = len(own.units), len(whole.units)
    register("preprocess", out, share, total=total, of_all=of_all)
    todo = [place.index for place in own.missing()]
    log.info("%d tasks, %d of them to do", total, len(todo))
    failures: list[tuple[int, FmctError]] = []
    if todo:
        for done, failure in enumerate(run_tasks(catalog, out, todo, config), total - len(todo) + 1):
            if failure:
                failures.append(failure)
            if progress:
                progress(done, total)
    if failures:
        register("preprocess", out, share, total=total, of_all=of_all, failed=len(failures))
        index, error = min(failures, key=lambda failure: failure[0])
        raise type(error)(f"{len(failures)} of {total} tasks failed, first {index}: {error}")
    return total
