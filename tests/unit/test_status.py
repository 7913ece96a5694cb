"""`fmct launch status` with complete, partial or no answers of Slurm, by fake commands on the PATH."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from small_training import small_config
from typer.testing import CliRunner

from fmct_hpc.train import attempts
from fmct_hpc.train.attempts import begin, conclude, note_failure
from fmct_hpc.train.checkpoint import DataFacts, checkpoint_path
from fmct_hpc.train.figures import recorded
from launch.commands.watch import watch_app
from launch.jobs.requeue import Ending
from launch.jobs.status import status
from launch.jobs.watch import newest_log, overviews_of
from launch.slurm.scheduler import Slurm as Answering
from shards.errors import FmctError

DATA = DataFacts(
    content_digest="c", dataset_digest="d", preprocess_digest="p", spacing_mm=(1, 1, 1), shards_digest="s"
)
JOB = """\
JobId=12 JobName=fmct train
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   JobState={state} Reason={reason} Dependency=(null)
   Requeue=1 Restarts={restarts} BatchFlag=1 Reboot=0 ExitCode=0:0
   StartTime=2026-11-24T23:41:04 EndTime=2026-11-24T23:51:04 Deadline=N/A
   NodeList=n[1-2]
   Command=/somewhere/train.sbatch --run first run.steps=40 NAME=VALUE
   WorkDir=/somewhere
   StdOut=/somewhere/fmct-train-12.out
"""
SILENT = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"
NO_ACCOUNTING = "echo 'Slurm accounting storage is disabled' >&2; exit 1"


class Slurm:
    """Fakes of Slurm's commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.job(None)
        self.set_output("squeue", "")
        self.set_output("sacct", NO_ACCOUNTING)

    def set_output(self, command: str, script: str) -> None:
        path = self.folder / command
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def job(self, state: str | None, restarts: int = 0, reason: str = "None") -> None:
        """The output of scontrol for the only job; None: it no longer knows it."""
        script = "case $* in 'show job 12') cat <<'END'\n{}\nEND\n;; *) exit 1;; esac"
        text = JOB.format(state=state, restarts=restarts, reason=reason)
        forgotten = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
        self.set_output("scontrol", script.format(text) if state else forgotten)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return Slurm(tmp_path / "bin")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose attempt, in job 12, has completed 9 steps and saved at step 6."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        for name, value in {"JOB_ID": "12", "PROCID": "0", "JOB_NODELIST": "n[1-2]"}.items():
            patch.setenv(f"SLURM_{name}", value)
        begin(run, small_config(Path("data")), DATA, ["n1", "n2"], 0)
    checkpoint_path(run, 6).mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(f'{{"step": {s}, "loss": 1.25}}\n' for s in range(1, 10)))
    return run


def status_lines(folder: Path) -> list[str]:
    """The lines after the table of stages (test_stage_table.py)."""
    with redirect_stdout(StringIO()) as shown:
        status(folder, Answering())
    return [line for line in shown.getvalue().splitlines() if not line.startswith("stage ")]


def test_a_running_job_shows_node_step_loss_and_checkpoint(run: Path, slurm: Slurm) -> None:
    slurm.job("RUNNING")
    head, attempt, job = status_lines(run)
    assert head == f"{run}: running, step 9 of 20, loss 1.25, newest checkpoint at step 6"
    assert attempt.startswith("attempt 1, job 12.0, started ")
    assert attempt.endswith("nodes n[1-2], ranks 2, steps 1-9, state running")
    assert job == "job 12, name fmct train, state RUNNING, restarts 0, nodes n[1-2]"
    assert attempts.attempts(run)[0].ended is None


def test_a_stalled_run_is_reported(run: Path, slurm: Slurm) -> None:
    slurm.job("RUNNING")
    os.utime(run / "metrics.jsonl", (time.time() - 400,) * 2)
    assert "running, step 9 of 20 (6 min ago), loss" in status_lines(run)[0]


