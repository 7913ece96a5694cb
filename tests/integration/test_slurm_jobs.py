"""The behaviour of jobs of any command on a real Slurm, with small scripts instead of the stages."""

import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from slurm_cluster import Cluster
from submitit.core.utils import DelayedSubmission

from launch.config import load
from launch.scheduler import Job
from launch.slurm.scheduler import Slurm
from launch.slurm.site import Container, Resources, Site
from launch.slurm.submit import describe
from launch.task import become
from shards.errors import FmctError

pytestmark = pytest.mark.slurm

SITE = load(Site, Path(__file__).parents[2] / "launch/recipes/site-test.yaml", [])


def python(source: str, *arguments: str | Path) -> tuple[str, ...]:
    """A command of one line, as jobs require."""
    code = f"exec({textwrap.dedent(source)!r})"
    return (sys.executable, "-c", code, *(str(argument) for argument in arguments))


def logs(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.out")))


def test_an_array_runs_every_task_within_its_width_then_the_job_after_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    note = """
        import sys, time, pathlib
        path = pathlib.Path(sys.argv[1])
        began = time.time()
        time.sleep(1)
        path.write_text(f"{began} {time.time()}")
    """
    count = (
        "import pathlib, sys; print(len(list(pathlib.Path(sys.argv[1]).glob('task*'))), 'tasks were done')"
    )
    array = Job("array", tuple(python(note, tmp_path / f"task{i}") for i in range(5)), SITE.preprocess)
    after = Job("after", (python(count, tmp_path),), SITE.preprocess, after_end=("array",))
    numbers = Slurm(SITE).submit([array, after], tmp_path / "slurm")
    assert [cluster.wait(number) for number in numbers] == ["COMPLETED", "COMPLETED"], logs(
        tmp_path / "slurm"
    )
    assert "5 tasks were done" in logs(tmp_path / "slurm")
    times = [tuple(map(float, path.read_text().split())) for path in tmp_path.glob("task*")]
    most = max(sum(began <= moment < ended for began, ended in times) for moment, _ in times)
    assert most <= SITE.width


def test_ranks_on_two_nodes_find_each_other(cluster: Cluster, tmp_path: Path) -> None:
    ranks = """
        import os, sys, pathlib, torch, torch.distributed as dist
        os.environ["RANK"], os.environ["WORLD_SIZE"] = os.environ["SLURM_PROCID"], os.environ["SLURM_NTASKS"]
        dist.init_process_group("gloo")
        total = torch.tensor(float(dist.get_rank() + 1))
        dist.all_reduce(total)
        node, local = os.environ["SLURMD_NODENAME"], os.environ["SLURM_LOCALID"]
        pathlib.Path(sys.argv[1], f"rank{dist.get_rank()}").write_text(f"{node} {local} {int(total)}")
        dist.destroy_process_group()
    """
    job = Job("ranks", (python(ranks, tmp_path),), SITE.train, nodes=2, tasks_per_node=2)
    (number,) = Slurm(SITE).submit([job], tmp_path / "slurm")
    assert cluster.wait(number) == "COMPLETED", logs(tmp_path / "slurm")
    placed = [(tmp_path / f"rank{rank}").read_text().split() for rank in range(4)]
    assert [local for _, local, _ in placed] == ["0", "1", "0", "1"]
    assert placed[0][0] == placed[1][0] != placed[2][0] == placed[3][0]
    assert {total for _, _, total in placed} == {"10"}


def test_ranks_get_the_batch_scripts_environment_if_sbatch_exports_none(
    cluster: Cluster, tmp_path: Path
) -> None:
    site = SITE.model_copy(update={"directives": {"export": "NONE"}, "environment": {"WORDS": "two words"}})
    source = "import os; print(*(os.environ.get(name) for name in ('MASTER_ADDR', 'WORDS')))"
    (number,) = Slurm(site).submit([Job("exports", (python(source),), SITE.train)], tmp_path / "slurm")
    assert cluster.wait(number) == "COMPLETED", logs(tmp_path / "slurm")
    assert "\n127.0.0.1 two words\n" in logs(tmp_path / "slurm")


TRAINING = """
    # Counts to 3 in a file, as training does in checkpoints: "saves" and exits with 75, first on a signal.
    import json, os, pathlib, signal, sys, time
    folder = pathlib.Path(sys.argv[1])
    saved = folder / "saved"
    step = int(saved.read_text()) if saved.exists() else 0
    signals = []
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: signals.append(number))
    rank = os.environ["SLURM_PROCID"]
    (folder / f"began-{step}-{rank}").write_text(os.environ["SLURM_JOB_ID"])
    deadline = time.monotonic() + 100
    while step == 0 and not signals and time.monotonic() < deadline:
        time.sleep(0.05)
    (folder / f"ended-{step}-{rank}").write_text(json.dumps(signals))
    time.sleep(0.5)  # both ranks have read `saved` before rank 0 rewrites it
    if rank == "0":
        saved.write_text(str(step + 1))
    sys.exit(75 if step < 2 else 0)
"""


def test_every_rank_is_signalled_before_the_time_limit_and_the_job_continues_until_done(
    cluster: Cluster, tmp_path: Path
) -> None:
    site = SITE.model_copy(update={"warn_seconds": 50})
    resources = SITE.train.model_copy(update={"time_minutes": 1})
    (number,) = Slurm(site).submit(
        [Job("limit", (python(TRAINING, tmp_path),), resources, nodes=2)], tmp_path / "slurm"
    )
    assert cluster.wait(number, 150) == "COMPLETED", logs(tmp_path / "slurm")
    for rank in range(2):
        assert signal.SIGUSR2 in json.loads((tmp_path / f"ended-0-{rank}").read_text())
    assert cluster.restarts(number) >= 2  # a slow start may be signalled before it listens, and restarts
    assert {path.read_text() for path in tmp_path.glob("began-*")} == {number}
    assert (tmp_path / "saved").read_text() == "3"


def test_a_job_that_always_crashes_stops_after_two_attempts_with_a_message(
    cluster: Cluster, tmp_path: Path
) -> None:
    source = "import os, sys, time; time.sleep(2 * int(os.environ['SLURM_PROCID'])); sys.exit(3)"
    (number,) = Slurm(SITE).submit([Job("fails", (python(source),), SITE.train, nodes=2)], tmp_path / "slurm")
    assert cluster.wait(number) == "FAILED"
    assert cluster.restarts(number) == 1
    messages = [line.split("E ", 1)[1] for line in logs(tmp_path / "slurm").splitlines() if " E job" in line]
    [line] = messages
    assert line.startswith(
        f"job {number}: crash (rank 0 on n1: Exited with exit code 3): crash 2 times, so not queued again: "
    )


def test_a_user_error_is_not_retried(cluster: Cluster, tmp_path: Path) -> None:
    job = Job("mistaken", (python("import sys; sys.exit(2)"),), SITE.train)
    (number,) = Slurm(SITE).submit([job], tmp_path / "slurm")
    assert cluster.wait(number) == "FAILED"
    assert cluster.restarts(number) == 0


def test_an_array_task_that_always_crashes_does_not_affect_the_others(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The last task's own job number is that of the whole array."""
    source = """
        import os, pathlib, signal, sys
        with pathlib.Path(sys.argv[1]).open("a") as stream:
            stream.write("started\\n")
        if sys.argv[1].endswith("task2"):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    array = Job("array", tuple(python(source, tmp_path / f"task{i}") for i in range(3)), SITE.preprocess)
    after = Job("after", (python("pass"),), SITE.preprocess, after_end=("array",))
    first, second = Slurm(SITE).submit([array, after], tmp_path / "slurm")
    assert cluster.wait(second) == "COMPLETED", logs(tmp_path / "slurm")
    assert sorted(cluster.states(first)) == ["COMPLETED", "COMPLETED", "FAILED"]
    starts = [(tmp_path / f"task{i}").read_text().count("started") for i in range(3)]
    assert starts == [1, 1, 2], logs(tmp_path / "slurm")
    assert "crash 2 times, so not queued again" in logs(tmp_path / "slurm")


def preempt(cluster: Cluster, folder: Path) -> None:
    """Run a job of higher priority that needs every core."""
    urgent = Job("urgent", (python("pass"),), Resources(partition="high", cpus_per_task=4), nodes=4)
    (number,) = Slurm(SITE).submit([urgent], folder)
    assert cluster.wait(number) == "COMPLETED", logs(folder)


def test_every_rank_is_notified_of_a_preemption_saves_and_resumes(cluster: Cluster, tmp_path: Path) -> None:
    (number,) = Slurm(SITE).submit(
        [Job("saves", (python(TRAINING, tmp_path),), SITE.train, 4)], tmp_path / "slurm"
    )
    cluster.until(lambda: len(list(tmp_path.glob("began-0-*"))) == 4, 60, "four ranks")
    preempt(cluster, tmp_path / "urgent")
    assert cluster.wait(number, 120) == "COMPLETED", logs(tmp_path / "slurm")
    for rank in range(4):
        assert signal.SIGTERM in json.loads((tmp_path / f"ended-0-{rank}").read_text())
    assert cluster.restarts(number) == 2
    assert {path.read_text() for path in tmp_path.glob("began-*")} == {number}


def test_a_preempted_task_that_saves_nothing_restarts(cluster: Cluster, tmp_path: Path) -> None:
    source = """
        import pathlib, sys, time
        began = pathlib.Path(sys.argv[1])
        again = began.exists()
        began.touch()
        time.sleep(0 if again else 100)
    """
    job = Job("starts again", (python(source, tmp_path / "began"),), SITE.preprocess)
    (number,) = Slurm(SITE).submit([job], tmp_path / "slurm")
    cluster.until((tmp_path / "began").exists, 60, "start")
    preempt(cluster, tmp_path / "urgent")
    assert cluster.wait(number, 120) == "COMPLETED", logs(tmp_path / "slurm")
    assert cluster.restarts(number) == 1


def test_a_cancelled_job_saves_and_is_not_restarted(cluster: Cluster, tmp_path: Path) -> None:
    (number,) = Slurm(SITE).submit(
        [Job("cancelled", (python(TRAINING, tmp_path),), SITE.train)], tmp_path / "slurm"
    )
    cluster.until((tmp_path / "began-0-0").exists, 60, "start")
    subprocess.run(["scancel", number], check=True)
    cluster.until((tmp_path / "saved").exists, 30, "save")
    assert cluster.wait(number).startswith("CANCELLED")
    assert cluster.restarts(number) == 0


def test_a_job_rejected_by_slurm_is_reported_in_one_line_with_its_message(
    cluster: Cluster, tmp_path: Path
) -> None:
    job = Job("refused", (python("pass"),), Resources(partition="nowhere"))
    with pytest.raises(FmctError, match=r"Slurm rejected refused .*nvalid partition"):
        Slurm(SITE).submit([job], tmp_path)


def test_the_printed_scripts_and_commands_are_those_given_to_sbatch(cluster: Cluster, tmp_path: Path) -> None:
    array = Job("array", tuple(python(f"print({i})") for i in range(2)), SITE.preprocess)
    alone = Job("alone", (python("print('a b')"),), SITE.train, 2, after_success=("array",))
    printed = "\n".join(describe(job, tmp_path, SITE) for job in (array, alone))
    numbers = Slurm(SITE).submit([array, alone], tmp_path)
    sections = dict(part.split("\n", 1) for part in printed.removeprefix("### ").split("\n### "))
    heads = ["array, an array of 2 tasks: batch script", "alone, 2 nodes of 1 ranks: batch script"]
    for head, number in zip(heads, numbers, strict=True):
        shown = sections[head].replace("afterok:array", f"afterok:{numbers[0]}")
        assert (tmp_path / f"{number}_submission.sh").read_text() == shown
        got = subprocess.run(
            ["scontrol", "write", "batch_script", number, "-"], capture_output=True, text=True
        )
        assert got.stdout.rstrip("\n") == shown
    for job, number in ((array, numbers[0]), (alone, numbers[1])):
        for task, command in enumerate(job.commands):
            assert shlex.split(sections[f"{job.name}, task {task}"]) == list(command)
            name = f"{number}_{task}" if len(job.commands) > 1 else number
            pickled = DelayedSubmission.load(tmp_path / f"{name}_submitted.pkl")
            assert (pickled.function, *pickled.args) == (become, command)
    subprocess.run(["scancel", *numbers], check=True)


def test_a_job_runs_in_its_container_with_the_sites_environment(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "bin/apptainer"  # a stand-in: records its options, then runs the command
    stand_in.parent.mkdir()
    stand_in.write_text(
        f'#!/bin/bash\nwhile [ "$1" != image.sif ]; do echo "$1" >> {tmp_path}/options; shift; done\n'
        'shift\nexec "$@"\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    site = SITE.model_copy(
        update={
            "container": Container(runtime="apptainer", image="image.sif", binds=("/opt",)),
            "environment": {"WORDS": "of the site's"},
            "scratch": tmp_path / "scratch",
        }
    )
    source = """
        import os, pathlib, tempfile
        print(os.environ["WORDS"], tempfile.gettempdir(), flush=True)
    """
    (number,) = Slurm(site).submit([Job("inside", (python(source),), SITE.train)], tmp_path / "slurm")
    assert cluster.wait(number) == "COMPLETED", logs(tmp_path / "slurm")
    assert f"of the site's {tmp_path}/scratch" in logs(tmp_path / "slurm")
    options = ["exec", "--nv", "--pwd", str(Path.cwd()), "--bind", "/opt:/opt:rw"]
    options += ["--bind", f"{tmp_path}/scratch:{tmp_path}/scratch:rw"]
    assert (tmp_path / "options").read_text().split() == options


def test_jobs_that_depend_on_a_failed_job_are_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    fails = Job("fails", (python("import sys; sys.exit(3)"),), SITE.preprocess)
    after = Job("after", (python("pass"),), SITE.preprocess, after_success=("fails",))
    numbers = Slurm(SITE).submit([fails, after], tmp_path)
    assert cluster.wait(numbers[1]) == "CANCELLED"
    assert cluster.states(numbers[0]) == ["FAILED"]
