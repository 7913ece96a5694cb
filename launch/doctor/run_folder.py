"""Checks of a run folder: its configuration, checkpoints and data, and room for what it will write."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.checkpoint import Manifest, checkpoints, verify
from fmct_hpc.train.run import require_possible, require_same
from fmct_hpc.train.start import require_start
from launch.doctor.finding import Finding, Judgement, fault, looked, note
from launch.doctor.shared import locks, modes
from shards import json_text
from shards.errors import FmctError, RefusedError
from shards.lock import is_held

ROOM = 2
"""Checkpoints that must fit: one is written before the oldest goes."""


def look_at_run(run: Path) -> Iterator[Finding]:
    """What stands between a run folder and its next step."""
    configurations: list[TrainConfig] = []
    whole: list[tuple[Path, Manifest]] = []
    yield looked("configuration", lambda: _configuration(run, configurations))
    if not configurations:
        return
    yield looked("in use", lambda: _in_use(run))
    yield looked("locks", lambda: locks(run))
    yield looked("modes", lambda: modes(run))
    yield looked("checkpoints", lambda: _checkpoints(run, whole))
    if whole or not checkpoints(run):  # all damaged: that was the fault
        yield looked("going on", lambda: _going_on(run, configurations[0], whole))
    yield looked("room", lambda: _room(run))


def _configuration(run: Path, found: list[TrainConfig]) -> str | Judgement:
    path = run / "config.json"
    try:
        found.append(TrainConfig.from_record(json_text.parse(path.read_bytes())))
    except FileNotFoundError:
        return fault(f"{path} is missing: nothing was trained here", "name the folder given as --run")
    except (ValueError, ValidationError):
        return fault(f"{path} is damaged or of another version", "go on with the version that wrote it")
    config = found[0]
    return f"{config.run.steps} steps of {config.run.batch} volumes on {config.data.path}"


def _in_use(run: Path) -> str | Judgement:
    """The lock that a training holds; on file systems without locks across nodes it says nothing."""
    return note("a training is running here now") if is_held(run) else "no training runs here now"


def _checkpoints(run: Path, whole: list[tuple[Path, Manifest]]) -> str | Judgement:
    """Every checkpoint's files against their SHA-256."""
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
        return note(f"{len(damaged)} damaged: {damaged[0]}", f"the run goes on from step {whole[-1][1].step}")
    return f"{len(whole)} whole, the newest of step {whole[-1][1].step}" if whole else "none yet"


def _going_on(run: Path, config: TrainConfig, whole: list[tuple[Path, Manifest]]) -> str | Judgement:
    """What `fmct train` checks before it starts: dataset, start weights, compiler, the checkpoint."""
    newest = whole[-1][1] if whole else None
    dataset = require_possible(config, run, newest.world_size if newest else 1)
    if whole:
        require_same(config, dataset, *whole[-1])
    else:
        require_start(config, run)
    step = newest.step if newest else 0
    return f"from step {step} of {config.run.steps}" if step < config.run.steps else "all steps are done"


def _room(run: Path) -> str | Judgement:
    free = shutil.disk_usage(run).free
    size = max(
        (sum(file.stat().st_size for file in folder.iterdir()) for folder in checkpoints(run)), default=0
    )
    said = f"{free / 1e9:.1f} GB free, a checkpoint has {size / 1e9:.2f}"
    if free < ROOM * size:
        return fault(said, "make room, or lower run.keep_last and run.keep_every")
    return said
