"""Preprocessing from catalog to finished datasets on one machine: plan, run the tasks in a pool, collect.

On a cluster, the three steps are separate jobs (`plan`, `run_share` in a job array, `collect`).
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
"""Called with (finished tasks, all tasks)."""

log = logging.getLogger(__name__)


def preprocess(
    catalog: Path, out: Path, config: PreprocessConfig, progress: Progress | None = None
) -> Summary:
    """Make shards, manifest, quarantine, QC montage and summary from the series of `catalog` in `out`.

    Only tasks that are missing, or whose input or configuration changed, are run. The files do not depend on
    `config.workers` or on interruptions.

    Raises FmctError as `plan`, `run_task` and `collect` do. If a task fails, the others still finish.
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
    """Run the tasks `share`, `share` + `shares` and so on of the plan in `out`; return their number.

    Shares have no task in common and may run at the same time on any nodes. A share may be empty.

    Raises FmctError as `run_task` does. If a task fails, the others still finish.
    """
    whole = ledger(out, read_current_plan(out, config))
    with writing(out, f"fmct preprocess --share {share}/{shares}", shared=True):
        return _run_share(catalog, out, whole, Share(share, shares), config, progress)


def run_task(catalog: Path, out: Path, index: int, config: PreprocessConfig) -> TaskResult:
    """Run task `index` of the plan in `out` unless it is done; raises as `tasks.task.run_task`."""
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
    log.info("%d tasks, %d to run", total, len(todo))
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
