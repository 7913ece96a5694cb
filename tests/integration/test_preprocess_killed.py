"""Killed processes, a full disk, a lost mount: the next run ends with the bytes of an uninterrupted one.

FMCT_KILLS=100 interrupts it as many times (default: 4).
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from preprocess_export import Export, contents, make_export, run_inline
from process_groups import group_is_gone

from preprocess import run
from shards import FmctError

KILLS = int(os.environ.get("FMCT_KILLS", "4"))
PATIENCE_S = 120


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return make_export(tmp_path_factory.mktemp("export"), studies=12)


@pytest.fixture(scope="module")
def unbroken(export: Export, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("unbroken") / "out"
    run_inline(export, out, export.config())
    return contents(out)


def start(export: Export, out: Path) -> subprocess.Popen[bytes]:
    """The real command in a separate process group."""
    return subprocess.Popen(start_command(export, out), stderr=subprocess.DEVNULL, start_new_session=True)


def start_command(export: Export, out: Path) -> list[str]:
    command = [sys.executable, "-m", "launch.cli", "preprocess", str(export.catalog), "--out", str(out)]
    command += [f"key_file={export.key_file}", "workers=2", "grid.spacing_mm=[4,4,4]", "output.shard_mib=1"]
    command += ["select.keep=all"]  # as in Export.config
    return command


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


@pytest.mark.timeout(120 + 30 * KILLS)
def test_killed_runs_resume_to_identical_bytes(
    export: Export, unbroken: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    out = tmp_path / "out"
    rng = np.random.default_rng(seed)
    killed = 0
    while killed < KILLS:
        # Moments are counted in files, so that they fall on all parts of a run on any machine.
        seen = {path.name for path in out.rglob("*")}
        new = int(rng.integers(1, 7))
        print(f"kill {killed}: after {new} new files")
        process = start(export, out)
        wait_until(
            lambda: len({p.name for p in out.rglob("*")} - seen) >= new or process.poll() is not None,  # noqa: B023
            "neither files nor an end",
        )
        if process.poll() is not None:
            assert process.returncode == 0
            assert contents(out) == unbroken
            shutil.rmtree(out)  # it finished: once more from the beginning
            continue
        process.kill()  # only the command: its workers must notice
        process.wait()
        wait_until(lambda: group_is_gone(process.pid), "workers outlive their parent")  # noqa: B023
        killed += 1
    finished = start(export, out)
    assert finished.wait(PATIENCE_S) == 0
    assert contents(out) == unbroken
    assert run.status(out).done == 2


def break_off(export: Export, out: Path, program: str) -> str:
    """Run a program on an export; returns its output."""
    command = [sys.executable, "-c", program, *map(str, (export.catalog, out, export.key_file))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return result.stderr


def test_a_killed_worker_loses_nothing(export: Export, unbroken: dict[str, bytes], tmp_path: Path) -> None:
    output = break_off(export, tmp_path / "out", _KILL_A_WORKER.replace("{once}", "True"))
    assert "a worker process died" in output
    assert "Error" not in output
    assert contents(tmp_path / "out") == unbroken


def test_workers_that_die_repeatedly_are_reported_in_one_line(export: Export, tmp_path: Path) -> None:
    output = break_off(export, tmp_path / "out", _KILL_A_WORKER.replace("{once}", "False"))
    assert "FmctError" in output
    assert "one of the tasks 0, 1;" in output
    assert not list((tmp_path / "out").rglob("shard-*"))


_KILL_A_WORKER = """
import logging, multiprocessing, os, signal, sys, threading, time
from pathlib import Path
from preprocess import run
from preprocess.config import GridConfig, OutputConfig, PreprocessConfig
from preprocess.select.rules import SelectConfig

def kill():
    out = Path(sys.argv[2])
    while True:
        while not (list(out.rglob(".shard-*")) and (list(out.rglob("tasks/0*.json")) or not {once})):
            time.sleep(0.002)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
        if {once}:
            break
        time.sleep(0.5)

if __name__ == "__main__":
    threading.Thread(target=kill, daemon=True).start()
    logging.basicConfig(level=logging.WARNING)
    config = PreprocessConfig(
        key_file=Path(sys.argv[3]),
        workers=1,
        select=SelectConfig(keep="all"),
        grid=GridConfig(spacing_mm=(4, 4, 4)),
        output=OutputConfig(shard_mib=1),
    )
    run.preprocess(Path(sys.argv[1]), Path(sys.argv[2]), config)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 2 MiB, which needs root; without, tests are skipped, and fail in CI."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_next_run_resumes(
    export: Export, unbroken: dict[str, bytes], small_disk: Path
) -> None:
    out = small_disk / "out"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1_750_000))
    command = start_command(export, out)
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert result.returncode == 73, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("fmct: ")
    assert "no space left on device" in last.lower()
    assert "Traceback" not in result.stderr
    filler.unlink()
    assert subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False).returncode == 0
    assert contents(out) == unbroken


def test_tasks_stop_while_a_mount_is_gone_and_resume_when_it_is_back(
    export: Export, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    elsewhere = export.folder.rename(tmp_path / "elsewhere")
    try:
        with pytest.raises(FmctError, match=r"2 of 2 tasks failed.*cannot be read.*mount the export"):
            run.preprocess(export.catalog, out, export.config())
        assert run.status(out).to_do == (0, 1)
        assert "to do: 0-1" in str(run.status(out))
    finally:
        elsewhere.rename(export.folder)
    run.preprocess(export.catalog, out, export.config())
    assert contents(out) == unbroken
