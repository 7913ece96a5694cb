"""The restart policy, and the cause of each start's end."""

import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pytest
from small_training import write_dataset

from fmct_hpc.probe.sweep.ledger import Plan, UnitFiles, write_plan
from fmct_hpc.train.attempts import Cause
from launch.jobs import requeue
from launch.jobs.causes import by_code, by_scheduler, log_of_start
from launch.jobs.progress import progress_of_job
from launch.jobs.requeue import FAILURES, MAX_FAILURES, MAX_IDLE, MAX_TIME_LIMITS, Ending, decide
from launch.scheduler import JobStart
from launch.slurm.scheduler import Slurm
from preprocess.scan.work_folder import WorkFolder
from shards.listed import register_files
from shards.progress import VARIABLE, Progress, register
from shards.share import Share
from shards.split import split

Past = tuple[Cause, int | None]


def history(*endings: Past) -> list[Ending]:
    return [
        Ending(job="12", start=number, at=datetime.now(UTC), cause=cause, progress=progress)
        for number, (cause, progress) in enumerate(endings)
    ]


@pytest.mark.parametrize("cause", ["preempted", "time limit", "requeued", "stopped"])
@pytest.mark.parametrize("progress", [None, 10])
def test_an_interrupted_job_restarts_at_once(cause: Cause, progress: int | None) -> None:
    assert decide(history((cause, progress)))[:2] == (True, 0.0)


@pytest.mark.parametrize("cause", ["done", "cancelled", "refused", "damaged data", "unsound"])
def test_permanent_failures_are_not_retried(cause: Cause) -> None:
    assert not decide(history((cause, 10))).again


@pytest.mark.parametrize("cause", FAILURES)
@pytest.mark.parametrize("progress", [None, 0, 10])
def test_failures_at_the_same_step_are_bounded_with_growing_delays(
    cause: Cause, progress: int | None
) -> None:
    most = FAILURES[cause]
    verdicts = [decide(history(*[(cause, progress)] * n), backoff=60) for n in range(1, most + 1)]
    assert [verdict.again for verdict in verdicts] == [True] * (most - 1) + [False]
    assert [verdict.wait for verdict in verdicts[:-1]] == [60 * 2**n for n in range(most - 1)]


def test_a_deterministic_crash_stops_after_two_tries_and_is_reported() -> None:
    assert decide(history(("crash", 10))).again
    stopped = decide(history(("crash", 0), ("crash", 10), ("preempted", 10), ("crash", 10)))
    assert not stopped.again
    assert stopped.why.startswith("crash 2 times at the checkpoint of step 10, so not queued again")


def test_failures_with_progress_in_between_are_bounded() -> None:
    crashes: list[Past] = [("crash", step) for step in range(MAX_FAILURES)]
    assert [decide(history(*crashes[:n])).again for n in (1, 5, MAX_FAILURES - 1)] == [True] * 3
    assert decide(history(*crashes[:10])).wait == 3600
    assert not decide(history(*crashes)).again


def test_progress_resets_the_count_of_failures_and_an_interruption_the_delay() -> None:
    assert decide(history(("crash", 10), ("preempted", 20), ("crash", 20)), backoff=60)[:2] == (True, 60)


@pytest.mark.parametrize("progress", [None, 10])
def test_a_job_interrupted_without_progress_is_delayed(progress: int | None) -> None:
    interruptions: list[Past] = [("preempted", progress)] * (MAX_IDLE + 1)
    waits = [decide(history(*interruptions[:n]), backoff=60).wait for n in range(1, MAX_IDLE + 1)]
    assert waits == [0.0, *(min(60 * 2**n, 3600) for n in range(MAX_IDLE - 1))]
    assert not decide(history(*interruptions)).again


def test_a_training_whose_start_takes_longer_than_its_time_limit_stops() -> None:
    limits: list[Past] = [("time limit", 10)] * MAX_TIME_LIMITS
    assert decide(history(*limits[:-1], ("preempted", 10), ("node failure", 10))).again
    stopped = decide(history(*limits))
    assert not stopped.again
    assert "3 time limits at the checkpoint of step 10" in stopped.why


class Starts(Protocol):
    def __call__(self, folder: Path, *codes: int, first: int = 0) -> list[int]: ...


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Starts]:
    """End consecutive starts of job 77 with a code; returns the numbers of the requeued ones."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_PROCID", "0")
    queued: list[int] = []
    monkeypatch.setattr(Slurm, "jobs_known", lambda self, job: [])
    monkeypatch.setattr(requeue, "queue_again", lambda job, start, wait, scheduler: queued.append(start))
    before = signal.getsignal(signal.SIGTERM)

    def end(folder: Path, *codes: int, first: int = 0) -> list[int]:
        for start, code in enumerate(codes, first):
            monkeypatch.setenv("SLURM_RESTART_COUNT", str(start))
            requeue.after(folder, None, code, 60, Slurm())
        return queued

    yield end
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Progress]:
    """In job 77: its progress, by its registered ledgers."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "slurm/77.ledgers.json"))
    return lambda: progress_of_job(tmp_path / "slurm", "77")


