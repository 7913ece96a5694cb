"""Records of steps: log lines with the time left, and TensorBoard's groups."""

import logging
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fmct_hpc.train.pace import FIRST_LINE_SECONDS, LINE_EVERY_SECONDS, Pace, duration, shown
from fmct_hpc.train.records import Records


def test_lines_are_logged_first_last_periodically_and_after_a_minute() -> None:
    now = 0.0
    pace = Pace(1000, 10, lambda: now)
    logged = {}
    for step in range(1, 26):
        now += 300.0 if step == 1 else 2.0  # the first compiles
        if (left := pace.step(step)) is not None:
            logged[step] = left
    assert logged == {1: "", 10: "33 min", 20: "32 min"}
    now += LINE_EVERY_SECONDS
    assert pace.step(26) is not None
    assert Pace(3, 10, lambda: now).step(3) == ""


def test_a_fit_logs_after_ten_seconds_and_then_every_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    with caplog.at_level(logging.INFO):
        for step in shown(range(100), 100, "a fit", lambda: now[0]):
            assert step == now[0]
            now[0] += 1.0
        assert list(shown("ab", 2, "a short one", lambda: now[0])) == ["a", "b"]
    first, later = int(FIRST_LINE_SECONDS), int(FIRST_LINE_SECONDS + LINE_EVERY_SECONDS)
    assert caplog.messages == [
        f"a fit: step {done} of 100, ETA {duration(100 - done)}" for done in (first, later)
    ]


@pytest.mark.parametrize(("seconds", "text"), [(40.2, "40 s"), (300, "5 min"), (11_520, "3 h 12 min")])
def test_durations_are_formatted(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_tensorboard_tags_are_grouped_and_the_log_has_an_eta(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = Records(tmp_path, 0, 100, 2)
    groups = {"loss": "loss", "mae": "loss", "mae_weight": "schedule", "lr": "schedule"}
    groups |= {"cls_rank": "health", "data_wait": "time", "mfu": "time"}
    with caplog.at_level(logging.INFO):
        for step in (1, 2):
            records.step(step, dict.fromkeys(groups, 1.0))
    records.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {f"{group}/{name}" for name, group in groups.items()}
    lines = [line for line in caplog.messages if line.startswith("step ")]
    assert ["ETA" in line for line in lines] == [False, True]
