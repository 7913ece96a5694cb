"""The cells of a study: for each objective the recipe's number of draws and pretrainings."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from launch.study.config import StudyConfig
from launch.study.plan import all_cells, plan
from launch.study.reduced import reduced_study

RECIPE = Path(__file__).parents[2] / "launch" / "recipes" / "study.yaml"


def test_draws_are_distributed_among_pretrainings_and_may_be_fewer() -> None:
    config = StudyConfig.model_validate(
        {
            **yaml.safe_load(RECIPE.read_text()),
            **{"seeds": [0, 1, 2, 3, 4], "fractions": [0.1, 1.0], "sizes": [100, 8000], "reduced": {}},
            "objectives": {
                "mae": {"train": {}, "pretrainings": 2},
                "dino": {"train": {}, "draws": 3, "finetune": {"most_positive_weight": 3}},
                "both": {"train": {}, "pretrainings": 3, "draws": 2},
            },
        }
    )
    assert config.finetuning("dino").max_positive_weight == 3  # by its old name
    large = [group for group in plan(config) if group.size == 8000]
    seeds = {group.name: sorted({cell.seed for cell in group.cells}) for group in large}
    assert seeds == {
        **{"mae-8000-0": [0, 2, 4], "mae-8000-1": [1, 3]},
        "dino-8000-0": [0, 1, 2],
        **{"both-8000-0": [0], "both-8000-1": [1]},
    }
    cells = all_cells(config)
    assert len({cell.file_name for cell in cells}) == len(cells)
    # The size at which fractions are compared has all, the other size one; scratch has every draw.
    few = {(cell.arm, cell.fraction) for cell in cells if cell.size == 100}
    assert few == {("mae", 0.1), ("dino", 0.1), ("both", 0.1)}
    scratch = [cell for cell in cells if cell.arm == "scratch"]
    assert len(scratch) == len(config.seeds) * len(config.fractions)


@pytest.mark.parametrize(
    ("section", "key"),
    [({"model": {"depth": 2}}, "model"), ({"data": {"windows": [[600, 2800]]}}, "windows")],
)
def test_objectives_with_different_inputs_are_refused(section: dict[str, dict[str, Any]], key: str) -> None:
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["objectives"]["dino"]["train"].setdefault(next(iter(section)), {}).update(*section.values())
    with pytest.raises(ValidationError, match=f"objectives must not differ in .*{key}"):
        StudyConfig.model_validate(recipe)


def test_parts_of_an_objective_are_objectives_of_the_study() -> None:
    for name in ("mae", "joint"):
        with pytest.raises(ValidationError, match=rf"objectives.joint.parts: {name} is no other objective"):
            StudyConfig.model_validate({"objectives": {"joint": {"train": {}, "parts": [name]}}})


def test_a_reduced_study_is_a_subset_with_the_same_encoders() -> None:
    whole = StudyConfig.model_validate(
        {
            **{"sizes": [100, 300], "cohort": {"unlabelled": 300, "labelled": 100}, "seeds": [0, 1, 2]},
            "objectives": {
                **{"dino": {"train": {}}, "mae": {"train": {}, "pretrainings": 2}},
                "joint": {"train": {"run": {"steps": 50}}, "parts": ["dino", "mae"]},
            },
            "reduced": {"objectives": ["joint", "mae"], "draws": 2},
        }
    )
    reduced = reduced_study(whole)
    assert StudyConfig.model_validate(reduced.model_dump()) == reduced
    assert {cell.file_name for cell in all_cells(reduced)} < {cell.file_name for cell in all_cells(whole)}
    assert {group.name for group in plan(reduced)} == {
        *("joint-300-0", "mae-300-0", "mae-300-1", "untrained-0", "untrained-1", "mean", "thumbnail")
    }
    recipes = [study.recipe("joint", 300, Path("data"), 1) for study in (whole, reduced)]
    assert recipes[0] == recipes[1]
    with pytest.raises(ValidationError, match=r"reduced.objectives: ibot is no objective of the study"):
        StudyConfig.model_validate({**whole.model_dump(), "reduced": {"objectives": ["ibot"]}})
