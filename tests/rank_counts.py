"""Runs a function on 1, 2 and 4 ranks: `python tests/rank_counts.py MODULE:FUNCTION FOLDER`.

Ranks are forked from a process that has computed nothing, which is forked from one that has imported torch.
"""

import importlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from forked_commands import forked_python

WORLDS = (1, 2, 4)
Ranked = Callable[[int, int, Path], dict[str, torch.Tensor]]


def on_rank_counts(function: Ranked, folder: Path) -> dict[int, list[dict[str, torch.Tensor]]]:
    """Results of function(rank, world, folder), of a module's top level, by world size and rank."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    name = f"{function.__module__}:{function.__qualname__}"
    command = [*forked_python(), __file__, name, str(folder)]
    assert subprocess.run(command, env=environment, timeout=280).returncode == 0
    return {world: [torch.load(folder / f"{world}.{rank}") for rank in range(world)] for world in WORLDS}


def be_rank(function: Ranked, rank: int, world: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/store.{world}", rank=rank, world_size=world)
    torch.save(function(rank, world, folder), folder / f"{world}.{rank}")
    dist.destroy_process_group()


def main(name: str, folder: Path) -> int:
    module, function = name.split(":")
    ranked = getattr(importlib.import_module(module), function)
    fork = multiprocessing.get_context("fork")
    places = [(ranked, rank, world, folder) for world in WORLDS for rank in range(world)]
    ranks = [fork.Process(target=be_rank, args=place) for place in places]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return max(abs(process.exitcode or 0) for process in ranks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
