"""The ledgers that stages register: where each is counted, and how its folder and its jobs are known."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from shards import listed
from shards.progress import Progress
from shards.share import Share

Count = Callable[[Path, Share], Progress]


class Kind(NamedTuple):
    """One kind of ledger."""

    module: str
    """Its function `progress(place, share)` counts; imported only if such a ledger is counted."""
    sign: str = ""
    """A file that only output folders of this stage contain; empty if there is none."""
    stages: tuple[str, ...] = ()
    """Stages (names of jobs without fmct-) that are counted by the ledger of their output folder."""
    markers: str = ""
    """Pattern of its units' last files in the output folder; empty if it lists them, or has none."""

    def finished(self, folder: Path) -> list[Path]:
        """The last files of a folder's finished units, whose times give the rate; empty if not known."""
        if self.markers:
            return list(folder.glob(self.markers))
        return listed.finished(folder) if self.module == listed.__name__ else []


ARRAYS = ("features-array", "relevance-array", "robustness-array", "segment-array")
"""Stages of `fmct launch array` whose units are listed files."""
LEDGERS: dict[str, Kind] = {
    "train": Kind("fmct_hpc.train.ledger", "attempts/0001.json", ("train",)),
    "scan": Kind("preprocess.scan.work_folder"),
    "preprocess": Kind(
        "preprocess.tasks.ledger", "tasks/plan.json", ("preprocess",), markers="tasks/*-????????.json"
    ),
    "shards": Kind("shards.derive"),
    "features": Kind("fmct_hpc.probe.features", "features.json"),
    "sweep": Kind("fmct_hpc.probe.sweep.ledger", "plan.json", ("sweep", "probe"), markers="units/*.json"),
    "predict": Kind("fmct_hpc.classifier.table", "predictions.parquet"),
    "files": Kind(listed.__name__, listed.LIST, ARRAYS),
}
"""By the name that a stage registers (shards.progress.register)."""


def of_stage(stage: str) -> Kind | None:
    """The ledger by which a stage's output folder is counted; None if it has none, or other stages' units."""
    return next((kind for kind in LEDGERS.values() if stage in kind.stages), None)


def counter(ledger: str) -> Count | None:
    """The function that counts a ledger; None for one of another version."""
    if ledger not in LEDGERS:
        return None
    count: Count = import_module(LEDGERS[ledger].module).progress
    return count
