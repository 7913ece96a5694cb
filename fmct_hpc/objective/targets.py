"""From the teacher's logits to the targets of a step, over the global batch."""

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
    """Makes targets of what the teacher says in a step; its state is in checkpoints."""

    def probabilities(self, logits: list[Tensor], temperature: float) -> list[Tensor]:
        """float32 targets for the logits (..., K) of each micro-batch of a step; all ranks must call it."""
        raise NotImplementedError

    def update(self) -> None:
        """Once a step, after it was found sound; nothing is carried where this does nothing."""

    def discard(self) -> None:
        """In place of `update` for a step that was not sound."""


class RunningCentre(Centring):
    """softmax((logits - centre) / temperature), the centre a running mean (Caron et al. 2021, equation 4)."""

    center: Tensor
    _total: Tensor

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(prototypes))
        # The sum of this step's rows, and behind it their number.
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
        """Forget the step's logits."""
        self._total.zero_()


class SinkhornKnopp(Centring):
    """Equal shares for all prototypes over the step's global batch (Caron et al. 2020, section 3.1).

    From Q = exp(logits / temperature), in turn every prototype's sum and every row's sum are made equal
    (Cuturi 2013), rows last; rows are those of all micro-batches and ranks.
    """

    def __init__(self, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations

    def probabilities(self, logits: list[Tensor], temperature: float) -> list[Tensor]:
        """float32 targets for the logits (..., K) of each micro-batch of a step; all ranks must call it."""
        rows = torch.cat([part.float().flatten(0, -2) for part in logits]) / temperature
        # A common factor of Q changes nothing; with the greatest logit at 0, exp can't overflow.
        greatest = rows.max() if rows.numel() else rows.new_tensor(-torch.inf)
        all_reduce(greatest, dist.ReduceOp.MAX)
        q = (rows - greatest).exp()
        least = torch.finfo(q.dtype).tiny
        for _ in range(self.iterations):
            prototype_sums = q.sum(dim=0)
            all_reduce(prototype_sums)
            q = q / prototype_sums.clamp(min=least)
            q = q / q.sum(dim=1, keepdim=True).clamp(min=least)
        sizes = [part.flatten(0, -2).shape[0] for part in logits]
        return [q_part.view_as(part) for q_part, part in zip(q.split(sizes), logits, strict=True)]


class Targets(nn.Module):
    """The targets of a step; parts have centrings of their own. A checkpoint carries their state."""

    def __init__(self, config: "TrainConfig") -> None:
        super().__init__()
        self._centrings: dict[str, Centring] = {}
        for part in config.parts:
            if centring := part.centring():
                self.add_module(part.target_name, centring)
                self._centrings[part.name] = centring

    @torch.no_grad()
    def of(self, said: Sequence[Mapping[str, Tensor]], temperature: float) -> list[dict[str, Tensor]]:
        """Targets by part, of what the teacher said in each micro-batch of a step; all ranks must call it."""
        targets = [dict(answers) for answers in said]
        for name, centring in self._centrings.items():
            found = centring.probabilities([answers[name] for answers in said], temperature)
            for each, target in zip(targets, found, strict=True):
                each[name] = target
        return targets

    @torch.no_grad()
    def update(self) -> None:
        """Once a step, after it was found sound; all ranks must call it."""
        for centring in self._centrings.values():
            centring.update()

    @torch.no_grad()
    def discard(self) -> None:
        """In place of `update` for a step that was not sound."""
        for centring in self._centrings.values():
            centring.discard()
