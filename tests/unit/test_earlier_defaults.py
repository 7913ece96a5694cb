"""Runs of an earlier version keep its defaults over any number of resumes."""

import json
from pathlib import Path
from typing import Any

import pytest

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.earlier_defaults import with_earlier_defaults

GIVEN: dict[str, dict[str, Any]] = {"data": {"path": "d"}, "model": {"size": "S"}}
NEWER = (("model", "input_mean"), ("model", "input_std"), ("model", "initialisation"), ("health", "every"))


def config(**sections: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate(
        {name: {**GIVEN.get(name, {}), **sections.get(name, {})} for name in GIVEN.keys() | sections.keys()}
    )


def record(run: Path, began: TrainConfig, *lacking: tuple[str, str]) -> None:
    document = began.model_dump(mode="json")
    for section, key in lacking:
        del document[section][key]
    run.mkdir(exist_ok=True)
    (run / "config.json").write_text(json.dumps(document))


def values(settings: TrainConfig) -> list[Any]:
    return [getattr(getattr(settings, section), key) for section, key in NEWER]


def test_a_run_of_0_1_0_keeps_its_defaults_over_several_resumes(tmp_path: Path) -> None:
    record(tmp_path, config(), *NEWER)
    for _ in range(3):
        actual = with_earlier_defaults(config(), tmp_path)
        assert values(actual) == [0.0, 1.0, "fixed", 0]
        record(tmp_path, actual)  # as every start does, with all keys


@pytest.mark.parametrize("lacking", [(), NEWER])
def test_explicit_values_override_earlier_defaults(
    tmp_path: Path, lacking: tuple[tuple[str, str], ...]
) -> None:
    began = config(
        model={"input_mean": 0.0, "input_std": 1.0, "initialisation": "fixed"}, health={"every": 0}
    )
    record(tmp_path, began, *lacking)
    given = config(model={"input_mean": 0.5, "initialisation": "fan_in"})
    assert values(with_earlier_defaults(given, tmp_path)) == [0.5, 1.0, "fan_in", 0]


def test_a_run_of_this_version_keeps_its_defaults(tmp_path: Path) -> None:
    record(tmp_path, config())
    assert with_earlier_defaults(config(), tmp_path) == config()
    (tmp_path / "config.json").write_text("{")
    assert with_earlier_defaults(config(), tmp_path) == config()
    assert with_earlier_defaults(config(), tmp_path / "absent") == config()
