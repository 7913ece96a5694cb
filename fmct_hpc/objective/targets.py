"""From the teacher's logits to the targets of a step, over the global batch."""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fmct_hpc.config import TrainConfig


class Scores(NamedTuple):
    """A row of K, logits or probabilities, for each token that student and teacher are compared in."""

    cls: Tensor | None
    """(G, B, K) with DINO."""
    patches: Tensor | None
    """(M, K) with iBOT: the masked patches, in the order of `Masked.numbers`."""


NO_SCORES = Scores(None, None)
"""Where nothing is learned from a teacher."""


class RunningCentre(nn.Module):
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
        _all_reduce(self._total)
        count = self._total[-1]
        mean = self._total[:-1] / count.clamp(min=1)
        self.center.lerp_(mean, (1 - self.momentum) * (count > 0).float())
        self._total.zero_()

    def discard(self) -> None:
        """Forget the step's logits."""
        self._total.zero_()


class SinkhornKnopp(nn.Module):
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
        _all_reduce(greatest, dist.ReduceOp.MAX)
        q = (rows - greatest).exp()
        least = torch.finfo(q.dtype).tiny
        for _ in range(self.iterations):
            prototype_sums = q.sum(dim=0)
            _all_reduce(prototype_sums)
            q = q / prototype_sums.clamp(min=least)
            q = q / q.sum(dim=1, keepdim=True).clamp(min=least)
        sizes = [part.flatten(0, -2).shape[0] for part in logits]
        return [q_part.view_as(part) for q_part, part in zip(q.split(sizes), logits, strict=True)]

    def update(self) -> None:
        """Nothing is carried from step to step."""

    def discard(self) -> None:
        """Nothing was kept."""


class Targets(nn.Module):
    """The targets of a step; each kind of token has a centring of its own. A checkpoint carries its state."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.cls = _centring(config) if config.objective.dino_weight else None
        self.patches = _centring(config) if config.objective.ibot_weight else None

    @torch.no_grad()
    def of(self, logits: list[Scores], temperature: float) -> list[Scores]:
        """Targets for the teacher's logits of each micro-batch of a step; all ranks must call it."""
        cls = _each(self.cls, [part.cls for part in logits], temperature)
        patches = _each(self.patches, [part.patches for part in logits], temperature)
        return [Scores(*pair) for pair in zip(cls, patches, strict=True)]

    @torch.no_grad()
    def update(self) -> None:
        """Once a step, after it was found sound; all ranks must call it."""
        for centring in (self.cls, self.patches):
            if centring is not None:
                centring.update()

    @torch.no_grad()
    def discard(self) -> None:
        """In place of `update` for a step that was not sound."""
        for centring in (self.cls, self.patches):
            if centring is not None:
                centring.discard()


def _centring(config: TrainConfig) -> RunningCentre | SinkhornKnopp:
    if config.objective.centring == "sinkhorn":
        return SinkhornKnopp(config.objective.sinkhorn_iterations)
    return RunningCentre(config.model.prototypes, config.objective.center_momentum)


def _each(
    centring: RunningCentre | SinkhornKnopp | None, logits: list[Tensor | None], temperature: float
) -> list[Tensor] | list[None]:
    if centring is None:
        return [None for _ in logits]
    return centring.probabilities([part for part in logits if part is not None], temperature)


def _all_reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> None:
    if dist.is_initialized():
        dist.all_reduce(tensor, operation)
