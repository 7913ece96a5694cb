"""When a reader process is killed at any moment, all ranks end in seconds, with one line.

FMCT_KILLS=50 kills as many (default: 2), on 1, 2 and 4 ranks, and with -s prints each result.
"""

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from process_groups import children_of, group_is_gone, readers_of
from small_training import small_config, start_training, write_dataset, write_recipe

from fmct_hpc.train.attempts import attempts
from shards.errors import LostProcessError

KILLS = int(os.environ.get("FMCT_KILLS", "2"))
RANKS = (1, 2, 1, 2, 4) if KILLS > 2 else (1, 2)
STEPS = 60
CODE = LostProcessError.exit_code
PATIENCE = 120.0
"""Far more than an end takes on a busy machine, far less than run.hang_minutes."""

pytestmark = pytest.mark.timeout(300 + 100 * KILLS)


class Kill(NamedTuple):
    """The result of one kill."""

    steps: int
    """Completed by the run."""
    code: int
    seconds: float
    """From the kill to the end of all ranks."""
    output: str


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readers")
    config = small_config(
        write_dataset(folder / "data"),
        data={"workers": 2},
        run={"steps": STEPS, "checkpoint_every": 20, "images_every": 1000},
    )
    return write_recipe(config, folder / "recipe.yaml")


def kill_a_reader(recipe: Path, run: Path, ranks: int, generator: random.Random) -> Kill | None:
    """Start a run and kill one of its readers, at its start or later; None if the run finished before."""
    process = start_training(recipe, run, ranks)
    try:
        step = generator.choice([0, generator.randrange(STEPS + 1)])
        while process.poll() is None and not (all_readers(process) and rows(run) >= step):
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 0.2) if step else generator.choice([0.0, generator.uniform(0, 5)]))
        readers = all_readers(process)
        if readers:
            os.kill(generator.choice(readers), signal.SIGKILL)
        began, steps = time.monotonic(), rows(run)
        output = process.communicate(timeout=PATIENCE)[0]
        seconds = time.monotonic() - began
        while not group_is_gone(process.pid):  # Python's own helper ends a moment after its process
            assert time.monotonic() < began + PATIENCE
            time.sleep(0.02)
        return Kill(steps, process.returncode, seconds, output) if readers else None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def all_readers(process: subprocess.Popen[str]) -> list[int]:
    return [reader for rank in children_of(process.pid) for reader in readers_of(rank)]


def rows(run: Path) -> int:
    return (run / "metrics.jsonl").read_text().count("\n") if (run / "metrics.jsonl").exists() else 0


def test_a_reader_killed_at_a_random_time_ends_the_run_with_one_line(
    recipe: Path, tmp_path: Path, seed: int
) -> None:
    generator = random.Random(seed)
    kills: list[Kill] = []
    number = 0
    while len(kills) < KILLS:
        ranks, run = RANKS[number % len(RANKS)], tmp_path / f"run-{number}"
        number += 1
        killed = kill_a_reader(recipe, run, ranks, generator)
        if killed is None or killed.code == 0:  # it was no longer needed
            continue
        kills.append(killed)
        print(f"{ranks} ranks, after {killed.steps} steps: code {killed.code}, {killed.seconds:.1f} s")
        assert killed.code == CODE, killed.output
        [line] = [line for line in killed.output.splitlines() if line.startswith("fmct: ")]
        assert "reader process was killed by SIGKILL" in line
        assert "Traceback" not in killed.output
        [attempt] = attempts(run)
        assert (attempt.cause, attempt.exit_code, f"fmct: {attempt.detail}") == ("crash", CODE, line)
    print(f"{len(kills)} of {number} runs: {max(kill.seconds for kill in kills):.1f} s at the most")
