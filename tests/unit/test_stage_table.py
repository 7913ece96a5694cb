"""The table of `fmct launch status`: stages in order, each by its last job, for any scheduler."""

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from small_training import small_config
from test_status import DATA

from fmct_hpc.train.attempts import begin
from launch.commands.cluster import Stage
from launch.jobs.requeue import Ending
from launch.jobs.stage_table import ORDER, Row, stage_rows
from launch.jobs.watch import overviews_of
from launch.scheduler import Job, JobFacts, JobStart, Scheduler
from launch.slurm.scheduler import dependencies
from preprocess.tasks.plan import Plan, Task
from shards.listed import register_files

NOW = datetime.now(UTC)


class Known(Scheduler):
    """A scheduler with these jobs, and with accounting of others; it runs none."""

    title = "it"

    def __init__(self, *jobs: JobFacts, past: Mapping[str, str] | None = None) -> None:
        self.jobs, self.past = jobs, past or {}

    def submit_one(self, job: Job, folder: Path, numbers: dict[str, str]) -> str:
        raise NotImplementedError

    def script(self, job: Job, folder: Path, numbers: dict[str, str]) -> str:
        raise NotImplementedError

    def jobs_known(self, number: str | None = None) -> list[JobFacts]:
        return [job for job in self.jobs if number in (None, job.array)]

    def job_starts(self, numbers: list[str]) -> list[JobStart]:
        return [JobStart(n, self.past[n], "0:0", None, None, "") for n in numbers if n in self.past]

    def cancel(self, number: str) -> None:
        raise NotImplementedError

    def requeue(self, number: str) -> None:
        raise NotImplementedError


def submitted(folder: Path, number: str, name: str) -> None:
    (folder / "slurm").mkdir(parents=True, exist_ok=True)
    (folder / f"slurm/{number}_submission.sh").write_text(
        f"#!/bin/bash\n#SBATCH --job-name={name}-01234567\n"
    )


def rows(folder: Path, *jobs: JobFacts, past: Mapping[str, str] | None = None) -> list[Row]:
    return stage_rows(overviews_of(folder, Known(*jobs, past=past)))


def test_a_pipeline_is_shown_by_stage_with_dependencies(tmp_path: Path) -> None:
    data, run, probe = (tmp_path / name for name in ("data", "run", "probe"))
    for folder, number, name in (
        *(
            (tmp_path, "16", "report"),
            (tmp_path, "10", "scan"),
            (data, "8", "preprocess"),
            (data, "11", "plan"),
        ),
        *((data, "12", "preprocess"), (data, "13", "collect"), (run, "14", "train"), (probe, "15", "probe")),
    ):
        submitted(folder, number, f"fmct-{name}")
    (tmp_path / "done").mkdir()
    (tmp_path / "done/fmct-scan-01234567").touch()
    (data / "tasks").mkdir()
    start = datetime.now(UTC) - timedelta(minutes=9.3)  # 3 of the 4 tasks: 6.2 minutes for 2
    for task, age in enumerate((4000, 400, 300, 200)):  # the first by an earlier job
        marker = data / f"tasks/{task:05d}-0123abcd.json"
        marker.touch()
        os.utime(marker, (time.time() - age,) * 2)
    plan = Plan(settings="0" * 64, tasks=tuple(Task(digest=f"{n:064}", rows=()) for n in range(6)))
    (data / "tasks/plan.json").write_text(plan.model_dump_json())
    array = [
        JobFacts(f"12_{n}", "fmct-preprocess-01234567", "RUNNING", start=start, restarts=n) for n in (0, 1)
    ]
    waiting = [
        JobFacts("13", "fmct-collect-01234567", "PENDING", "Dependency", waits=("12",)),
        JobFacts("14", "fmct-train-01234567", "PENDING", "Dependency", waits=("13",)),
        JobFacts("15", "fmct-probe-01234567", "PENDING", "DependencyNeverSatisfied", waits=("14", "9")),
        JobFacts("16", "fmct-report-01234567", "PENDING", "Priority"),
    ]
    actual = rows(
        tmp_path,
        *array,
        JobFacts("12_[2-3]", "fmct-preprocess-01234567", "PENDING", "Resources"),
        *waiting,
        past={"11": "COMPLETED"},
    )
    assert [tuple(row) for row in actual] == [
        ("scan", "done", "", "", "", "10"),
        ("plan", "done", "", "", "", "11"),
        ("preprocess", "running", "4 of 6 tasks", "Resources", "6 min", "12, queued again 1x"),
        ("collect", "pending", "", "preprocess", "", "13"),
        ("train", "pending", "", "collect", "", "14"),
        ("probe", "pending", "", "train, job 9, DependencyNeverSatisfied", "", "15"),
        ("report", "pending", "", "Priority", "", "16"),
    ]


