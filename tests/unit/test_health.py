"""Alarms for provoked collapses."""

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from small_training import small_config
from torch import nn

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.views import Views
from fmct_hpc.objective.draws import draw
from fmct_hpc.objective.student import Student, Teacher
from fmct_hpc.objective.targets import Targets
from fmct_hpc.train.health import Health
from fmct_hpc.train.schedules import settings
from shards import FmctError

PATIENCE = 3


def make(collapse: Literal["warn", "stop"] = "warn", **objective: object) -> TrainConfig:
    health: dict[str, object] = {
        "patience": PATIENCE,
        "collapse": collapse,
        "max_skipped": 2,
        "not_finite": "skip",
    }
    return small_config(Path("unused"), objective=objective, health=health)


def figures_of(config: TrainConfig, student: Student, teacher: Teacher, views: Views) -> dict[str, float]:
    """The signs of a forward pass."""
    targets = Targets(config)
    drawn = draw(config, 0, np.arange(views.whole.shape[1]))
    now = settings(config, 0)
    scores = targets.of([teacher(views.whole, drawn, now)], 0.04)[0]
    return {name: float(value) for name, value in student(views, scores, drawn, now).health.items()}


def networks(config: TrainConfig) -> tuple[Student, Teacher]:
    torch.manual_seed(0)
    student, teacher = Student(config), Teacher(config)
    # Features that differ between volumes, as those of a trained model but not of a new one.
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "encoder" in name or "head" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    teacher.load_state_dict({name: student.state_dict()[name] for name in teacher.state_dict()})
    return student, teacher


def last_linear(network: nn.Module, layers: str) -> nn.Linear:
    layer = network.get_submodule(layers)
    assert isinstance(layer, nn.Sequential)
    last = layer[-1]
    assert isinstance(last, nn.Linear)
    return last


def messages(config: TrainConfig, figures: dict[str, float], caplog: pytest.LogCaptureFixture) -> list[str]:
    health = Health(config)
    with caplog.at_level(logging.WARNING):
        for step in range(1, PATIENCE + 1):
            assert not caplog.messages, "before the patience is over"
            health.step(step, figures)
    return caplog.messages


@pytest.fixture
def views() -> Views:
    torch.manual_seed(1)
    seen = torch.rand(3, 8, 3, 24, 24, 24) * torch.rand(3, 8, 3, 1, 1, 1)
    return Views(seen[:2], seen[2:])


def test_a_healthy_model_raises_no_alarm(views: Views, caplog: pytest.LogCaptureFixture) -> None:
    config = make()
    figures = figures_of(config, *networks(config), views)
    assert figures["prototypes_used"] > 1
    assert figures["feature_deviation"] > 0.1
    assert messages(config, figures, caplog) == []


def test_uniform_targets_raise_an_alarm(views: Views, caplog: pytest.LogCaptureFixture) -> None:
    config = make()
    student, teacher = networks(config)
    for network in (student, teacher):
        last = last_linear(network, "head.mlp")
        last.weight.data.zero_()
        last.bias.data.zero_()
    actual = messages(config, figures_of(config, student, teacher, views), caplog)
    assert any("near-uniform teacher output" in text for text in actual)
    assert any("does not depend on its input" in text for text in actual)


def test_one_prototype_for_all_raises_an_alarm(views: Views, caplog: pytest.LogCaptureFixture) -> None:
    config = make()
    student, teacher = networks(config)
    for network in (student, teacher):
        last_linear(network, "head.mlp").bias.data[0] = 1e4  # all bottleneck vectors have one direction
    [text] = [
        t for t in messages(config, figures_of(config, student, teacher, views), caplog) if "one proto" in t
    ]
    assert text.startswith(f"step {PATIENCE}: for {PATIENCE} steps all volumes are assigned to one prototype")


def test_one_feature_for_all_raises_an_alarm(views: Views, caplog: pytest.LogCaptureFixture) -> None:
    config = make()
    student, teacher = networks(config)
    norm = student.encoder.get_submodule("norm")
    assert isinstance(norm, nn.LayerNorm)
    norm.weight.data.zero_()
    norm.bias.data.fill_(1.0)
    actual = messages(config, figures_of(config, student, teacher, views), caplog)
    assert any("are nearly equal" in text for text in actual)


