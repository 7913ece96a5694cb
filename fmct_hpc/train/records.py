"""The records of a run: one JSON line per step, TensorBoard, log lines, pictures."""

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fmct_hpc.objective.part import Gallery
from fmct_hpc.objective.registry import PARTS
from fmct_hpc.train.figures import figures_of
from fmct_hpc.train.pace import Pace
from fmct_hpc.train.schedules import StepSettings
from fmct_hpc.train.slice_images import heat, slices
from shards.atomic import write_bytes

log = logging.getLogger(__name__)

CONSOLE = (
    *("loss", *(part.name for part in PARTS), "gradient_norm", "lr"),
    *("retrieval", "cls_rank", "probe_linear", "probe_knn"),
    *("volumes_per_second", "mfu", "data_wait", "data_wait_seconds", "damaged_volumes"),
)
"""The figures of a log line; metrics.jsonl and TensorBoard have all."""

_LOSSES = {"loss", *(part.name for part in PARTS)}
_SCHEDULES = {*StepSettings._fields, *(f"{part.name}_weight" for part in PARTS)}
_TIMES = re.compile(r"data_wait|save_|memory_gb|mfu|.*_per_second")


def group(name: str) -> str:
    """TensorBoard's group of a figure: loss, schedule, time, or health."""
    if name in _LOSSES:
        return "loss"
    if name in _SCHEDULES:
        return "schedule"
    return "time" if _TIMES.match(name) else "health"


class Records:
    """The records of a run, kept by rank 0."""

    def __init__(self, run: Path, start_step: int, last_step: int, log_every: int) -> None:
        """Open the records, and remove what an earlier attempt wrote for steps after `start_step`.

        last_step: the run's last step, for the time left; log_every: steps between log lines (`Pace`).
        """
        from torch.utils.tensorboard import SummaryWriter  # rank 0 alone needs it

        metrics = run / "metrics.jsonl"
        lines = metrics.read_bytes().splitlines() if metrics.exists() else []
        kept = [line for line in lines if (figures := figures_of(line)) and figures["step"] <= start_step]
        write_bytes(metrics, b"".join(line + b"\n" for line in kept))
        self._metrics = metrics.open("a", buffering=1)
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start_step + 1)
        self._run = run
        self._pace = Pace(last_step, log_every)

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Record the figures of `step`, counted from 1."""
        self._metrics.write(json.dumps({"step": step, **figures}) + "\n")
        for name, value in figures.items():
            self._board.add_scalar(f"{group(name)}/{name}", value, step)
        if (left := self._pace.step(step)) is not None:
            shown = [f"{name} {figures[name]:.4g}" for name in CONSOLE if name in figures]
            log.info("step %d: %s", step, ", ".join([*shown, *([f"ETA {left}"] if left else [])]))

    def gallery(self, step: int, gallery: Gallery, volumes: Mapping[str, Tensor]) -> None:
        """Write a part's gallery of a view: volumes (C, D, H, W) in [0, 1] by title, three slices each."""
        planes = {title: volume[0].cpu().float().numpy() for title, volume in volumes.items()}
        slices(self._picture(gallery.folder, step), planes)
        stack = torch.stack([volume[:1, volume.shape[1] // 2] for volume in volumes.values()])
        self._board.add_images(gallery.name, np.clip(stack.cpu().numpy(), 0, 1), step)

    def attention(self, step: int, view: Tensor, attention: Tensor) -> None:
        """Write the middle slices of a view (C, D, H, W), overlaid by its patches' attention (grid)."""
        grown = F.interpolate(attention[None, None], size=view.shape[1:], mode="trilinear")[0, 0]
        brain, glow = (tensor.cpu().float().numpy() for tensor in (view[0], grown))
        heat(self._picture("attention", step), brain, glow)

    def embedding(self, step: int, vectors: Tensor, columns: list[str], rows: list[list[str]]) -> None:
        """Add vectors (N, width) with the metadata `columns` to TensorBoard's projector."""
        self._board.add_embedding(vectors, metadata=rows, metadata_header=columns, global_step=step)

    def _picture(self, folder: str, step: int) -> Path:
        return self._run / folder / f"step-{step:08d}.png"

    def close(self) -> None:
        """Flush, sync and close the records."""
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        self._metrics.close()
        self._board.close()
