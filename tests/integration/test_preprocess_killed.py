"""SIGKILL at random moments, rerun, and the output must be that of an unbroken run, byte for byte."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from preprocess_export import Export, contents, make_export, run_inline

from preprocess import run

KILLS = 4
PATIENCE_S = 120


def start(export: Export, out: Path) -> subprocess.Popen[bytes]:
    """The real command in a process group of its own."""
    command = [sys.executable, "-m", "launch.cli", "preprocess", str(export.catalog), "--out", str(out)]
    command += [f"key_file={export.key_file}", "workers=2", "grid.spacing_mm=[4,4,4]", "output.shard_mib=1"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)


def wait_until(condition: object, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_killed_runs_end_in_the_bytes_of_an_unbroken_one(tmp_path: Path) -> None:
    export = make_export(tmp_path, studies=12)
    out, unbroken = tmp_path / "out", tmp_path / "unbroken"
    run_inline(export, unbroken, export.config())
    rng = np.random.default_rng()
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
            break
        process.kill()  # the command alone: its workers must find out
        process.wait()
        wait_until(lambda: group_is_gone(process.pid), "workers outlive their parent")  # noqa: B023
        killed += 1
    assert killed >= 2, "the machine was too fast to be broken off"
    finished = start(export, out)
    assert finished.wait(PATIENCE_S) == 0
    assert contents(out) == contents(unbroken)
    assert run.status(out).done == 2


def test_a_worker_that_dies_is_told_of_and_costs_only_its_task(tmp_path: Path) -> None:
    export = make_export(tmp_path, studies=12)
    command = [
        sys.executable,
        "-c",
        _KILL_A_WORKER,
        str(export.catalog),
        str(tmp_path / "out"),
        str(export.key_file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert "FmctError" in done.stderr
    assert "a worker process died" in done.stderr
    run_inline(export, tmp_path / "out", export.config())


_KILL_A_WORKER = """
import multiprocessing, os, signal, sys, threading, time
from pathlib import Path
from preprocess import run
from preprocess.config import GridConfig, OutputConfig, PreprocessConfig

def kill():
    while not list(Path(sys.argv[2]).rglob(".shard-*")):
        time.sleep(0.005)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

if __name__ == "__main__":
    threading.Thread(target=kill, daemon=True).start()
    config = PreprocessConfig(
        key_file=Path(sys.argv[3]),
        workers=1,
        grid=GridConfig(spacing_mm=(4, 4, 4)),
        output=OutputConfig(shard_mib=1),
    )
    run.preprocess(Path(sys.argv[1]), Path(sys.argv[2]), config)
"""