def test_a_share_of_preprocessing_with_a_task_longer_than_its_time_limit_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, starts: Starts
) -> None:
    """Share 1 of 3 has tasks 1, 4, 7 and 10; those of others do not count."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name, value in {"JOB_ID": "75", "TASK_ID": "1", "TASK_COUNT": "3"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_{name}", value)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "slurm/75_1.ledgers.json"))
    register("preprocess", tmp_path, Share(1, 3), total=4, of_all=12)
    queued: list[int] = []
    for start, done in enumerate([(1, 0), (4, 2, 3), (5,), (6, 8)]):
        for task in done:
            (tasks / f"{task:05d}-0123abcd.json").touch()
            (tasks / f"{task:05d}-0123abcd.manifest.parquet").touch()
        queued = starts(tmp_path / "slurm", 128 + signal.SIGUSR2, first=start)
    assert queued == [0, 1, 2]
    assert [e.progress for e in requeue.read(tmp_path / "slurm", "75_1")] == [1, 2, 2, 2]
    last = caplog.messages[-1]
    assert last.startswith("job 75_1: time limit (a rank was killed by SIGUSR2): 3 time limits with 2 tasks")
    assert all(word in last for word in ("not queued again", "time_minutes", "--time", "output.shard_mib"))


@pytest.mark.parametrize(("code", "most"), [(73, FAILURES["no room"]), (1, FAILURES["crash"])])
def test_retries_are_bounded_even_if_endings_cannot_be_written(
    tmp_path: Path, starts: Starts, code: int, most: int
) -> None:
    (tmp_path / "file").touch()
    assert starts(tmp_path / "file/slurm", *[code] * 20) == list(range(most - 1))


def test_unwritten_endings_do_not_count_once_writing_works(tmp_path: Path, starts: Starts) -> None:
    (tmp_path / "file").touch()
    starts(tmp_path / "file/slurm", *[73] * 3)
    assert starts(tmp_path, *[128 + signal.SIGUSR2] * 3, first=3) == list(range(6))


def test_a_partial_line_of_a_full_disk_spoils_no_ending(tmp_path: Path, starts: Starts) -> None:
    path = tmp_path / "77.endings.jsonl"
    starts(tmp_path, 75)
    path.write_text(path.read_text() + '{"job":"77","sta')
    starts(tmp_path, 75, first=2)
    assert [ending.start for ending in requeue.read(tmp_path, "77")] == [0, 2]


def test_a_job_whose_stage_has_registered_nothing_has_no_known_progress(job: Callable[[], Progress]) -> None:
    assert job().done is None


def test_a_scan_with_progress_is_restarted_without_limit(tmp_path: Path, job: Callable[[], Progress]) -> None:
    parts = WorkFolder(tmp_path / "catalog.parquet").parts
    parts.mkdir(parents=True)
    register("scan", tmp_path / "catalog.parquet")
    collected = []
    for start in range(2 * MAX_IDLE):
        (parts / f"{start}.parquet").touch()
        collected.append(job())
    assert [(one.done, one.unit) for one in collected] == [(n + 1, "part") for n in range(2 * MAX_IDLE)]
    limits: list[Past] = [("time limit", one.done) for one in collected]
    assert decide(history(*limits))[:2] == (True, 0.0)


def test_a_split_registers_the_shards_of_each_part(tmp_path: Path, job: Callable[[], Progress]) -> None:
    dataset = write_dataset(tmp_path / "data", volumes=8)
    split(dataset, tmp_path / "parts", {"a": 0.5, "b": 0.5}, shard_bytes=1)
    assert job() == (8, 8, 0, "shard")


def test_a_sweep_share_with_progress_is_restarted(tmp_path: Path, job: Callable[[], Progress]) -> None:
    """Share 1 of 2 has tasks 1 and 3, of three units; those of the other do not count."""
    digests = tuple(f"{number:064d}"[::-1] for number in range(6))
    grid = Plan(
        units=(), digests=digests, seconds=(), tasks=((0,), (1, 2), (3, 4), (5,)), encoders=(), leakage=()
    )
    register("sweep", tmp_path, Share(1, 2), total=3, of_all=6)
    assert job() == (None, 3, 0, "unit")
    write_plan(tmp_path, grid)
    (tmp_path / "units").mkdir()
    collected = []
    for number in (0, 1, 3, 2, 5):
        UnitFiles(tmp_path, digests[number]).marker.touch()
        collected.append(job().done)
    assert collected == [0, 1, 1, 2, 3]


def test_a_share_with_units_named_by_digests_is_restarted_while_it_progresses(
    tmp_path: Path, job: Callable[[], Progress]
) -> None:
    files = [tmp_path / f"units/{'5d3a'[number] * 16}.parquet" for number in range(4)]
    register_files(tmp_path, files, Share(1, 2))
    assert job() == (0, 2, 0, "unit")
    files[0].parent.mkdir()
    collected = []
    for number in (0, 3, 2, 1):
        files[number].touch()
        collected.append(job().done)
    assert collected == [0, 1, 1, 2]
    (tmp_path / "units.json").write_text('{"files": ["../../etc/passwd.txt"]}')
    assert job() == (None, 2, 0, "unit")


def keep_part(store: Path, start: int, stop: int) -> None:
    (store / "parts").mkdir(parents=True, exist_ok=True)
    (store / f"parts/{start:07d}-{stop:07d}-0123abcd.json").touch()


def test_a_feature_extraction_is_restarted_while_it_progresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Callable[[], Progress]
) -> None:
    for number in range(3):  # parts of a store, alternating between two tasks
        keep_part(tmp_path / "other", 256 * number, 256 * (number + 1))
    collected = []
    for share in range(2):
        monkeypatch.setenv(VARIABLE, str(tmp_path / f"slurm/9_{share}.ledgers.json"))
        register("features", tmp_path / "other", Share(share, 2))
        collected.append(progress_of_job(tmp_path / "slurm", f"9_{share}").done)
    assert collected == [512, 256]
    monkeypatch.setenv(VARIABLE, str(tmp_path / "slurm/77.ledgers.json"))
    register("features", tmp_path / "ours")
    register("features", tmp_path / "other")
    assert job() == (768, None, 0, "volume")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/features.json").write_text('{"volumes": 1000}')
    assert job().done == 1768


def test_a_probe_is_restarted_while_its_features_or_units_progress(
    tmp_path: Path, job: Callable[[], Progress]
) -> None:
    register("features", tmp_path / "features/trained")
    actual = [job()]
    keep_part(tmp_path / "features/trained", 0, 256)
    actual.append(job())
    register("sweep", tmp_path, total=1)
    plan = Plan(units=(), digests=("ab" * 32,), seconds=(), tasks=((0,),), encoders=(), leakage=())
    write_plan(tmp_path, plan)
    (tmp_path / "units").mkdir()
    UnitFiles(tmp_path, "ab" * 32).marker.touch()
    actual.append(job())
    assert [(one.done, one.unit) for one in actual] == [(0, "volume"), (256, "volume"), (257, "result")]


LOG = """\
fmct: job 12, start 0, on n[1-2]
srun: error: n1: tasks 0,2: Exited with exit code 75
fmct: job 12, start 1, on n[1-2]
srun: error: n2: task 3: Killed
srun: error: n1: tasks 0-1: Exited with exit code 1
fmct: job 12, start 2, on n[1-2]
slurmstepd-n1: error: *** STEP 12.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION ***
"""


def test_a_crash_names_the_rank_that_srun_names_first(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)
    part = log_of_start(tmp_path / "log", "12", 1)
    assert "75" not in part
    assert "PREEMPTION" not in part
    assert by_code(137, part, Slurm()) == ("crash", "rank 3 on n2: Killed", 3, 137)
    assert by_code(137, "", Slurm()) == ("crash", "a rank was killed by SIGKILL", None, 137)


def test_a_user_error_is_reported_with_the_message_of_the_command() -> None:
    log = "fmct: job 12, start 0, on n1\nworking\nfmct: data/zarr: no such dataset; preprocess first\n"
    assert by_code(2, log, Slurm())[:2] == ("refused", "data/zarr: no such dataset; preprocess first")
    log += "fmct: a reader process was killed by SIGKILL\n"
    assert by_code(71, log, Slurm())[:2] == ("crash", "a reader process was killed by SIGKILL")


@pytest.mark.parametrize(
    ("code", "cause"),
    {
        **{0: "done", 75: "stopped", 143: "preempted", 70: "hang", 73: "no room", 2: "refused", 1: "crash"},
        71: "crash",
    }.items(),
)
def test_exit_codes_have_their_causes(code: int, cause: Cause) -> None:
    assert by_code(code, "", Slurm()).cause == cause


def test_without_accounting_the_log_and_the_nodes_explain_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slurm, "job_starts", lambda self, jobs: None)
    monkeypatch.setattr(Slurm, "nodes_down", lambda self, nodes: [])
    assert by_scheduler("12", [], LOG, 2, Slurm())[:2] == (
        "preempted",
        "STEP 12.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION",
    )
    assert by_scheduler("12", [], "", 2, Slurm()).cause == "killed"
    monkeypatch.setattr(Slurm, "nodes_down", lambda self, nodes: ["n2"])
    assert by_scheduler("12", ["n1", "n2"], "", 2, Slurm())[:2] == ("node failure", "down: n2")


def test_accounting_explains_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    states = ["PREEMPTED", "NODE_FAIL", "RUNNING"]
    starts = [JobStart("12", state, "0:0", None, None, "n1") for state in states]
    monkeypatch.setattr(Slurm, "job_starts", lambda self, jobs: starts)
    assert [by_scheduler("12", [], "", n, Slurm()).cause for n in range(2)] == ["preempted", "node failure"]
