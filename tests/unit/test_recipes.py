from pathlib import Path

import pytest
import torch
from pydantic import BaseModel
from small_training import write_dataset
from typer.testing import CliRunner

from fmct_hpc.config import TrainConfig
from fmct_hpc.objective.student import Student
from fmct_hpc.probe.config import ProbeConfig
from fmct_hpc.train import dry_run
from fmct_hpc.train.dry_run import activation_bytes, gradient_bytes, held_bytes
from fmct_hpc.train.matching_weights import matching_weights
from fmct_hpc.train.source import Source
from launch.cli import app
from launch.config import load
from launch.slurm.site import Site
from preprocess.config import PreprocessConfig

FOLDER = Path(__file__).parents[2] / "launch" / "recipes"
GIVEN: dict[str, tuple[type[BaseModel], list[str]]] = {
    "preprocess": (PreprocessConfig, ["key_file=hmac.key"]),
    "train": (TrainConfig, ["data.path=data"]),
    "probe": (ProbeConfig, ["data=data", "labels=labels.parquet"]),
}
NAMED = [path for path in sorted(FOLDER.glob("*.yaml")) if path.stem.rpartition("-")[2] in GIVEN]


@pytest.mark.parametrize("path", NAMED, ids=lambda path: path.stem)
def test_recipes_load_with_the_documented_arguments(path: Path) -> None:
    model, overrides = GIVEN[path.stem.rpartition("-")[2]]
    load(model, path, overrides)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("site-*.yaml")), ids=lambda path: path.stem)
def test_site_files_are_valid(path: Path) -> None:
    load(Site, path, [])


@pytest.mark.parametrize(
    ("name", "ranks", "memory_gb"),
    [
        *(("reference", 8, 80), ("small-hospital", 4, 40), ("one-gpu", 1, 24), ("quickstart", 2, 16)),
        ("small-hospital-highres", 4, 40),
    ],
)
def test_training_recipes_fit_their_machines(tmp_path: Path, name: str, ranks: int, memory_gb: int) -> None:
    data = write_dataset(tmp_path / "data")
    path = FOLDER / f"{name}-train.yaml"
    command = ["train", "--config", str(path), "--run", str(tmp_path / "run"), "--ranks", str(ranks)]
    result = CliRunner().invoke(app, [*command, "--dry-run", f"data.path={data}"], catch_exceptions=False)
    assert result.exit_code == 0
    assert f"= {ranks} ranks x" in result.stdout
    config = load(TrainConfig, path, [f"data.path={data}"])
    student, teacher = dry_run.students_and_teachers(config)
    micro = config.run.batch // (ranks * config.accumulation(ranks))
    stage = config.engine.zero_stage
    needed = (
        held_bytes(stage, ranks, student, teacher)
        + gradient_bytes(stage, ranks, student)
        + activation_bytes(config, micro)
    )
    # Activations are estimated to about a third, and libraries need memory too.
    assert needed < 0.6e9 * memory_gb


def test_the_second_stage_recipe_loads_the_whole_state_of_the_first() -> None:
    """`matching_weights` finds every weight of one in the other, at their own sizes."""
    first, second = (
        load(TrainConfig, FOLDER / f"{name}-train.yaml", ["data.path=data"])
        for name in ("small-hospital", "small-hospital-highres")
    )
    assert isinstance(first.data.view_size, int)
    assert isinstance(second.data.view_size, int)
    assert second.data.view_size > first.data.view_size
    with torch.device("meta"):
        weights: dict[str, torch.Tensor] = dict(Student(first).named_parameters())
        student = Student(second)
    targets = {"cls.center": torch.empty(first.model.prototypes)}
    source = Source(FOLDER, first.model, first.data, weights, weights, targets)
    actual = matching_weights(source, second, student)
    assert actual.weights.keys() == actual.averages.keys() == dict(student.named_parameters()).keys()
    assert actual.targets.keys() == {"cls.center"}
