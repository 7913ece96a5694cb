"""The training loop."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.loader import Batch, Loader
from fmct_hpc.model.execution import set_execution
from fmct_hpc.objective.draws import Draws, draw
from fmct_hpc.objective.student import Losses
from fmct_hpc.objective.targets import Targets
from fmct_hpc.train.anchor import Anchor
from fmct_hpc.train.checkpoint import InitialWeights
from fmct_hpc.train.engine import build_engine, update
from fmct_hpc.train.process_group import RankInfo
from fmct_hpc.train.saver import Saver
from fmct_hpc.train.schedules import StepSettings, settings
from fmct_hpc.train.signals import StopRequest
from fmct_hpc.train.start import initial
from fmct_hpc.train.state import State
from fmct_hpc.train.teacher import MeanTeacher

log = logging.getLogger(__name__)

LAST_SECONDS = 60.0
"""Time reserved before the end, besides a step and a save: export of the encoder, exit, a slow file
system."""


class Outcome(NamedTuple):
    """The result of a step; the same on all ranks."""

    figures: dict[str, float]
    """Losses, signs of collapse and the gradient norm over all ranks, and the step's settings."""
    stop: bool
    """Whether any rank received a stop request."""
    non_finite: str
    """The volumes that caused a non-finite loss or gradient, which updated nothing; else empty."""


class Training:
    """Everything that a run updates: the student under DeepSpeed, teacher, anchor, centres of targets."""

    def __init__(
        self, config: TrainConfig, rank_info: RankInfo, beginning: InitialWeights | None = None
    ) -> None:
        """beginning: source of the weights; None: random weights, or those of a checkpoint loaded later."""
        self.config = config
        self.rank_info = rank_info
        student, averages, centres = initial(config, beginning)
        set_execution(student, config.engine)
        # The teacher is copied first: under stage 3 DeepSpeed empties the student's tensors.
        self.teacher = MeanTeacher(config, student, rank_info, averages) if config.objective.distils else None
        self.targets = Targets(config).to(rank_info.device) if config.objective.distils else None
        if self.targets:
            self.targets.load_state_dict(centres, strict=False)
        anchored = next((part for part in config.parts if part.anchored), None)
        self.anchor = Anchor(anchored, config, student, rank_info) if anchored else None
        self.engine = build_engine(config, student, rank_info)
        averaged = self.teacher.parameters if self.teacher else {}
        self.state = State(self.engine, averaged, self.targets, self.anchor.parameters if self.anchor else {})

    def step(self, step: int, batches: list[Batch], stop: bool) -> Outcome:
        """Run step number `step`, counted from 0, on this rank's micro-batches."""
        now = settings(self.config, step)
        if self.anchor and self.teacher and self.anchor.part.refreshes(step):
            self.anchor.refresh(self.teacher)
        draws = [draw(self.config, step, batch.indices).to(self.rank_info.device) for batch in batches]
        losses: list[Losses] = []
        for batch, drawn, targets in zip(batches, draws, self._targets(batches, draws, now), strict=True):
            if losses:
                self.engine.step()  # marks the end of the previous micro-batch for DeepSpeed
            losses.append(self.engine(batch.views, targets, drawn, now))
            self.engine.backward(losses[-1].total)
        figures, stop = self._agree(losses, batches, stop)
        figures["gradient_norm"] = update(self.engine, now)
        non_finite = "" if math.isfinite(figures["gradient_norm"]) else _non_finite_source(losses, batches)
        if self.teacher and self.targets:
            if non_finite:
                self.targets.discard()
            else:
                self.targets.update()
                self.teacher.update(self.engine.module, now.momentum)
        return Outcome(figures | now.figures(), stop, non_finite)

    def _targets(
        self, batches: list[Batch], draws: list[Draws], now: StepSettings
    ) -> list[dict[str, Tensor]]:
        """Targets of each micro-batch from the teacher and the anchor, by part."""
        if self.teacher is None or self.targets is None:
            return [{} for _ in batches]
        outputs = [
            self.teacher(batch.views.whole, drawn, now) for batch, drawn in zip(batches, draws, strict=True)
        ]
        targets = self.targets.of(outputs, now.teacher_temperature)
        if self.anchor and now.weights[self.anchor.part.name]:
            for each, batch in zip(targets, batches, strict=True):
                each[self.anchor.part.name] = self.anchor(batch.views.whole)
        return targets

    def _agree(self, losses: list[Losses], batches: list[Batch], stop: bool) -> tuple[dict[str, float], bool]:
        """Average the figures over ranks and micro-batches, and reduce the stop request.

        Adds figures of the data: seconds waited for all micro-batches, the mean over ranks; damaged volumes
        replaced by others, the sum over ranks.
        """
        rows = [_figures(loss) for loss in losses]
        mean = torch.stack([torch.stack(list(row.values())) for row in rows]).double().mean(dim=0)
        waited, damaged = sum(b.wait_seconds for b in batches), sum(len(b.skipped) for b in batches)
        shared = torch.cat([mean, mean.new_tensor([waited, damaged, float(stop)])])
        dist.all_reduce(shared)
        *values, waited, damaged, stopping = shared.tolist()
        world_size = self.rank_info.world_size
        figures = {name: v / world_size for name, v in zip(rows[0], values, strict=True)}
        figures |= {"data_wait_seconds": waited / world_size, "damaged_volumes": damaged}
        return figures, stopping > 0


