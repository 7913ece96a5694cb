"""How far a job's command has come, by what it keeps: whether a start of it was of any use."""

import os
from pathlib import Path
from typing import Literal, NamedTuple

from fmct_hpc.train.checkpoint import newest_step
from preprocess.scan.workplace import parts_kept
from preprocess.tasks.ledger import marked_in_share

Unit = Literal["step", "task", "part", "unit"]
PLACES: dict[Unit, str] = {
    "step": " at the checkpoint of step {}",
    "task": " with {} tasks done",
    "part": " with {} parts of the export read",
    "unit": " with {} units of the sweep done",
}
"""In words behind what happened there."""


class Kept(NamedTuple):
    """Where a command keeps what it has done; one place at most, none where it is not known."""

    run: Path | None = None
    """The run folder, of a training."""
    out: Path | None = None
    """The output folder, of an array that shares preprocessing's tasks out."""
    catalog: Path | None = None
    """Of a scan."""
    sweep: Path | None = None
    """The output folder, of an array that shares a sweep's units out."""

    def progress(self) -> tuple[int | None, Unit]:
        """Step of the newest checkpoint, tasks or units of this array task's share, or batches read."""
        share, shares = (os.environ.get(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "COUNT"))
        if self.run:
            return newest_step(self.run), "step"
        if self.out:
            return marked_in_share(self.out, int(share or 0), int(shares or 1)), "task"
        if self.sweep:
            from fmct_hpc.probe.sweep.ledger import units_in_share  # brings PyTorch, which others don't need

            return units_in_share(self.sweep, int(share or 0), int(shares or 1)), "unit"
        return (parts_kept(self.catalog) if self.catalog else None), "part"
