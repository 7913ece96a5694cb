"""Checks of a run folder: configuration, checkpoints, data, and free disk space."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.checkpoint import Manifest, checkpoints, verify
from fmct_hpc.train.run import require_possible, require_same
from fmct_hpc.train.start import require_start
from launch.doctor.finding import Finding, Problem, fault, note, run_check
from launch.doctor.shared import locks, modes
from shards import json_text
from shards.errors import FmctError, RefusedError
from shards.lock import is_held

ROOM = 2
"""Number of checkpoints that must fit: one is written before the oldest is deleted."""


def check_run(run: Path) -> Iterator[Finding]:
    """All checks of a run folder that resuming depends on."""
    configurations: list[TrainConfig] = []
    whole: list[tuple[Path, Manifest]] = []
    yield run_check("configuration", lambda: _configuration(run, configurations))
    if not configurations:
        return
    yield run_check("in use", lambda: _in_use(run))
    yield run_check("locks", lambda: locks(run))
    yield run_check("modes", lambda: modes(run))
    yield run_check("checkpoints", lambda: _checkpoints(run, whole))
    if whole or not checkpoints(run):  # if all are damaged, this was the fault
        yield run_check("resuming", lambda: _resuming(run, configurations[0], whole))
    yield run_check("disk space", lambda: _space(run))


def _configuration(run: Path, configs: list[TrainConfig]) -> str | Problem:
    path = run / "config.json"
    try:
        configs.append(TrainConfig.from_record(json_text.parse(path.read_bytes())))
    except FileNotFoundError:
        return fault(f"{path} is missing: not a run folder", "give the folder of fmct train --run")
    except (ValueError, ValidationError):
        return fault(f"{path} is damaged or of another version", "use the version that wrote it")
    config = configs[0]
    return f"{config.run.steps} steps of {config.run.batch} volumes on {config.data.path}"


def _in_use(run: Path) -> str | Problem:
    """Check the lock that a training holds; unreliable on file systems without locks across nodes."""
    return note("a training is in progress") if is_held(run) else "no training in progress"


def _checkpoints(run: Path, whole: list[tuple[Path, Manifest]]) -> str | Problem:
    """Verify every checkpoint's files by SHA-256."""
    damaged = []
    for folder in checkpoints(run):
        try:
            whole.append((folder, verify(folder)))
        except RefusedError:
            raise
        except FmctError as error:
            damaged.append(str(error))
    if not whole and damaged:
        return fault(f"all {len(damaged)} are damaged: {damaged[0]}", f"restore one, or remove {run}")
    if damaged:
        return note(f"{len(damaged)} damaged: {damaged[0]}", f"the run resumes from step {whole[-1][1].step}")
    return f"{len(whole)} complete, the newest at step {whole[-1][1].step}" if whole else "none yet"


def _resuming(run: Path, config: TrainConfig, whole: list[tuple[Path, Manifest]]) -> str | Problem:
    """Run the checks of `fmct train` before a start: dataset, start weights, compiler, the checkpoint."""
    newest = whole[-1][1] if whole else None
    dataset = require_possible(config, run, newest.world_size if newest else 1)
    if whole:
        require_same(config, dataset, *whole[-1])
    else:
        require_start(config, run)
    step = newest.step if newest else 0
    return f"from step {step} of {config.run.steps}" if step < config.run.steps else "all steps are done"


def _space(run: Path) -> str | Problem:
    free = shutil.disk_usage(run).free
    size = max(
        (sum(file.stat().st_size for file in folder.iterdir()) for folder in checkpoints(run)), default=0
    )
    summary = f"{free / 1e9:.1f} GB free, a checkpoint has {size / 1e9:.2f}"
    if free < ROOM * size:
        return fault(summary, "free disk space, or lower run.keep_last and run.keep_every")
    return summary
