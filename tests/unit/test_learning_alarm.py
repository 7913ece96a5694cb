"""Alarms for signs that a run does not learn: when, with which remedy, and the same from a record."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_training import small_config

from fmct_hpc.config import TrainConfig
from fmct_hpc.objective.spread import remedy
from fmct_hpc.train.evaluations import FIRST_EVALUATIONS, evaluates
from fmct_hpc.train.learning_alarm import LearningAlarm, judged
from fmct_hpc.train.learning_signs import SIGNS
from shards.errors import UnhealthyRunError

EVERY, WINDOW = 10, 4
START = {
    **{
        "retrieval": 0.2,
        "retrieval_chance": 0.0625,
        "crop_likeness": 0.1,
        "cls_rank": 5.0,
        "patch_rank": 20.0,
    },
    **{"patch_similarity": 0.5, "tissue_dropped": 0.01, "probe_linear": 0.6, "probe_knn": 0.6},
}
SOUND = {**START, "retrieval": 0.8, "cls_rank": 12.0, "probe_linear": 0.8, "probe_knn": 0.7}
SICK: dict[str, dict[str, float]] = {
    "two views of a volume are not recognised": {"retrieval": 0.22},
    "features encode the crop and not the volume": {"retrieval": 0.22, "crop_likeness": 0.5},
    "the CLS tokens lie along one direction": {"cls_rank": 1.2},
    "the patch tokens lie along one direction": {"patch_rank": 1.2},
    "the patch tokens of a view become similar": {"patch_similarity": 0.75},
    "tissue is in patches that are not encoded": {"tissue_dropped": 0.1},
    "the online probe does not improve": {"probe_linear": 0.58, "probe_knn": 0.6},
}


def make(**sections: dict[str, Any]) -> TrainConfig:
    health = {"every": EVERY, "patience": EVERY * WINDOW, **sections.pop("health", {})}
    run: dict[str, object] = {"steps": 1000, "batch": 16}
    return small_config(Path("unused"), health=health, run=run, **sections)


def rows(*figures: dict[str, float]) -> list[dict[str, float]]:
    """The first evaluations, then consecutive ones."""
    first = [{"step": float(step), **START} for step in range(1, FIRST_EVALUATIONS + 1)]
    return first + [{"step": EVERY * (n + 1.0), **row} for n, row in enumerate(figures)]


def alarms(config: TrainConfig, *figures: dict[str, float]) -> set[str]:
    return {alarm.sign.what for alarm in LearningAlarm(config).lasted(rows(*figures))}


@pytest.mark.parametrize("sign", SIGNS, ids=lambda sign: sign.needs[0] + sign.what[:12])
def test_each_sign_alone_raises_its_alarm_after_the_patience_with_a_remedy(
    sign: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sick = SOUND | SICK[sign.what]
    before = [SOUND] * WINDOW
    assert alarms(make(), *before, *[sick] * WINDOW) == {sign.what}
    assert alarms(make(), *before, *[SOUND] * 20) == set()
    alarm = LearningAlarm(make())
    with caplog.at_level(logging.WARNING):
        for row in rows(*before, *[sick] * (3 * WINDOW)):
            alarm.step(int(row["step"]), row)
    assert 1 < len(caplog.messages) <= 4, "once per patience, not at each evaluation"
    remedy = sign.remedy(make())
    assert all(sign.what in text and remedy in text for text in caplog.messages)
    keys = {word.strip("(),.") for word in remedy.split() if word.count(".") == 1 and "=" not in word}
    sections = {"data", "model", "objective", "optim", "run"}
    for section, key in (word.strip(",").split(".") for word in keys if word.split(".")[0] in sections):
        assert key in type(getattr(make(), section)).model_fields, f"{section}.{key}"


@pytest.mark.parametrize(
    ("objective", "absent", "present"),
    [
        (
            {},
            (),
            ("objective.centring=sinkhorn", "some objective.koleo_weight", "some objective.gram_weight"),
        ),
        (
            {"centring": "sinkhorn", "koleo_weight": 0.1, "gram_weight": 1.0},
            ("centring", "some objective.koleo_weight", "some objective.gram_weight"),
            ("a greater objective.koleo_weight", "a greater objective.gram_weight"),
        ),
        (
            {"dino_weight": 0, "ibot_weight": 0, "lejepa_weight": 1.0},
            ("centring", "teacher_temperature", "a lower objective.koleo_weight", "gram_weight"),
            ("a greater objective.lejepa_lambda", "some objective.koleo_weight"),
        ),
    ],
    ids=["defaults", "set already", "LeJEPA"],
)
def test_remedies_suggest_no_setting_already_in_use(
    objective: dict[str, Any], absent: tuple[str, ...], present: tuple[str, ...]
) -> None:
    config = make(objective=objective)
    texts = [sign.remedy(config) for sign in SIGNS] + [remedy(config)]
    assert [word for word in absent if any(word in text for text in texts)] == []
    assert [word for word in present if not any(word in text for text in texts)] == []
    assert remedy(config).startswith("a lower optim.base_lr, ")


def test_one_bad_evaluation_raises_no_alarm() -> None:
    assert alarms(make(), *[SOUND, SOUND, SOUND, SOUND | {"retrieval": 0.1}] * 5) == set()


def test_an_incomplete_window_raises_no_alarm() -> None:
    sick = SOUND | {"cls_rank": 1.0}
    assert alarms(make(), *[sick] * (WINDOW - 1)) == set()
    actual = LearningAlarm(make()).lasted(rows(*[sick] * (WINDOW + 2)))
    assert [(sign.first, sign.last) for sign in actual] == [(EVERY, EVERY * (WINDOW + 2))]


def test_high_retrieval_from_the_start_raises_no_alarm() -> None:
    begun = [{"step": float(step), **START, "retrieval": 0.95} for step in range(1, FIRST_EVALUATIONS + 1)]
    going = [row for row in rows(*[SOUND | {"retrieval": 0.9}] * 8) if row["step"] > FIRST_EVALUATIONS]
    assert LearningAlarm(make()).lasted(begun + going) == []


def test_views_are_judged_only_where_an_objective_compares_them() -> None:
    sick = SOUND | {"retrieval": 0.1, "cls_rank": 1.5}
    alone = {"dino_weight": 0, "ibot_weight": 0, "mae_weight": 1}
    assert len(alarms(make(), *[sick] * 8)) == 2
    assert alarms(make(objective=alone), *[sick] * 8) == set()


def test_a_resumed_run_raises_the_alarms_of_an_uninterrupted_one(caplog: pytest.LogCaptureFixture) -> None:
    generator = np.random.default_rng(0)
    record = rows(
        *(
            SOUND | {"retrieval": float(r), "cls_rank": float(c)}
            for r, c in zip(generator.uniform(0, 0.5, 60), generator.uniform(1, 5, 60), strict=True)
        )
    )
    plain = [{"step": row["step"] + 0.5, "loss": 1.0} for row in record]
    texts = []
    for cut in (0, 23, 40):
        caplog.clear()
        alarm = LearningAlarm(make())
        alarm.resume(judged([*record[:cut], *plain[:cut]]))
        assert not caplog.messages
        with caplog.at_level(logging.WARNING):
            for row in record[cut:]:
                alarm.step(int(row["step"]), row)
        texts.append(caplog.messages[:])
    assert len(texts[0]) > 5
    for later in texts[1:]:
        assert later == texts[0][-len(later) :]


def test_collapse_stop_ends_the_run() -> None:
    alarm = LearningAlarm(make(health={"collapse": "stop"}))
    *before, last = rows(*[SOUND | {"cls_rank": 1.0}] * WINDOW)
    for row in before:
        alarm.step(int(row["step"]), row)
    with pytest.raises(UnhealthyRunError, match=r"since step 10 the CLS tokens .*cls_rank 1.*koleo_weight"):
        alarm.step(int(last["step"]), last)


def test_evaluations_are_at_the_start_at_intervals_and_at_the_end() -> None:
    config = small_config(Path("unused"), run={"steps": 1003}, health={"every": 100})
    actual = [step for step in range(1, 1004) if evaluates(config, step)]
    assert actual == [1, 2, 3, 4, *range(62, 1003, 62), 1003], "at least four in the patience"
    none = small_config(Path("unused"), run={"steps": 50}, health={"every": 0})
    assert not any(evaluates(none, step) for step in range(1, 51))


@pytest.mark.parametrize(
    ("objective", "judged_by_views"),
    [
        ({}, True),
        ({"dino_weight": 0, "lejepa_weight": 1}, True),
        ({"dino_weight": 0, "koleo_weight": 0.1}, False),
    ],
)
def test_view_retrieval_is_judged_only_if_a_part_relates_views(
    objective: dict[str, Any], judged_by_views: bool
) -> None:
    sick = SOUND | SICK["two views of a volume are not recognised"]
    config = make(objective={"ibot_weight": 0, **objective})
    actual = alarms(config, *[SOUND] * WINDOW, *[sick] * 2 * WINDOW)
    assert actual == ({"two views of a volume are not recognised"} if judged_by_views else set())


def test_records_between_evaluations_do_not_prolong_a_sign() -> None:
    """The online probe also runs at regular checkpoints."""
    sick = SOUND | SICK["the online probe does not improve"]
    config = make()
    between = [{"step": EVERY * WINDOW + EVERY * n / 5.0, **sick} for n in range(1, 5)]
    assert LearningAlarm(config).lasted([*rows(*[SOUND] * WINDOW), *between * 10]) == []
