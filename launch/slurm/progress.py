"""The progress of a job's command, measured by its stored results: whether a start of it made any."""

import argparse
import os
import sys
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from fmct_hpc.train.checkpoint import newest_step
from shards.errors import FmctError

Unit = Literal["step", "task", "part", "shard", "unit", "volume", "result", "prediction"]
PLACES: dict[Unit, str] = {
    "step": " at the checkpoint of step {}",
    "task": " with {} tasks done",
    "part": " with {} parts of the export read",
    "shard": " with {} shards of the split written",
    "unit": " with {} units of the sweep done",
    "volume": " with features of {} volumes extracted",
    "result": " with {} volumes and units of the probe done",
    "prediction": " with {} parts of the predictions done",
}
"""Text that follows the cause of an ending."""


class Share(NamedTuple):
    """One of `shares` parts of a feature store's work."""

    store: Path
    share: int
    shares: int


class Kept(NamedTuple):
    """Where a command stores its results: at most one field is set, none if it is not known."""

    run: Path | None = None
    """Run folder of a training."""
    out: Path | None = None
    """Output folder of a preprocessing array."""
    catalog: Path | None = None
    """Catalog of a scan."""
    parts: Path | None = None
    """Output folder of a split."""
    sweep: Path | None = None
    """Output folder of a sweep's array."""
    stores: tuple[Share, ...] = ()
    """Shares of a sweep's feature stores that this job or array task extracts."""
    probe: Path | None = None
    """Output folder of a probe."""
    predictions: Path | None = None
    """Output folder of a prediction array."""

    def progress(self) -> tuple[int | None, Unit]:
        """Step of the newest checkpoint, tasks or units of this array task's share, and so on."""
        share, shares = _share_of_array()
        if self.run:
            return newest_step(self.run), "step"
        # Imported only where needed: PyTorch, pydicom and more.
        if self.out:
            from preprocess.tasks.ledger import marked_in_share

            return marked_in_share(self.out, share, shares), "task"
        if self.catalog:
            from preprocess.scan.workplace import parts_kept

            return parts_kept(self.catalog), "part"
        if self.parts:
            from shards.formats import FORMATS

            written = (self.parts.glob(f"*/*{each.suffix}") for each in FORMATS.values())
            return sum(not file.name.startswith(".") for file in chain.from_iterable(written)), "shard"
        if self.sweep:
            from fmct_hpc.probe.sweep.ledger import units_in_share

            return units_in_share(self.sweep, share, shares), "unit"
        if self.predictions:
            from fmct_hpc.classifier.table import parts_in_share

            return parts_in_share(self.predictions, share, shares), "prediction"
        if self.stores:
            from fmct_hpc.probe.features import volumes_kept

            return sum(volumes_kept(*store) for store in self.stores), "volume"
        if self.probe:
            from fmct_hpc.probe.features import volumes_kept
            from fmct_hpc.probe.sweep.ledger import units_in_share

            volumes = sum(volumes_kept(store) for store in (self.probe / "features").glob("*"))
            return volumes + (units_in_share(self.probe, 0, 1) or 0), "result"
        return None, "part"


def _share_of_array() -> tuple[int, int]:
    """I and N of this array task: every N-th task from I on in an array 0-N, else only task I.

    This is the convention of the sbatch files.
    """
    given = {name: os.environ.get(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "COUNT", "MIN", "MAX")}
    number, count, least = int(given["ID"] or 0), int(given["COUNT"] or 1), int(given["MIN"] or 0)
    whole = least == 0 and int(given["MAX"] or count - 1) == count - 1
    return number, count if whole else sys.maxsize


def told_by(arguments: list[str], run: Path | None) -> Kept:
    """Where a batch script's command stores its results, from the arguments of `fmct launch after`.

    run: of a training. --catalog: of a scan. --parts: of a split. --out: of a preprocessing array, with
    --sweep of a sweep's, with --predictions of a prediction array. --extract N, after a sweep's recipe and
    overrides: of its features. --probe: a probe's output folder; of an array, one per task. All other
    arguments are ignored.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--catalog", type=Path)
    parser.add_argument("--parts", type=Path)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--predictions", action="store_true")
    parser.add_argument("--extract", type=int)
    parser.add_argument("--probe", type=Path, action="append")
    parser.add_argument("--allow-code", action="store_true")
    given, others = parser.parse_known_args(arguments)
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    if given.extract is not None and others:
        return Kept(stores=extracted(Path(others[0]), others[1:], int(task or given.extract)))
    if given.probe:
        return Kept(probe=given.probe[int(task or 0)] if len(given.probe) > 1 else given.probe[0])
    if given.predictions:
        return Kept(run, predictions=given.out)
    if given.sweep:
        return Kept(run, catalog=given.catalog, sweep=given.out)
    return Kept(run, given.out, given.catalog, given.parts)


def extracted(recipe: Path, overrides: list[str], task: int) -> tuple[Share, ...]:
    """What `fmct sweep RECIPE --extract TASK` extracts; empty if the recipe can't be read."""
    from fmct_hpc.probe.config import SweepConfig
    from launch.config import load

    try:
        config = load(SweepConfig, recipe, overrides)
    except FmctError:  # reported by the command itself
        return ()
    stores, shares = [config.features / spec.name for spec in config.encoders], config.feature_tasks
    if task == -1:
        return tuple(Share(store, 0, 1) for store in stores)
    return tuple(Share(store, task % shares, shares) for store in stores[task // shares :][:1])
