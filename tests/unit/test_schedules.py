import math
from itertools import pairwise

import pytest
from pydantic import ValidationError

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.schedules import settings


def config(**changes: dict[str, object]) -> TrainConfig:
    values: dict[str, object] = {"data": {"path": "unused"}, "run": {"steps": 1000, "batch": 512}}
    return TrainConfig.model_validate({**values, **changes})


def test_the_rate_rises_to_the_batch_scaled_peak_and_falls_to_its_end() -> None:
    rates = [settings(config(), step).lr for step in range(1000)]
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (99, 100)
    assert all(a < b for a, b in pairwise(rates[:100]))
    assert all(a > b for a, b in pairwise(rates[100:]))
    assert rates[0] == pytest.approx(1e-5)
    assert rates[-1] == pytest.approx(1e-6, rel=0.01)


def test_other_schedules_go_from_start_to_end_value() -> None:
    objective = {"teacher_temperature": [0.02, 0.06], "teacher_warmup": 0.5, "freeze_prototypes": 0.01}
    first, middle, last = (settings(config(objective=objective), step) for step in (0, 500, 999))
    assert (first.momentum, first.weight_decay, first.teacher_temperature) == (0.994, 0.04, 0.02)
    assert middle.weight_decay == pytest.approx(0.22)
    assert (middle.teacher_temperature, last.teacher_temperature) == (0.06, 0.06)
    assert last.momentum == pytest.approx(1, abs=1e-7)
    frozen = [settings(config(objective=objective), step).freeze_prototypes for step in range(12)]
    assert frozen == [True] * 10 + [False] * 2


def test_configured_part_weights_move_to_their_end_and_others_stay() -> None:
    objective = {"mae_weight": 2.0, "koleo_weight": 0.1, "final_weights": {"mae": 0.5}}
    first, middle, last = (settings(config(objective=objective), step).weights for step in (0, 500, 999))
    assert first == {"dino": 1.0, "koleo": 0.1, "mae": 2.0}
    assert middle == pytest.approx({"dino": 1.0, "koleo": 0.1, "mae": 1.25})
    assert last["mae"] == pytest.approx(0.5, abs=1e-4)
    assert settings(config(objective=objective), 0).figures()["mae_weight"] == 2.0


def test_part_weights_warm_up_from_0() -> None:
    objective = {"koleo_weight": 0.1, "final_weights": {"koleo": 0.0}, "weight_warmups": {"koleo": 0.2}}
    weights = [settings(config(objective=objective), step).weights for step in range(1000)]
    assert {weight["dino"] for weight in weights} == {1.0}, "others are unchanged"
    assert weights[0]["koleo"] == 0
    for step in (1, 50, 150):
        along = 0.1 * (1 + math.cos(math.pi * step / 1000)) / 2
        assert weights[step]["koleo"] == pytest.approx(along * step / 200)
    whole = config(objective={**objective, "weight_warmups": {}})
    assert [weight["koleo"] for weight in weights[200:]] == [
        settings(whole, step).weights["koleo"] for step in range(200, 1000)
    ]
    assert settings(config(objective=objective), 100).figures()["koleo_weight"] == weights[100]["koleo"]


def test_gram_anchoring_starts_late_and_refreshes_at_equal_intervals() -> None:
    objective = {"gram_weight": 2, "gram_begin": 0.3, "gram_refresh": 0.25, "weight_warmups": {"gram": 0.1}}
    settled = TrainConfig.model_validate(
        {"data": {"path": "d"}, "objective": objective, "run": {"steps": 100}}
    )
    weights = [settings(settled, step).weights["gram"] for step in range(100)]
    assert weights[:31] == [0.0] * 31
    assert weights[35] == pytest.approx(1.0)
    assert weights[40:] == [2.0] * 60
    (gram,) = (part for part in settled.parts if part.anchored)
    assert [step for step in range(100) if gram.refreshes(step)] == [30, 55, 80]
    with pytest.raises(ValidationError, match="gram_weight needs a teacher"):
        TrainConfig.model_validate({"data": {"path": "d"}, "objective": {"gram_weight": 2, "dino_weight": 0}})


@pytest.mark.parametrize("begin", [0.0, 0.07, 0.3, 0.5, 0.55, 0.999])
def test_the_anchor_is_the_teacher_at_the_first_step_of_gram_anchoring(begin: float) -> None:
    for steps in range(2, 120):
        objective = {"gram_weight": 2, "gram_begin": begin}
        short = TrainConfig.model_validate(
            {"data": {"path": "d"}, "objective": objective, "run": {"steps": steps}}
        )
        (gram,) = (part for part in short.parts if part.anchored)
        refreshed = [step for step in range(steps) if gram.refreshes(step)]
        counts = [step for step in range(steps) if settings(short, step).weights["gram"]]
        assert refreshed[:1] == counts[:1], steps
