"""This process's place among the ranks, joining them, and agreeing with them."""

import logging
import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Literal, NamedTuple, NoReturn, TypeVar

import torch
import torch.distributed as dist

from fmct_hpc.train.reported import reported_once
from shards.errors import FmctError
from shards.job import RunningJob

Result = TypeVar("Result")


SPARE_MINUTES = 5.0
"""Between a watchdog's end and a collective's: ranks come to a collective at different times."""


class Place(NamedTuple):
    """Where this process stands."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    def device_name(self) -> str:
        """As its maker calls it: NVIDIA H100 80GB HBM3; of a processor: cpu."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"


def join(device: Literal["cpu", "gpu"], hang_minutes: float = 30.0) -> Place:
    """Join the process group (gloo on CPUs, NCCL on GPUs); a second call only tells the place.

    A collective gives up some minutes after `hang_minutes`: the watchdog, which tells more, comes before it.

    The place comes from RANK, WORLD_SIZE, LOCAL_RANK, else from the scheduler's job (`RunningJob`); with
    neither this process is the only rank. MASTER_ADDR and MASTER_PORT must be set for more than one.
    Raises FmctError on rank 0 where they are not, and on one rank of each node where a GPU is asked for and
    there is none; the other ranks end with its exit code.
    """
    rank, world_size = rank_and_size()
    local_rank = _number("LOCAL_RANK", RunningJob.current().local_rank, 0)
    if device == "gpu":
        with reported_once(local_rank == 0):
            _require_gpu()
        # A scheduler may show each task only its own GPU.
        place = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(place)
    else:
        place = torch.device("cpu")
    if not dist.is_initialized():
        with reported_once(rank == 0):
            _export_place(rank, world_size, local_rank)
        _initialise(device, collective_timeout(hang_minutes))
    return Place(rank, world_size, local_rank, place)


def _require_gpu() -> None:
    if not torch.cuda.is_available():
        raise FmctError(
            "engine.device=gpu: PyTorch finds no GPU on this machine (`fmct doctor` says why); run it where "
            "there is one, or with engine.device=cpu"
        )


def collective_timeout(hang_minutes: float) -> timedelta:
    """How long ranks wait for one another in a collective, under a watchdog of `hang_minutes`."""
    return timedelta(minutes=hang_minutes + SPARE_MINUTES)


def rank_and_size() -> tuple[int, int]:
    """This process's rank and the number of ranks, as `join` takes them; before joining too."""
    job = RunningJob.current()
    return _number("RANK", job.rank, 0), _number("WORLD_SIZE", job.ranks, 1)


def _number(name: str, of_job: int | None, default: int) -> int:
    return int(os.environ.get(name) or (default if of_job is None else of_job))


def _export_place(rank: int, world_size: int, local_rank: int) -> None:
    """DeepSpeed reads the place from torch's variables only."""
    places = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": local_rank}
    os.environ.update({name: str(value) for name, value in places.items()})
    if world_size == 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "0")  # any: nobody else has to know it
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise FmctError(
                f"{name} is not set: start {world_size} ranks by `fmct train --ranks` or `fmct launch`"
            )


def _initialise(device: Literal["cpu", "gpu"], timeout: timedelta) -> None:
    # DeepSpeed chooses its accelerator when it is imported.
    os.environ["DS_ACCELERATOR"] = "cuda" if device == "gpu" else "cpu"
    import deepspeed
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 has deprecated, once a step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if device == "cpu":
        # On a CPU DeepSpeed would compile a shared-memory all-reduce, for inference only: it looks the
        # operator up here, and finding none it needs no C++ compiler.
        vars(deepspeed.ops)["__compatible_ops__"] = {}
    backend = "nccl" if device == "gpu" else "gloo"
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)


def together(function: Callable[[], Result], group: dist.ProcessGroup | None = None) -> list[Result]:
    """Call `function` on every rank of `group` (none: all) and give each the results of all, by rank.

    Where it raises FmctError on any of them, every rank raises the first one's.
    """
    mine: tuple[Result | None, FmctError | None]
    try:
        mine = (function(), None)
    except FmctError as error:
        mine = (None, error)
    outcomes = [mine] * dist.get_world_size(group)
    dist.all_gather_object(outcomes, mine, group)
    for _, failure in outcomes:
        if failure is not None:
            raise failure
    return [result for result, _ in outcomes]  # type: ignore[misc]


def on_first_rank(function: Callable[[], Result]) -> Result:
    """Call `function` on rank 0 and give all ranks its result.

    An FmctError there ends every rank with its exit code, and is told once, by rank 0.
    """
    try:
        return together(lambda: function() if dist.get_rank() == 0 else None)[0]  # type: ignore[return-value]
    except FmctError as error:
        fail_together(error)


def fail_together(error: FmctError) -> NoReturn:
    """End every rank with `error`'s exit code, for a reason that all of them know; only rank 0 tells it."""
    if dist.get_rank() == 0:
        raise error
    raise SystemExit(error.exit_code)
