"""LeJEPA: views of a volume predict one another in embeddings kept Gaussian, without a teacher.

Balestriero and LeCun 2025, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics"
(arXiv 2511.08544), algorithms 1 and 2. SIGReg, a test for a standard normal along random directions, keeps
the embeddings from collapse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from pydantic import Field

from fmct_hpc.fields import AtLeast0, Positive
from fmct_hpc.objective.draws import generator
from fmct_hpc.objective.part import Costs, ForwardPass, Part, PartLoss, Sign
from shards.section import Section

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

POINTS, FARTHEST = 17, 5.0
"""Characteristic functions are compared at 17 points from -5 to 5 (algorithm 1)."""
POINT = math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + 1 / math.sqrt(3))
"""`sigreg` per volume where all embeddings are 0: the integral in closed form, 0.41."""
COLLAPSED = 0.9, 1.1
"""Ratios of `sigreg` to that of a point that count as collapse: standard deviations below 0.16. Above are
distributions wider than a normal."""
_STREAM = int.from_bytes(b"slice")


class LejepaKeys(Section):
    """LeJEPA's keys."""

    lejepa_weight: AtLeast0 = 0.0
    """Weight of LeJEPA (Balestriero and LeCun 2025: 1); the reference does not have it."""
    lejepa_lambda: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """SIGReg's share of the loss (Balestriero and LeCun 2025: 0.05; their minimal example: 0.02)."""
    lejepa_slices: Positive = 1024
    """Random directions per step along which embeddings are tested (as in the published README)."""
    lejepa_hidden: Positive = 2048
    """Width of the projector's two hidden layers (as in the published minimal example)."""
    lejepa_width: Positive = 128
    """Width of the projector's output, the embeddings (as in the published minimal example)."""


class Slices(NamedTuple):
    """The directions along which embeddings are tested."""

    directions: Tensor
    """float32 (width of the embeddings, M), columns of length 1."""


class Lejepa(Part):
    """Moves each view's embedding to the mean of the volume's global views; keeps embeddings Gaussian."""

    name = "lejepa"
    title = "LeJEPA"
    relates_views = True
    compares_volumes = True
    curves = {  # noqa: RUF012
        "LeJEPA: squared distance of views": ("lejepa_distance",),
        "LeJEPA: SIGReg": ("lejepa_sigreg",),
    }

    def require(self) -> None:
        """Raise ValueError for fewer than two views."""
        if self.config.data.views < 2:
            raise ValueError(
                "objective.lejepa_weight needs two views: raise data.global_views or data.local_views"
            )

    def modules(self) -> dict[str, nn.Module | nn.Parameter]:
        """The projector."""
        from fmct_hpc.objective.projector import Projector

        objective = self.config.objective
        return {
            "lejepa_projector": Projector(self.config.model, objective.lejepa_hidden, objective.lejepa_width)
        }

    def draw(self, step: int, samples: NDArray[np.int64]) -> Slices:
        """The directions of a step, shared by all micro-batches and ranks."""
        import torch

        objective = self.config.objective
        shape = objective.lejepa_width, objective.lejepa_slices
        drawn = generator(self.config.run.seed, _STREAM, step, 0).standard_normal(shape)
        return Slices(torch.from_numpy((drawn / np.linalg.norm(drawn, axis=0)).astype(np.float32)))

    def loss(self, forward: ForwardPass) -> PartLoss:
        """(1 - λ) · `distance_of_views` + λ · `sigreg` (algorithm 2)."""
        from fmct_hpc.objective.projector import Projector

        embeddings = forward.module("lejepa_projector", Projector)(forward.cls)
        distance = distance_of_views(embeddings, len(forward.whole))
        gaussian = sigreg(embeddings, forward.drawn.directions)
        share = self.config.objective.lejepa_lambda
        figures = {
            "lejepa_distance": distance.detach(),
            "lejepa_sigreg": gaussian.detach(),
            "lejepa_point": gaussian.detach() / sigreg_of_point(embeddings),
        }
        return PartLoss((1 - share) * distance + share * gaussian, figures)

    def parameters(self) -> dict[str, int]:
        """Parameters of the projector: three linear layers, the last with a bias, and two norms."""
        objective, hidden = self.config.objective, self.config.objective.lejepa_hidden
        layers = self.config.model.width * hidden + hidden**2 + (hidden + 1) * objective.lejepa_width
        return {"lejepa_projector": layers + 2 * 2 * hidden}

    def costs(self) -> Costs:
        """Costs of the projector on every view, and of the slices, which need no gradient."""
        objective, views = self.config.objective, self.config.data.views
        hidden, width, slices = objective.lejepa_hidden, objective.lejepa_width, objective.lejepa_slices
        projector = 2 * hidden * (self.config.model.width + hidden + width)
        return Costs(
            student=views * (projector + 2 * width * slices),
            unneeded=views * 2 * width * slices,
            outputs=views * (3 * slices * (POINTS // 2 + 1) + 2 * 4 * hidden),
        )

    def signs(self, figures: Mapping[str, float], several: bool) -> list[Sign]:
        """Collapse of the embeddings to one point, by SIGReg."""
        if "lejepa_point" not in figures or not several:
            return []
        low, high = COLLAPSED
        point = low < figures["lejepa_point"] < high
        return [
            Sign("the LeJEPA embeddings are nearly one point", point, "a greater objective.lejepa_lambda")
        ]


def distance_of_views(embeddings: Tensor, global_views: int) -> Tensor:
    """Mean squared difference of each view's embedding and the mean of the global views' (algorithm 2).

    embeddings: (V, B, K), global views first. Returns a float32 scalar.
    """
    embeddings = embeddings.float()
    return (embeddings - embeddings[:global_views].mean(dim=0)).square().mean()


def sigreg(embeddings: Tensor, directions: Tensor) -> Tensor:
    """Distance of embeddings from a standard normal: Epps and Pulley's statistic along directions.

    embeddings: (V, B, K); directions: float32 (K, M). Returns N ∫ |φ(t) - exp(-t²/2)|² exp(-t²/2) dt, a
    float32 scalar, by the trapezoidal rule: φ is the characteristic function of one view's N embeddings (all
    ranks) along one direction; the mean is over views and directions (algorithm 1). All ranks must call it,
    with equal B. N embeddings at 0 give 0.41 N (`POINT`), N samples of a standard normal about 1.06.
    """
    import torch

    from fmct_hpc.objective.ranks import mean_over_ranks, world_size

    step = 2 * FARTHEST / (POINTS - 1)
    # The integrand is even: one side is computed, and every point but 0 counts twice.
    t = step * torch.arange(POINTS // 2 + 1, device=embeddings.device)
    weights = torch.full_like(t, 2 * step)
    weights[0] = weights[-1] = step
    normal = (-t.square() / 2).exp()
    with torch.autocast(embeddings.device.type, enabled=False):  # it would project in bfloat16
        angles = (embeddings.float() @ directions).unsqueeze(-1) * t
        cosine, sine = mean_over_ranks(torch.stack([angles.cos().mean(dim=1), angles.sin().mean(dim=1)]))
        distances = ((cosine - normal).square() + sine.square()) @ (weights * normal)
    return world_size() * embeddings.shape[1] * distances.mean()


def sigreg_of_point(embeddings: Tensor) -> float:
    """`sigreg` where all embeddings, as many as these over all ranks, are 0."""
    from fmct_hpc.objective.ranks import world_size

    return POINT * world_size() * embeddings.shape[1]
