"""How far a job's command has come, by what it keeps: whether a start of it was of any use."""

import os
from pathlib import Path
from typing import Literal, NamedTuple

from fmct_hpc.train.checkpoint import newest_step
from preprocess.scan.workplace import parts_kept
from preprocess.tasks.ledger import marked_in_share

Unit = Literal["step", "task", "part"]
PLACES: dict[Unit, str] = {
    "step": " at the checkpoint of step {}",
    "task": " with {} tasks done",
    "part": " with {} parts of the export read",
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

    def progress(self) -> tuple[int | None, Unit]:
        """Step of the newest checkpoint, tasks of this array task's share, or batches of files read."""
        if self.run:
            return newest_step(self.run), "step"
        if self.out:
            share, shares = (os.environ.get(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "COUNT"))
            return marked_in_share(self.out, int(share or 0), int(shares or 1)), "task"
        return (parts_kept(self.catalog) if self.catalog else None), "part"
