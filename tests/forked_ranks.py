"""Ranks of small trainings, forked from one process that has imported what a rank imports.

These imports take longer than the trainings. The process is a command of tests/forked_commands.py:
`python tests/forked_ranks.py SCRIPT GROUPS`, where GROUPS is JSON of `run_forked`'s groups.

The ranks share one hash seed, so an order that comes from a set is the same on all. `fmct train --ranks` and
Slurm start every rank anew, with another seed. So do tests on the cluster and those with `start_training`;
test_train.py compares such ranks at ZeRO stage 3 with forked ones.
"""

import gc
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path

from forked_commands import forked_python
from process_groups import end_with

from launch.ranks import FAILED_RANK_GRACE_SECONDS, free_port

Group = tuple[int, Sequence[str | Path]]
"""How many ranks run the script at once, and its arguments."""


def run_forked(script: str | Path, *groups: Group) -> int:
    """Run a script on each group of ranks in turn; the first exit code that is not 0."""
    given = json.dumps([(ranks, [str(word) for word in words]) for ranks, words in groups])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [*forked_python(), __file__, str(script), given]
    return subprocess.run(command, env=environment).returncode


def be_rank(parent: int, script: str, words: list[str], variables: dict[str, str]) -> None:
    end_with(parent)
    os.environ.update(variables)
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")
    sys.stdout.flush()
    os._exit(0)  # as launch.ranks.end_rank


def run_group(script: str, ranks: int, words: list[str]) -> int:
    """The first exit code that is not 0; the other ranks may then end by themselves, as in launch.ranks."""
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    places = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=be_rank, args=(os.getpid(), script, words, place)) for place in places]
    for process in started:
        process.start()
    code = 0
    while started and wait([one.sentinel for one in started], FAILED_RANK_GRACE_SECONDS if code else None):
        for process in [one for one in started if one.exitcode is not None]:
            started.remove(process)
            code = code or abs(process.exitcode or 0)
    for process in started:
        process.kill()
    return code


def import_as_ranks() -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"  # as fmct_hpc.train.process_group sets it
    import fmct_hpc.train.export
    import fmct_hpc.train.loop
    import fmct_hpc.train.observers
    import fmct_hpc.train.run
    import fmct_hpc.train.saver  # noqa: F401


def main(script: str, groups: str) -> int:
    gc.disable()
    import_as_ranks()
    gc.freeze()  # no rank searches for garbage among what is imported
    gc.enable()
    for ranks, words in json.loads(groups):
        if code := run_group(script, ranks, words):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
