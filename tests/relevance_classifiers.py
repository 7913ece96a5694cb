"""Classifiers of a small sweep, and an exam of three of its volumes, for the tests of relevance maps."""

from pathlib import Path

import pytest
from small_sweep import bright_sweep

from fmct_hpc.classifier.fit import fit
from fmct_hpc.classifier.folder import write_classifier
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.kinds import BINARY
from fmct_hpc.probe.kinds.multiclass import Multiclass
from fmct_hpc.probe.kinds.ordinal import Ordinal
from fmct_hpc.probe.kinds.regression import Regression
from fmct_hpc.probe.kinds.survival import Survival
from shards.split import sample

KINDS = {
    "third": Multiclass((0, 1, 7)),
    "grade": Ordinal((0, 1, 2)),
    "value": Regression(),
    "died": Survival(),
    "bright": BINARY,
}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    grid = bright_sweep(tmp_path_factory.mktemp("sweep"))
    finetune = {"steps": 4, "batch": 4, "check_every": 4, "pool": ("cls", "max")}
    return SweepConfig.model_validate(grid.model_dump() | {"finetune": finetune, "attentive": {"steps": 20}})


class Kept(dict[str, Path]):
    """Folders of exported classifiers by method, each fitted when a test first asks for it."""

    def __init__(self, grid: SweepConfig, folder: Path) -> None:
        super().__init__()
        self._grid, self._folder = grid, folder

    def __missing__(self, method: str) -> Path:
        self[method] = self._folder / method
        write_classifier(fit(self._grid, method=method), self[method])
        return self[method]


@pytest.fixture(scope="module")
def kept(grid: SweepConfig, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(grid, tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module")
def exam(grid: SweepConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exam") / "data"
    sample(grid.data, out, 3, seed=1)
    return out
