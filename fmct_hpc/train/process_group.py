"""This process's rank, joining the process group, and agreement between ranks."""

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
"""From the watchdog's timeout to that of collectives, which ranks enter at different times."""


class RankInfo(NamedTuple):
    """This process's rank and device."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    def device_name(self) -> str:
        """The GPU's name, for example NVIDIA H100 80GB HBM3, or cpu."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"


def join(device: Literal["cpu", "gpu"], hang_minutes: float = 30.0) -> RankInfo:
    """Join the process group (gloo on CPUs, NCCL on GPUs); a second call only returns the rank.

    Collectives time out some minutes after `hang_minutes`, so that the watchdog, which writes stacks, acts
    first.

    The rank comes from RANK, WORLD_SIZE, LOCAL_RANK, else from the scheduler's job (`RunningJob`), else this
    is the only rank. More than one rank requires MASTER_ADDR and MASTER_PORT. Raises FmctError on rank 0 if
    they are missing, and on one rank of each node without a GPU for device "gpu"; the other ranks end with
    its exit code.
    """
    rank, world_size = rank_and_size()
    local_rank = _number("LOCAL_RANK", RunningJob.current().local_rank, 0)
    if device == "gpu":
        with reported_once(local_rank == 0):
            _require_gpu()
        # A scheduler may make only one GPU visible to each task.
        torch_device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(torch_device)
    else:
        torch_device = torch.device("cpu")
    if not dist.is_initialized():
        with reported_once(rank == 0):
            _export_rank(rank, world_size, local_rank)
        _initialise(device, collective_timeout(hang_minutes))
    return RankInfo(rank, world_size, local_rank, torch_device)


def _require_gpu() -> None:
    if not torch.cuda.is_available():
        raise FmctError(
            "engine.device=gpu: PyTorch finds no GPU on this machine (see `fmct doctor`); use a machine with "
            "a GPU, or engine.device=cpu"
        )


def collective_timeout(hang_minutes: float) -> timedelta:
    """Timeout of collectives, with a watchdog of `hang_minutes`."""
    return timedelta(minutes=hang_minutes + SPARE_MINUTES)


def rank_and_size() -> tuple[int, int]:
    """This process's rank and the number of ranks, as in `join`; also before joining."""
    job = RunningJob.current()
    return _number("RANK", job.rank, 0), _number("WORLD_SIZE", job.ranks, 1)


def _number(name: str, of_job: int | None, default: int) -> int:
    return int(os.environ.get(name) or (default if of_job is None else of_job))


def _export_rank(rank: int, world_size: int, local_rank: int) -> None:
    """Set torch's variables, from which DeepSpeed reads the rank."""
    variables = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": local_rank}
    os.environ.update({name: str(value) for name, value in variables.items()})
    if world_size == 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "0")  # any free port: no other process connects
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise FmctError(
                f"{name} is not set: start {world_size} ranks with `fmct train --ranks` or `fmct launch`"
            )


def _initialise(device: Literal["cpu", "gpu"], timeout: timedelta) -> None:
    # DeepSpeed selects its accelerator on import.
    os.environ["DS_ACCELERATOR"] = "cuda" if device == "gpu" else "cpu"
    import deepspeed
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 deprecates, in every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if device == "cpu":
        # On a CPU DeepSpeed would compile a shared-memory all-reduce, used for inference only. It looks the
        # operator up here; without it no C++ compiler is needed.
        vars(deepspeed.ops)["__compatible_ops__"] = {}
        # Ranges for NVIDIA's profiler, which DeepSpeed opens and closes a thousand times per step of stage 3.
        deepspeed.utils.nvtx.enable_nvtx = False
    backend = "nccl" if device == "gpu" else "gloo"
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)


def on_every_rank(function: Callable[[], Result], group: dist.ProcessGroup | None = None) -> list[Result]:
    """Call `function` on every rank of `group` (None: all); returns all results, by rank.

    If any rank raises FmctError, every rank raises that of the lowest rank.
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
    """Call `function` on rank 0; returns its result on all ranks.

    An FmctError ends every rank with its exit code; only rank 0 reports it.
    """
    try:
        return on_every_rank(lambda: function() if dist.get_rank() == 0 else None)[0]  # type: ignore[return-value]
    except FmctError as error:
        fail_together(error)


def fail_together(error: FmctError) -> NoReturn:
    """End every rank with the exit code of `error`, which all ranks know; only rank 0 reports it."""
    if dist.get_rank() == 0:
        raise error
    raise SystemExit(error.exit_code)