class Finished(NamedTuple):
    """A completed step, for observers."""

    done: int
    """Number of completed steps, including this one."""
    batches: list[Batch]
    """This rank's micro-batches."""
    outcome: Outcome
    seconds: float
    """Duration, including the wait for data."""
    waited: float
    """Seconds that this rank waited for data."""
    saves: dict[str, float]
    """Figures of saves since the previous step."""


def _figures(losses: Losses) -> dict[str, Tensor]:
    """Detached 0-d float32 tensors by the names of their metrics."""
    parts = {"loss": losses.total, **losses.parts, **losses.health}
    return {name: value.detach().float() for name, value in parts.items()}


def _non_finite_source(losses: list[Losses], batches: list[Batch]) -> str:
    """A message that names the volumes with a non-finite loss, by rank; all ranks must call it."""
    mine = [
        key
        for loss, batch in zip(losses, batches, strict=True)
        if not torch.isfinite(loss.total)
        for key in batch.keys
    ]
    everyone: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    ranks = [f"rank {rank}: {', '.join(keys)}" for rank, keys in enumerate(everyone) if keys]
    return f"volumes of {'; '.join(ranks)}" if ranks else "every loss is finite, the gradient is not"


def micro_batches(loader: Loader, accumulate: int) -> Iterator[list[Batch]]:
    """The loader's micro-batches, grouped by step."""
    stream = iter(loader)
    while batches := list(itertools.islice(stream, accumulate)):
        yield batches


def run_steps(
    training: Training,
    loader: Loader,
    observe: Callable[[Finished], float | None],
    saver: Saver,
    steps: range,
    stop: StopRequest,
) -> tuple[int, bool]:
    """Run `steps`, saving at the configured interval and at the end.

    `observe` is called after each step and may return a score of the weights. Closes the loader after the
    last step. Returns the number of completed steps, and whether the run stopped early by a request.
    """
    config = training.config
    accumulation = config.accumulation(training.rank_info.world_size)
    done, stopping, slowest = steps.start, False, 0.0
    for step, batches in zip(steps, micro_batches(loader, accumulation), strict=False):
        began = time.perf_counter()
        waited = sum(batch.wait_seconds for batch in batches)
        # A run that cannot save stops now, not at its next save.
        stop_now = saver.failed or stop(needed=LAST_SECONDS + 2 * (slowest + saver.seconds))
        outcome = training.step(step, batches, stop_now)
        done, stopping = step + 1, outcome.stop
        seconds = waited + time.perf_counter() - began
        score = observe(Finished(done, batches, outcome, seconds, waited, saver.figures()))
        slowest = max(slowest, waited + time.perf_counter() - began)
        if stopping or done == steps.stop or done % config.run.checkpoint_every == 0:
            saver.save(done, score)
        if stopping:
            log.info("step %d: stopping; run the same command again to resume", done)
            break
    loader.close()  # failures of readers no longer matter
    saver.finish()
    return done, stopping