def test_a_requeued_job_shows_the_cause_and_the_lost_steps(run: Path, slurm: Slurm) -> None:
    slurm.job("PENDING", restarts=1, reason="BeginTime")
    slurm.set_output("sacct", 'echo "12|NODE_FAIL|0:0|2026-11-24T23:40:38|2026-11-24T23:40:39|n1"')
    head, attempt, job = status_lines(run)
    assert "restart after: node failure: Slurm: NODE_FAIL, step 9 of 20" in head
    assert attempt.endswith("steps 1-9, lost 3, state node failure: Slurm: NODE_FAIL")
    assert job.endswith("reason BeginTime, not before 23:41:04")
    assert attempts.attempts(run)[0].cause == "node failure", "the cause is recorded"


def test_without_slurmctld_the_records_of_the_run_are_shown(run: Path, slurm: Slurm) -> None:
    slurm.set_output("scontrol", SILENT)
    slurm.set_output("squeue", SILENT)
    head, _, unknown = status_lines(run)
    assert head == f"{run}: unknown, step 9 of 20, loss 1.25, newest checkpoint at step 6"
    assert unknown.startswith("unknown: ")
    assert "Slurm does not answer" in unknown
    assert attempts.attempts(run)[0].ended is None, "nothing is guessed"


def test_without_accounting_an_unknown_job_is_shown_as_killed(run: Path, slurm: Slurm) -> None:
    head, _, unknown = status_lines(run)
    assert head.startswith(f"{run}: killed: ")
    assert unknown.startswith("unknown: ")
    assert "job 12 " in unknown
    assert "accounting does not answer" in unknown


@pytest.mark.parametrize("accounting", [True, False])
def test_a_cancelled_job_is_reported_with_and_without_accounting(
    run: Path, slurm: Slurm, accounting: bool
) -> None:
    attempts.end(run, attempts.attempts(run)[0], 9, "SIGTERM")
    if accounting:
        slurm.set_output("sacct", 'echo "12|CANCELLED by 0|0:0|2026-11-24T23:40:38|2026-11-24T23:40:39|n1"')
    else:
        slurm.job("CANCELLED")
    assert " cancelled: SIGTERM, step 9 of 20" in status_lines(run)[0]


def test_a_pending_job_of_an_sbatch_file_is_found_by_its_command(tmp_path: Path, slurm: Slurm) -> None:
    (tmp_path / "first").mkdir()
    assert status_lines(tmp_path / "first") == [
        f"{tmp_path / 'first'}: no recorded attempts and no known jobs"
    ]
    slurm.set_output(
        "squeue",
        f'echo "12|PENDING|Priority|fmct-train|{tmp_path}|/some/train.sbatch --run first run.steps=40"',
    )
    slurm.job("PENDING", reason="Priority")
    assert status_lines(tmp_path / "first")[-1].endswith(
        "state PENDING, restarts 0, nodes n[1-2], pending reason Priority"
    )


@pytest.mark.parametrize(
    ("name", "command", "ours"),
    [
        ("mine", "/some/train.sbatch --config r.yaml --run=first", True),
        ("fmct-train", "/some/train-of-mine.sh --run elsewhere --run first run.steps=40", True),
        ("fmct-preprocess", "/some/preprocess.sbatch catalog.parquet --out first", True),
        ("fmct-train", "/some/train.sbatch --run second run.start_from=first", False),
        ("fmct-train", "/some/train.sbatch --run first --config r.yaml --run second", False),
        ("fmct-preprocess", "/some/preprocess.sbatch first --out second", False),
        ("fmct-report", "/some/report.sbatch page.html --run first", False),
        ("fmct-probe", "/some/probe.sbatch --out first", False),
        ("backup", "/home/me/backup.sh --from first --out first --run first", False),
        ("train", "/home/me/train.sh --run first", False),
        ("fmct-train", "", False),
    ],
)
def test_only_jobs_that_write_a_folder_belong_to_it(
    tmp_path: Path, slurm: Slurm, name: str, command: str, ours: bool
) -> None:
    (tmp_path / "first").mkdir()
    slurm.set_output("squeue", f'echo "12|RUNNING|None|{name}|{tmp_path}|{command}"')
    slurm.job("RUNNING")
    alive = [job.job for overview in overviews_of(tmp_path / "first", Answering()) for job in overview.alive]
    assert alive == (["12"] if ours else [])