def test_collapsed_embeddings_of_lejepa_raise_an_alarm(
    views: Views, caplog: pytest.LogCaptureFixture
) -> None:
    config = make("stop", dino_weight=0, ibot_weight=0, lejepa_weight=1.0, lejepa_slices=64)
    torch.manual_seed(0)
    student = Student(config)
    drawn, now = draw(config, 0, np.arange(8)), settings(config, 0)

    def figures() -> dict[str, float]:
        return {name: float(value) for name, value in student(views, {}, drawn, now).health.items()}

    first = figures()
    assert first["lejepa_point"] < 0.85
    assert all(not sign.shows for part in config.parts for sign in part.signs(first, True))
    last = last_linear(student, "lejepa_projector.mlp")
    for parameter in last.parameters():
        parameter.data.mul_(0.1)
    point = figures() | {"feature_deviation": 1.0}
    assert point["lejepa_point"] == pytest.approx(1, abs=0.1)
    assert [sign.shows for part in config.parts for sign in part.signs(point, False)] == []
    health = Health(config)
    for step in range(1, PATIENCE):
        health.step(step, point)
    with pytest.raises(FmctError, match=r"one point.*a greater objective\.lejepa_lambda"):
        health.step(PATIENCE, point)


def test_a_transient_sign_resets_and_a_persistent_one_may_stop_the_run() -> None:
    sound = {"feature_deviation": 1.0}
    alike = {"feature_deviation": 0.0}
    health = Health(make("stop"))
    for step, figures in enumerate([alike, alike, sound, alike, alike], start=1):
        health.step(step, figures)
    with pytest.raises(FmctError, match=r"step 6: for 3 steps .*nearly equal.*sinkhorn"):
        health.step(6, alike)


def test_a_sign_persists_across_attempts() -> None:
    """Each attempt is shorter than the patience; skipped steps neither count nor interrupt."""
    alike, skipped = {"feature_deviation": 0.0}, {"skipped": 1.0}
    rows = [{"step": 1.0, "feature_deviation": 1.0}, {"step": 2.0} | alike, {"step": 3.0} | skipped]
    health = Health(make("stop"))
    health.lasting = health.lasted([*rows, {"step": 4.0} | alike])
    with pytest.raises(FmctError, match="step 5: for 3 steps the features of all volumes are nearly equal"):
        health.step(5, alike)


@pytest.mark.parametrize(("micro_batch", "rings"), [(1, False), (2, False), (4, True)])
def test_small_batches_are_not_compared(
    micro_batch: int, rings: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = make()
    config = config.model_copy(
        update={"engine": config.engine.model_copy(update={"micro_batch": micro_batch})}
    )
    figures = {"feature_deviation": 0.0, "prototypes_used": 1.0, "teacher_entropy": 1.0, "divergence": 0.0}
    actual = " ".join(messages(config, figures, caplog))
    assert ("one prototype" in actual) == ("nearly equal" in actual) == rings
    assert "does not depend on its input" in actual


def test_a_run_shorter_than_the_patience_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    config = small_config(Path("unused"), run={"steps": 40})
    assert config.health.patience > 40
    health = Health(config)
    for step in range(1, 41):
        health.step(step, {"feature_deviation": 0.0})
    assert [text.split(":")[0] for text in caplog.messages] == ["step 10", "step 20", "step 30", "step 40"]


def test_skipping_non_finite_steps_has_a_budget_and_stopping_has_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    health = Health(make())
    health.skip(1, "volumes of rank 1: k")
    health.skip(5, "volumes of rank 0: k")
    assert "skipped, 2 of at most 2" in caplog.messages[-1]
    with pytest.raises(FmctError, match=r"step 6.*health.max_skipped=2"):
        health.skip(6, "volumes of rank 0: k")
    strict = make().model_copy(update={"health": make().health.model_copy(update={"not_finite": "stop"})})
    with pytest.raises(FmctError, match=r"step 1: .*nothing was updated; volumes of rank 1: k; .*base_lr"):
        Health(strict).skip(1, "volumes of rank 1: k")


def test_alarms_recomputed_from_a_record_equal_those_of_the_run(caplog: pytest.LogCaptureFixture) -> None:
    generator = np.random.default_rng(0)
    sound = {"teacher_entropy": 1.0, "divergence": 1.0, "prototypes_used": 5.0, "skipped": 0.0}
    rows = [
        {**sound, "step": step, "feature_deviation": deviation, "divergence": divergence}
        for step, (deviation, divergence) in enumerate(
            generator.choice([0.0, 1.0], (300, 2), p=[0.7, 0.3]), 1
        )
    ]
    live = Health(make())
    with caplog.at_level(logging.WARNING):
        for row in rows:
            live.step(int(row["step"]), row)
    alarms = Health(make()).alarms(rows)
    assert len(alarms) > 20
    expected = [
        f"step {step}: for {step - alarm.first + 1} steps {alarm.sign}: the features collapse"
        for alarm in alarms
        for step in range(alarm.first + PATIENCE - 1, alarm.last + 1, PATIENCE)
    ]
    logged = [record.message.split("; if it lasts, restart with ") for record in caplog.records]
    assert sorted(what for what, _ in logged) == sorted(expected)
    assert all(remedy for _, remedy in logged)
