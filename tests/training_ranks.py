"""One rank of tests/integration/test_train.py: many runs in one process, because its start is slow.

`python tests/training_ranks.py SCENARIO FOLDER ...`; FOLDER holds a configuration a run, as <name>.json.
"""

import gc
import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from small_training import after_a_step
from torch.utils._python_dispatch import TorchDispatchMode

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.run import train
from fmct_hpc.train.signals import EXIT_SAVED
from shards import FmctError

STEPS = int(os.environ.get("FMCT_STEPS", "10"))
"""Of most runs: three checkpoints, and steps after each resume."""
CHECKPOINT_EVERY = 4
BREAK = 6
"""The step at which a resumed run was interrupted."""
UNNEEDED = ("torch._dynamo", "torch._inductor.compile_fx", "pandas")


def configuration(folder: Path, name: str) -> TrainConfig:
    return TrainConfig.model_validate_json((folder / f"{name}.json").read_text())


def main(scenario: str, folder: Path, *arguments: str) -> None:
    if scenario == "elastic":
        name, until = arguments
        assert train(configuration(folder, name), folder / "elastic", until=int(until)) == 0
        return
    # Stage 3 is last: it replaces the backward pass of torch's linear layer by DeepSpeed's, whose sums round
    # in another order, and runs are compared bit by bit.
    for name in (
        *("skipping", "stage0", "bf16-0", "stage1", "smaller-1", "stage2", "smaller-2"),
        *("gram-0", "gram-1", "stage3", "bf16-3", "smaller-3", "gram-3"),
    ):
        gc.freeze()  # at each start at stage 3 DeepSpeed searches for garbage among all that is not frozen
        config, resumed = configuration(folder, name), folder / f"{name}-resumed"
        assert train(config, folder / name) == 0
        # Interrupted are one at each ZeRO stage and the one that skips a volume; others lose checkpoints.
        if name.startswith(("stage", "skipping")):
            assert train(config, resumed, until=BREAK) == 0
        else:
            copy_up_to(lost(config.run.steps), folder / name, resumed)
        assert train(config, resumed) == 0
        if name == "stage2":
            loaded = [module for module in UNNEEDED if module in sys.modules]
            (folder / f"unneeded-{os.environ['RANK']}.json").write_text(json.dumps(loaded))
            stopped_by_signals_and_time(config, folder / "stopped")
            disk_full(config, folder / "full")
    for name in ("offload2", "offload3"):
        assert train(configuration(folder, name), folder / name, until=BREAK) == 0
        assert train(configuration(folder, name), folder / name) == 0
    for name in ("stage2", "stage3"):
        facts = teacher_update(configuration(folder, name))
        (folder / f"teacher-{name}-{os.environ['RANK']}.json").write_text(json.dumps(facts))


def lost(steps: int) -> int:
    """The last step of a run of so many steps that lost its two last checkpoints."""
    return ((steps - 1) // CHECKPOINT_EVERY - 1) * CHECKPOINT_EVERY


def copy_up_to(step: int, run: Path, copy: Path) -> None:
    """Copy a run without the checkpoints after a step."""
    if os.environ["RANK"] == "0":
        shutil.copytree(run, copy)
        for checkpoint in (copy / "checkpoints").iterdir():
            if checkpoint.name > f"step-{step:08d}":
                shutil.rmtree(checkpoint)
        assert (copy / f"checkpoints/step-{step:08d}").is_dir()
    torch.distributed.barrier()


def stopped_by_signals_and_time(config: TrainConfig, run: Path) -> None:
    """Two signals to rank 1 only, then the end of its Slurm job; each time all ranks save and exit."""
    stops = {}
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        threading.Thread(target=signal_after_a_step, args=(run, number), daemon=True).start()
        assert train(config, run) == EXIT_SAVED, number
        stops[number.name] = rows(run)
    if os.environ["RANK"] == "1":
        os.environ["SLURM_JOB_END_TIME"] = str(time.time() + 30)
    assert train(config, run) == EXIT_SAVED
    os.environ.pop("SLURM_JOB_END_TIME", None)
    stops["time"] = rows(run)
    if os.environ["RANK"] == "0":
        (run / "stops.json").write_text(json.dumps(stops))
    assert train(config, run) == 0


def signal_after_a_step(run: Path, number: signal.Signals) -> None:
    begun = rows(run)
    while rows(run) == begun:
        time.sleep(0.001)
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), number)


def rows(run: Path) -> int:
    return (run / "metrics.jsonl").read_text().count("\n") if (run / "metrics.jsonl").exists() else 0


def disk_full(config: TrainConfig, run: Path) -> None:
    """Rank 1 can't write its file of the second checkpoint: all ranks end as for any error.

    First where its file system takes room beforehand, then where it can't.
    """
    assert train(config, run, until=BREAK) == 0
    rank, limits = os.environ["RANK"], resource.getrlimit(resource.RLIMIT_FSIZE)
    for kind in ("kept", "not-kept"):
        if rank == "1":
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        no_space = patch("fmct_hpc.train.saver.reserve_space", return_value=False)
        try:
            with no_space if kind == "not-kept" and rank == "1" else nullcontext():
                train(config, run)
        except (FmctError, SystemExit) as error:
            (run / f"ended-{kind}-{rank}.txt").write_text(str(error)[:900])
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        gc.collect()  # what failed holds the run folder's lock


class Operators(TorchDispatchMode):
    """The names of all operators that torch runs, including collectives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch annotates its methods in part
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def teacher_update(config: TrainConfig) -> dict[str, Any]:
    """One update of the teacher: its collectives, and its deviation from the formula."""
    training = after_a_step(config)
    from fmct_hpc.train.partition import own_part

    assert training.teacher
    followed = dict(training.engine.module.named_parameters())
    student = whole({name: followed[name] for name in training.teacher.parameters})
    before = whole(training.teacher.parameters)
    with Operators() as control:
        torch.distributed.all_reduce(torch.zeros(1))
    with Operators() as operators:
        training.teacher.update(training.engine.module, 0.75)
    after = whole(training.teacher.parameters)
    expected = {name: 0.75 * before[name] + 0.25 * student[name] for name in before}
    return {
        "control": [name for name in control.names if "c10d" in name],
        "collectives": [name for name in operators.names if "c10d" in name],
        "error": max((after[name] - expected[name]).abs().max().item() for name in expected),
        "moved": max((after[name] - before[name]).abs().max().item() for name in expected),
        "held": sum(own_part(p).numel() for p in training.teacher.parameters.values()),
        "whole": sum(tensor.numel() for tensor in before.values()),
    }


def whole(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """Copies of whole parameters, gathered if stage 3 has partitioned them."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters.values())):
        return {name: parameter.detach().clone() for name, parameter in parameters.items()}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