def test_a_pipelines_folder_shows_its_stages(tmp_path: Path, run: Path, slurm: Slurm) -> None:
    slurm.job("RUNNING")
    (run / "slurm").mkdir()
    (tmp_path / "probe/slurm").mkdir(parents=True)
    head, *_ = status_lines(tmp_path)
    assert head == f"{run}: running, step 9 of 20, loss 1.25, newest checkpoint at step 6"


def test_a_terminal_shows_tables(run: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm.job("RUNNING")
    monkeypatch.setenv("COLUMNS", "160")
    terminal = StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    with redirect_stdout(terminal):
        status(run, Answering())
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert re.search(r"│ 1 +│ 12\.0 +│ .*│ n\[1-2\] +│ 2 +│ 1-9 +│ +│ running +│", text)


def test_an_attempt_outside_slurm_is_judged_by_its_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = (
        "import socket, sys, time; from test_status import *\n"
        "begin(Path(sys.argv[1]), small_config(Path('data')), DATA, [socket.gethostname()], 0)\n"
        "print(flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run), "train"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout
    process.stdout.readline()
    assert status_lines(run)[0].startswith(f"{run}: running, step 0 of 20")
    process.kill()
    process.communicate()
    assert status_lines(run)[0].startswith(f"{run}: killed, step 0 of 20")


def test_the_log_of_the_failed_rank_comes_first(run: Path, slurm: Slurm) -> None:
    slurm.job("FAILED")
    (run / "slurm").mkdir()
    for rank in range(2):
        (run / f"slurm/12_{rank}_log.out").write_text(f"rank {rank}")
    note_failure(run, 1, 1, ValueError("bad"))
    conclude(run, "crash")
    assert [path.name for path in newest_log(run, Answering())] == ["12_1_log.out", "12_0_log.out"]
    assert [path.name for path in newest_log(run, Answering(), rank=0)] == ["12_0_log.out"]
    with pytest.raises(FmctError, match="no log of rank 7"):
        newest_log(run, Answering(), rank=7)


def give_up(folder: Path, number: str, name: str | None) -> None:
    """A job that crashed twice; name: as in its batch script, None where it has none here."""
    slurm = folder / "slurm"
    slurm.mkdir(exist_ok=True)
    if name:
        (slurm / f"{number}_submission.sh").write_text(f"#!/bin/bash\n#SBATCH --job-name={name}\n")
    ends = [Ending(job=number, start=n, at=datetime.now(UTC), cause="crash") for n in (0, 1)]
    (slurm / f"{number}.endings.jsonl").write_text("".join(f"{e.model_dump_json()}\n" for e in ends))
    (slurm / f"{number}_0_log.out").write_text("crashed")


@pytest.mark.parametrize(("old", "new"), [("fmct-x", "fmct-x"), ("fmct-x-01234567", "fmct-x-89abcdef")])
def test_a_resubmitted_job_is_not_shown_as_given_up_once_slurm_forgets_it(
    tmp_path: Path, slurm: Slurm, old: str, new: str
) -> None:
    stage = tmp_path / "data"
    stage.mkdir()
    give_up(stage, "7", old)
    assert status_lines(stage)[0] == f"{stage}: job 7 does not run again: crash"
    assert [path.name for path in newest_log(stage, Answering())] == ["7_0_log.out"]
    (stage / "slurm/12_submission.sh").write_text(f"#!/bin/bash\n#SBATCH --job-name={new}\n")
    (stage / "slurm/12_0_log.out").write_text("working")
    assert not any("does not run again" in line for line in status_lines(stage))
    assert [path.name for path in newest_log(stage, Answering())] == ["12_0_log.out"]
    give_up(stage, "5", "fmct-y")
    assert status_lines(stage)[0] == f"{stage}: job 5 does not run again: crash", "of another stage"


def test_a_resubmitted_sbatch_training_is_not_shown_as_given_up(run: Path, slurm: Slurm) -> None:
    give_up(run, "7", None)
    path = run / "attempts/0001.json"
    (run / "attempts/0002.json").write_text(path.read_text().replace('"number": 1', '"number": 2'))
    path.write_text(path.read_text().replace('"job": "12"', '"job": "7"'))
    assert not any("does not run again" in line for line in status_lines(run))


def test_a_job_is_not_cancelled_on_the_word_of_a_record(run: Path, slurm: Slurm, tmp_path: Path) -> None:
    slurm.set_output("scancel", f"echo $* >> {tmp_path / 'cancelled'}")
    (run / "slurm").mkdir()
    (run / "slurm/\u00b2_submission.sh").touch()
    for state in ("RUNNING", "PENDING"):
        slurm.job(state)
        result = CliRunner().invoke(watch_app, ["cancel", str(run)])
        assert result.exit_code == 0, result.output
        assert "job 12: " in result.output
        assert "not cancelled" in result.output
        assert not (tmp_path / "cancelled").exists()
    for old, new in (
        ("StdOut=/somewhere", f"StdOut={run}/slurm"),
        ("--run first", f"--run {run}"),
    ):
        slurm.job("RUNNING")
        scontrol = slurm.folder / "scontrol"
        scontrol.write_text(scontrol.read_text().replace(old, new))
        assert CliRunner().invoke(watch_app, ["cancel", str(run)]).exit_code == 0
        assert (tmp_path / "cancelled").read_text() == "12\n"
        (tmp_path / "cancelled").unlink()


def test_only_logs_of_the_job_are_shown_and_as_text(run: Path, slurm: Slurm, tmp_path: Path) -> None:
    slurm.job("FAILED")
    (run / "slurm").mkdir()
    (tmp_path / "secret").write_text("secret")
    (run / "slurm/12_0_log.out").symlink_to(tmp_path / "secret")
    record = run / "attempts/0001.json"
    record.write_text(record.read_text().replace('"log": null', f'"log": "{tmp_path / "secret"}"'))
    with pytest.raises(FmctError, match="no log"):
        newest_log(run, Answering())
    (tmp_path / "secret").write_text("fmct: job 12, start 0, on n1\n\x1b]0;title\x07\n")
    shown = CliRunner().invoke(watch_app, ["logs", str(run)])
    assert (shown.exit_code, shown.output) == (0, "fmct: job 12, start 0, on n1\n\\x1b]0;title\\x07\n")


HOSTILE_LINES = b'{"step": "x"}\n{bad}\n\0\0\0\xff\n[[\n{"step": 99, "loss": "\\u001b[31m"}\n{"st'


def test_damaged_records_of_a_run_are_skipped(run: Path, slurm: Slurm) -> None:
    slurm.job("RUNNING")
    with (run / "metrics.jsonl").open("ab") as stream:
        stream.write(HOSTILE_LINES)
    (run / "slurm").mkdir()
    (run / "slurm/12.endings.jsonl").write_text('{"job": "x"}\n')
    assert "step 9 of 20" in status_lines(run)[0]
    assert [figures["step"] for figures in recorded(run)] == [*range(1, 10)]
    record = run / "attempts/0001.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"configuration": {}}))
    assert "no recorded attempts" in status_lines(run)[0]
    record.write_text("[" * 100_000)
    assert "no recorded attempts" in status_lines(run)[0]


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FmctError, match="no such folder"):
        status_lines(tmp_path / "none")
