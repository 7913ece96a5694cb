"""Unusual output of Slurm: names and folders that are not UTF-8, keys inside names."""

import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fmct_hpc.train.attempts import RecordedJob
from launch.commands.watch import watch_app
from launch.jobs import requeue
from launch.slurm.scheduler import Slurm

LATIN_1 = "Sch\\344del"
JOB = rf"""JobId=12 JobName=JobState=FAILED {LATIN_1}
   JobState=RUNNING Reason=None Requeue=1 Restarts=$restarts PreemptTime=2026-11-24T23:41:04
   NodeList=n[1-2] StartTime=2026-11-24T23:41:04
   Command=/{LATIN_1}/fmct-train.sh --run /{LATIN_1}
   WorkDir=/{LATIN_1}
   Comment=Restarts=none JobState=FAILED {LATIN_1}
   StdOut=/{LATIN_1}/12.out
"""


@pytest.fixture
def requeue_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that marks a requeued job."""
    programs = tmp_path / "bin"
    programs.mkdir()
    requeue_marker = tmp_path / "requeue_marker"
    scripts = {
        "scontrol": f"""
if [ "$1" = requeue ]; then touch {requeue_marker}; printf '{LATIN_1}' >&2; exit 0; fi
restarts=0; [ -e {requeue_marker} ] && restarts=1
cat <<END
$(printf "{JOB.replace(chr(10), chr(92) + "n")}")
END""",
        "squeue": f"printf '12|PENDING|{LATIN_1}|{LATIN_1}|/{LATIN_1}|x.sh\\n'",
        "sacct": f"printf '12|CANCELLED by {LATIN_1}|0:0|||n1\\n12||0:0|||n1\\n'",
        "scancel": f"printf 'error: {LATIN_1}' >&2; exit 1",
    }
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name, value in {"JOB_ID": "12", "PROCID": "0", "JOB_NODELIST": "n1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("FMCT_LOG", os.fsdecode(b"/Sch\xe4del/12.out"))
    return requeue_marker


def test_every_output_of_the_scheduler_is_parsed(requeue_marker: Path) -> None:
    scheduler = Slurm()
    [job] = scheduler.jobs_known("12") or []
    assert (job.state, job.restarts, job.name) == ("RUNNING", 0, "JobState=FAILED Sch\ufffddel")
    assert os.fsencode(job.log or "") == b"/Sch\xe4del/12.out"
    assert os.fsencode(job.folder) == b"/Sch\xe4del"
    [queued] = scheduler.queued() or []
    assert (queued.name, queued.reason, os.fsencode(queued.folder)) == (
        "Sch\ufffddel",
        "Sch\ufffddel",
        b"/Sch\xe4del",
    )
    [start] = scheduler.job_starts(["12"]) or []
    assert start.state == "CANCELLED"
    assert scheduler.cancel("12") == "error: Sch\ufffddel"


def test_a_preempted_job_of_any_name_is_requeued(requeue_marker: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        requeue.after(tmp_path / "slurm", None, 75, 1.0, Slurm())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert requeue_marker.exists()
    [ending] = requeue.read(tmp_path / "slurm", "12")
    assert ending.cause == "preempted"


def test_the_record_of_a_job_is_serialised(requeue_marker: Path) -> None:
    job = RecordedJob.current()
    assert job is not None
    assert RecordedJob.model_validate_json(job.model_dump_json()).log == "/Sch\ufffddel/12.out"


def test_status_and_cancel(requeue_marker: Path, tmp_path: Path) -> None:
    slurm = tmp_path / "run" / "slurm"
    slurm.mkdir(parents=True)
    (slurm / "12_submission.sh").touch()
    scontrol = requeue_marker.parent / "bin" / "scontrol"
    scontrol.write_text(scontrol.read_text().replace(f"StdOut=/{LATIN_1}", f"StdOut={slurm}"))
    result = CliRunner().invoke(watch_app, ["status", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "state RUNNING" in result.output
    refused = CliRunner().invoke(watch_app, ["cancel", str(tmp_path / "run")])
    assert "Sch\ufffddel" in str(refused.exception)
