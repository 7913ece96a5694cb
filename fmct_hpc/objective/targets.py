"""Compute the targets of a step from the teacher's logits, over the global batch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fmct_hpc.objective.ranks import all_reduce

if TYPE_CHECKING:
    from fmct_hpc.config import TrainConfig


class Centring(nn.Module):
    """Converts the teacher's logits of a step to targets; its state is in checkpoints."""

    def probabilities(self, logits: list[Tensor], temperature: float) -> list[Tensor]:
        """float32 targets for the logits (..., K) of each micro-batch of a step; all ranks must call it."""
        raise NotImplementedError

    def update(self) -> None:
        """Update the state after a finite step; does nothing in a stateless centring."""

    def discard(self) -> None:
        """Called instead of `update` after a non-finite step."""


class RunningCentre(Centring):
    """softmax((logits - centre) / temperature) with a running mean as centre (Caron et al. 2021, eq. 4)."""

    center: Tensor
    _total: Tensor

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(prototypes))
        # The sum of this step's rows, then their number.
        self.register_buffer("_total", torch.zeros(prototypes + 1), persistent=False)

    def probabilities(self, logits: list[Tensor], temperature: float) -> list[Tensor]:
        """float32 targets for the logits (..., K) of each micro-batch of a step."""
        for part in logits:
            rows = part.float().flatten(0, -2)
            self._total += torch.cat([rows.sum(dim=0), rows.new_tensor([float(len(rows))])])
        return [F.softmax((part.float() - self.center) / temperature, dim=-1) for part in logits]

    def update(self) -> None:
        """Move the centre towards the mean of the step's logits over all ranks."""
        all_reduce(self._total)
        count = self._total[-1]
        mean = self._total[:-1] / count.clamp(min=1)
        self.center.lerp_(mean, (1 - self.momentum) * (count > 0).float())
        self._total.zero_()

    def discard(self) -> None:
        """Discard the step's logits."""
        self._total.zero_()


class SinkhornKnopp(Centring):
    """Equal shares for all prototypes over the step's global batch (Caron et al. 2020, section 3.1).

    Normalises Q = exp(logits / temperature) alternately by prototypes and by rows, rows last (Cuturi 2013);
    rows are those of all micro-batches and ranks.
    """

    def __init__(self, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations

    def probabilities(self, logits: list[Tensor], temperature: float) -> list[Tensor]:
        """float32 targets for the logits (..., K) of each micro-batch of a step; all ranks must call it."""
        rows = torch.cat([part.float().flatten(0, -2) for part in logits]) / temperature
        # A common factor of Q has no effect; with a maximum of 0, exp can't overflow.
        maximum = rows.max() if rows.numel() else rows.new_tensor(-torch.inf)
        all_reduce(maximum, dist.ReduceOp.MAX)
        q = (rows - maximum).exp()
        tiny = torch.finfo(q.dtype).tiny
        for _ in range(self.iterations):
            prototype_sums = q.sum(dim=0)
            all_reduce(prototype_sums)
            q = q / prototype_sums.clamp(min=tiny)
            q = q / q.sum(dim=1, keepdim=True).clamp(min=tiny)
        sizes = [part.flatten(0, -2).shape[0] for part in logits]
        return [q_part.view_as(part) for q_part, part in zip(q.split(sizes), logits, strict=True)]


class Targets(nn.Module):
    """The targets of a step, with one centring per part; their state is in checkpoints."""

    def __init__(self, config: "TrainConfig") -> None:
        super().__init__()
        self._centrings: dict[str, Centring] = {}
        for part in config.parts:
            if centring := part.centring():
                self.add_module(part.target_name, centring)
                self._centrings[part.name] = centring

    @torch.no_grad()
    def of(self, outputs: Sequence[Mapping[str, Tensor]], temperature: float) -> list[dict[str, Tensor]]:
        """Targets by part from the teacher's outputs of each micro-batch; all ranks must call it."""
        targets = [dict(by_part) for by_part in outputs]
        for name, centring in self._centrings.items():
            converted = centring.probabilities([by_part[name] for by_part in outputs], temperature)
            for each, target in zip(targets, converted, strict=True):
                each[name] = target
        return targets

    @torch.no_grad()
    def update(self) -> None:
        """Update all centrings after a finite step; all ranks must call it."""
        for centring in self._centrings.values():
            centring.update()

    @torch.no_grad()
    def discard(self) -> None:
        """Called instead of `update` after a non-finite step."""
        for centring in self._centrings.values():
            centring.discard()
