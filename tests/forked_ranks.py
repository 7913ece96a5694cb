"""Ranks of small trainings, forked from one process that has imported what a rank imports.

These imports take longer than the trainings. `python tests/forked_ranks.py SCRIPT GROUPS`: GROUPS is JSON of
`run_forked`'s groups. `fmct train --ranks` and Slurm start every rank anew, which other tests do.
"""

import ctypes
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.ranks import free_port

PARENT_DEATH_SIGNAL = 1
"""prctl(2): PR_SET_PDEATHSIG. A test that takes too long ends the parent alone."""

Group = tuple[int, Sequence[str | Path]]
"""How many ranks run the script at once, and its arguments."""


def run_forked(script: str | Path, *groups: Group) -> int:
    """Run a script on each group of ranks in turn; the first exit code that is not 0."""
    given = json.dumps([(ranks, [str(word) for word in words]) for ranks, words in groups])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, __file__, str(script), given], env=environment).returncode


def be_rank(script: str, words: list[str], variables: dict[str, str]) -> None:
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    os.environ.update(variables)
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")
    sys.stdout.flush()
    os._exit(0)  # as launch.ranks.end_rank


def run_group(script: str, ranks: int, words: list[str]) -> int:
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    places = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=be_rank, args=(script, words, place)) for place in places]
    for process in started:
        process.start()
    for process in started:
        process.join()  # where one fails, gloo's connections end, which ends the others
    return max(abs(process.exitcode or 0) for process in started)


def import_as_ranks() -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"  # as fmct_hpc.train.process_group sets it
    import deepspeed.ops  # noqa: F401

    import fmct_hpc.train.export
    import fmct_hpc.train.loop
    import fmct_hpc.train.observers
    import fmct_hpc.train.saver  # noqa: F401


def main(script: str, groups: str) -> int:
    import_as_ranks()
    for ranks, words in json.loads(groups):
        if code := run_group(script, ranks, words):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
