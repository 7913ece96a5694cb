"""Records of attempts in a run folder, also of attempts that were killed."""

import fcntl
import json
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import pytest
from small_training import small_config

from fmct_hpc.train import attempts
from fmct_hpc.train.attempts import Attempt, Cause, begin, conclude, end, note_failure
from fmct_hpc.train.checkpoint import DataFacts, checkpoint_path
from shards.errors import DamagedDataError, DiskFullError, FmctError, LostProcessError
from shards.lock import LockHeldError, writing

DATA = DataFacts(
    content_digest="c", dataset_digest="d", preprocess_digest="p", spacing_mm=(1, 1, 1), shards_digest="s"
)
LOST = "[../pair.cc:538] Connection closed by peer [10.0.0.7]:4321"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def start(run: Path, step: int = 0) -> Attempt:
    return begin(run, small_config(Path("data")), DATA, ["n1", "n1", "n2", "n2"], step)


def train_to(run: Path, step: int, saved: int) -> None:
    checkpoint_path(run, saved).mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(f'{{"step": {s}, "loss": 1.5}}\n' for s in range(1, step + 1)))


def concluded(
    run: Path, cause: Cause = "killed", detail: str = "", rank: int | None = None, code: int | None = None
) -> Attempt:
    actual = conclude(run, cause, detail, rank, code)
    assert actual is not None
    return actual


def test_an_attempt_records_machine_software_and_its_range_of_steps(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"JOB_ID": "12", "PROCID": "0", "RESTART_COUNT": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    attempt = start(run, step=4)
    assert attempts.attempts(run) == [attempt]
    train_to(run, 9, saved=9)
    end(run, attempt, 9, "SIGUSR1", save_seconds=4.5)
    (written,) = attempts.attempts(run)
    assert written.hosts == {"n1": [0, 1], "n2": [2, 3]}
    assert written.slurm is not None
    assert (written.world_size, written.slurm.job, written.slurm.restarts) == (4, "12", 3)
    assert (written.first_step, written.last_step, written.steps, written.lost_steps) == (5, 9, 5, 0)
    assert (written.cause, written.detail) == ("time limit", "SIGUSR1")
    assert written.save_seconds == 4.5
    assert written.configuration["run"]["steps"] == 20
    assert written.data == DATA
    assert written.ended is not None
    assert written.ended >= written.began


def test_the_recorded_software_is_that_of_the_process(run: Path) -> None:
    software = start(run).software
    assert software.version == version("fmct-hpc")
    assert software.packages["torch"] == version("torch")
    head = subprocess.run(
        ["git", "-C", Path(__file__).parent, "rev-parse", "HEAD"], capture_output=True, text=True
    )
    if head.returncode == 0:
        assert software.commit == head.stdout.strip()


def test_code_outside_a_checkout_has_no_commit(tmp_path: Path) -> None:
    """Also if its environment is inside another repository."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    package = tmp_path / "site-packages/fmct_hpc/train"
    package.mkdir(parents=True)
    source = Path(attempts.__file__).with_name("software.py")
    (package / "software.py").write_text(source.read_text())
    code = "import sys; sys.path[0] = '.'; from software import Software; print(Software.current().commit)"
    result = subprocess.run([sys.executable, "-c", code], cwd=package, capture_output=True, text=True)
    assert result.stdout == "None\n"


def test_the_next_attempt_concludes_a_killed_one(run: Path) -> None:
    start(run)
    train_to(run, 9, saved=6)
    start(run, step=6)
    killed, next_one = attempts.attempts(run)
    assert (killed.cause, killed.last_step, killed.saved_step, killed.lost_steps) == ("killed", 9, 6, 3)
    assert killed.ended is not None
    assert (next_one.number, next_one.first_step, next_one.ended) == (2, 7, None)
    conclude(run)  # before its first step: the metrics are those of the previous attempt
    assert attempts.attempts(run)[1].steps == 0


def test_the_failed_rank_is_named_and_not_its_disconnected_peers(run: Path) -> None:
    attempt = start(run)
    note_failure(run, attempt.number, 0, RuntimeError(LOST))
    note_failure(run, attempt.number, 2, DamagedDataError("shard-3.zarr: volume k: wrong CRC"))
    ended = concluded(run, "crash", code=1)
    assert (ended.cause, ended.failed_rank, ended.exit_code) == ("damaged data", 2, 2)
    assert ended.detail == "shard-3.zarr: volume k: wrong CRC"


def test_a_rank_that_failed_silently_is_reported_by_its_launcher(run: Path) -> None:
    attempt = start(run)
    note_failure(run, attempt.number, 0, RuntimeError(LOST))
    ended = concluded(run, "crash", "rank 1: killed by SIGKILL", rank=1, code=137)
    assert (ended.cause, ended.failed_rank, ended.exit_code) == ("crash", 1, 137)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (DiskFullError("disk full"), "no room"),
        (OSError(28, "No space left on device"), "no room"),
        (PermissionError(13, "Permission denied", "run/metrics.jsonl"), "refused"),
        (PermissionError(13, "Permission denied"), "crash"),
        (ValueError("x"), "crash"),
        (LostProcessError("a reader process was killed"), "crash"),
    ],
)
def test_a_failure_has_its_cause(run: Path, error: BaseException, cause: str) -> None:
    note_failure(run, start(run).number, 0, error)
    assert concluded(run).cause == cause


def test_a_hang_is_reported_from_its_stack_dump(run: Path) -> None:
    start(run)
    (run / "hangs").mkdir()
    (run / "hangs/rank-00003.txt").write_text("stacks")
    assert concluded(run, "crash", code=70).cause == "hang"


def test_a_recorded_end_is_replaced_only_by_the_cause_of_a_signal(run: Path) -> None:
    end(run, start(run), 0, "SIGTERM")
    assert concluded(run).cause == "stopped"
    assert concluded(run, "preempted").cause == "preempted"
    assert concluded(run, "cancelled").cause == "preempted"


def test_a_damaged_record_is_left_out_and_never_overwritten(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start(run)
    first = run / "attempts/0001.json"
    first.write_text(json.dumps({"format_version": 9}))
    assert start(run).number == 2
    assert [attempt.number for attempt in attempts.attempts(run)] == [2]
    assert "0001.json" in caplog.text


def test_a_restarted_job_waits_for_leftover_processes_of_its_last_start(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.mkdir()
    with (run / ".lock").open("w") as left:
        fcntl.flock(left, fcntl.LOCK_EX)
        with (
            pytest.raises(LockHeldError, match="another process is writing there"),
            writing(run, "fmct train"),
        ):
            pass
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        threading.Timer(0.5, fcntl.flock, (left, fcntl.LOCK_UN)).start()
        with writing(run, "fmct train"):
            pass


def test_ranks_refuse_a_file_in_place_of_the_run_folder(run: Path) -> None:
    run.write_text("mine")
    with pytest.raises(FmctError, match=r"run: is a file; "), writing(run, "fmct train"):
        pass
    assert run.read_text() == "mine"
