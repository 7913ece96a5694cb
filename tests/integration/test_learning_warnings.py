"""Trainings that learn, collapse, stay uniform, or learn only the crop, and the warning of each."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from forked_commands import forked_python
from small_training import small_config
from study_heads import write_heads

from fmct_hpc.train.figures import recorded
from fmct_hpc.train.health import Health
from fmct_hpc.train.learning_alarm import LearningAlarm

RUNS = """
import logging, sys
from pathlib import Path
from fmct_hpc.config import TrainConfig
from fmct_hpc.train.run import train

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    for file in sorted(Path(sys.argv[1]).glob("*.json")):
        assert train(TrainConfig.model_validate_json(file.read_text()), file.with_suffix("")) == 0
"""
HEADS = 64
STEPS = {"sound": 140, "crops": 100, "uniform": 50, "collapsed": 50}
"""What does not learn shows it early."""
SECTIONS: dict[str, dict[str, Any]] = {
    "data": {
        **{"windows": ((40, 80), (80, 200)), "view_size": 16, "field_mm": 112, "local_field_mm": 112},
        **{"global_crop_mm": (90, 112), "local_crop_mm": (56, 84), "local_views": 0, "flip_probability": 0},
        **{"shift": 0.0, "smooth_probability": 0, "gamma_probability": 0},
    },
    "model": {
        **{"patch_size": 4, "width": 48, "depth": 2, "heads": 4, "positions": "sincos", "drop_path": 0},
        **{"prototypes": 64, "head_hidden": 64, "head_bottleneck": 32},
    },
    "objective": {
        **{"mae_weight": 0, "ibot_weight": 0, "koleo_weight": 0.1, "centring": "sinkhorn", "ema": (0.97, 1)},
        **{"teacher_temperature": (0.02, 0.02), "freeze_prototypes": 0},
    },
    "optim": {"base_lr": 2e-2},
    "health": {"every": 2},
    "run": {"batch": 16, "checkpoint_every": 1000, "images_every": 1000},
}
UNIFORM = {"centring": "mean", "teacher_temperature": (0.1, 0.1), "koleo_weight": 0}
COLLAPSED = {"centring": "mean", "center_momentum": 1.0, "ema": (0.5, 0.5), "koleo_weight": 0}


class Ended(NamedTuple):
    figures: list[dict[str, float]]
    learning: set[str]
    """Findings of the learning alarm."""
    collapse: set[str]
    """Findings of the collapse alarm."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    folder = tmp_path_factory.mktemp("runs")
    heads = write_heads(folder / "data" / "heads", HEADS)
    copies = write_heads(folder / "data" / "copies", HEADS, copies=True)
    kinds: dict[str, tuple[Path, dict[str, Any]]] = {
        "sound": (heads, {"mae_weight": 1.0}),
        "uniform": (heads, UNIFORM),
        "collapsed": (heads, COLLAPSED),
        "crops": (copies, {}),
    }
    configs = {}
    for name, (data, objective) in kinds.items():
        sections = {**SECTIONS, "objective": {**SECTIONS["objective"], **objective}}
        sections["run"] = {**SECTIONS["run"], "steps": STEPS[name]}
        if name == "crops":
            sections["optim"] = {"base_lr": 1e-2}
            sections["data"] = {**SECTIONS["data"], "global_crop_mm": (56, 112)}
        configs[name] = small_config(data, **sections)
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(config.model_dump_json())
    (folder / "runs.py").write_text(RUNS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [*forked_python(), str(folder / "runs.py"), str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    collected = {}
    for name, config in configs.items():
        rows = list(recorded(folder / name))
        lasted, collapse = LearningAlarm(config).lasted(rows), Health(config).alarms(rows)
        for sign in lasted:
            assert f"since step {sign.first} {sign.sign.what} (" in result.stderr, (
                "the run logged the warning"
            )
            assert sign.sign.remedy(config) in result.stderr
        collected[name] = Ended(rows, {sign.sign.what for sign in lasted}, {alarm.sign for alarm in collapse})
    return collected


UNRECOGNISED = "two views of a volume are not recognised"
CROPS = "features encode the crop and not the volume"
ONE_DIRECTION = "the CLS tokens lie along one direction"


def late(run: Ended, name: str) -> float:
    """Mean of a figure in the last third of the steps."""
    values = [row[name] for row in run.figures[-len(run.figures) // 3 :] if name in row]
    return sum(values) / len(values)


def test_a_healthy_run_retrieves_volumes_and_raises_no_alarm(ended: dict[str, Ended]) -> None:
    sound = ended["sound"]
    assert sound.learning == set()
    assert sound.collapse == set()
    first = [row["retrieval"] for row in sound.figures[:4]]
    assert late(sound, "retrieval") > sum(first) / 4 + 0.1
    assert late(sound, "retrieval") > 5 * late(sound, "retrieval_chance")


def test_a_collapsed_run_is_reported(ended: dict[str, Ended]) -> None:
    assert ONE_DIRECTION in ended["collapsed"].learning
    assert "all volumes are assigned to one prototype" in ended["collapsed"].collapse


def test_a_uniform_run_is_reported(ended: dict[str, Ended]) -> None:
    uniform = ended["uniform"]
    assert UNRECOGNISED in uniform.learning
    assert "near-uniform teacher output" in uniform.collapse
    assert late(uniform, "retrieval") < late(ended["sound"], "retrieval") - 0.05


def test_a_run_that_learns_only_the_crop_is_reported_without_a_collapse(ended: dict[str, Ended]) -> None:
    crops = ended["crops"]
    assert crops.learning == {CROPS}
    assert crops.collapse == set(), "features and targets vary, but with the crop"
    assert late(crops, "feature_deviation") > 0.5
    assert late(crops, "retrieval") < 2 * late(crops, "retrieval_chance")