def test_a_training_has_its_steps_and_a_failed_array_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    with monkeypatch.context() as patch:
        for name, value in {"JOB_ID": "12", "PROCID": "0"}.items():
            patch.setenv(f"SLURM_{name}", value)
        began = begin(run, small_config(Path("data")), DATA, ["n1"], 5).began.timestamp()
    (run / "metrics.jsonl").write_text("".join(f'{{"step": {s}, "loss": 1.25}}\n' for s in range(1, 16)))
    os.utime(run / "metrics.jsonl", (began + 20,) * 2)
    [train] = rows(run, JobFacts("12", "fmct-train", "RUNNING", start=NOW, restarts=2))
    # Ten steps in twenty seconds.
    assert train == ("train", "running", "15 of 20 steps", "", "10 s", "12, queued again 2x")
    submitted(other, "7", "fmct-x")
    ends = [Ending(job="7_1", start=n, at=NOW, cause="crash") for n in (0, 1)]
    (other / "slurm/7_1.endings.jsonl").write_text("".join(f"{e.model_dump_json()}\n" for e in ends))
    tasks = [JobFacts(f"7_{n}", "fmct-x", state) for n, state in enumerate(("COMPLETED", "FAILED"))]
    assert rows(other, *tasks) == [Row("x", "failed (crash)", "1 of 2 tasks", "", "", "7, queued again 1x")]
    [running] = rows(other, *tasks, JobFacts("7_[3,5-6]", "fmct-x", "PENDING"))
    assert running[:3] == ("x", "pending, 1 of its tasks failed (crash)", "1 of 5 tasks")


@pytest.mark.parametrize("stage", ["segment-array", "robustness-array", "relevance-array", "features-array"])
def test_an_array_of_listed_files_has_the_time_left_at_its_own_rate(tmp_path: Path, stage: str) -> None:
    files = [tmp_path / f"units/{number}.json" for number in range(6)]
    register_files(tmp_path, files)
    now = time.time()
    for file, seconds in zip(files, (5000, 600, 300), strict=False):  # one was done by an earlier job
        file.parent.mkdir(exist_ok=True)
        file.touch()
        os.utime(file, (now - seconds,) * 2)
    submitted(tmp_path, "12", f"fmct-{stage}")
    began = datetime.fromtimestamp(now - 1000, UTC)
    [row] = rows(tmp_path, JobFacts("12_0", f"fmct-{stage}", "RUNNING", start=began))
    assert row.done == "3 of 6 units"
    assert 25 <= int(row.left.removesuffix(" min")) < 35


def test_every_stage_has_a_position_in_the_order() -> None:
    assert [stage for stage in ORDER if stage in get_args(Stage)] == list(get_args(Stage))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("(null)", ()),
        ("afterok:11(unfulfilled)", ("11",)),
        ("afterok:11(unfulfilled),afterany:12_*(unfulfilled),afterok:13(failed)", ("11", "12", "13")),
    ],
)
def test_slurm_dependencies_are_job_numbers(text: str, numbers: tuple[str, ...]) -> None:
    assert dependencies(text) == numbers
