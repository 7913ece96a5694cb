"""LeJEPA: views of a volume predict one another in embeddings that are held to a Gaussian, without a teacher.

Balestriero and LeCun 2025, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics"
(arXiv 2511.08544), algorithms 1 and 2. What keeps embeddings from collapse is SIGReg, a test of whether they
are a standard normal along random directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from pydantic import Field

from fmct_hpc.fields import AtLeast0, Positive
from fmct_hpc.objective.draws import generator
from fmct_hpc.objective.part import Costs, Judged, Part, Seen
from shards.section import Section

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

POINTS, FARTHEST = 17, 5.0
"""Where characteristic functions are compared: so many points from -5 to 5 (algorithm 1)."""
_STREAM = int.from_bytes(b"slice")


class LejepaKeys(Section):
    """LeJEPA's keys."""

    lejepa_weight: AtLeast0 = 0.0
    """Views predict one another in Gaussian embeddings (Balestriero and LeCun 2025: 1); the reference has
    none."""
    lejepa_lambda: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """SIGReg's share of the loss (Balestriero and LeCun 2025: 0.05; their minimal example: 0.02)."""
    lejepa_slices: Positive = 1024
    """Random directions of a step, along which embeddings are tested (as in the published README)."""
    lejepa_hidden: Positive = 2048
    """Width of the projector's two hidden layers (as in the published minimal example)."""
    lejepa_width: Positive = 128
    """Of the embeddings that the projector makes of CLS tokens (as there)."""


class Slices(NamedTuple):
    """Along which embeddings are tested."""

    directions: Tensor
    """float32 (width of the embeddings, M), columns of length 1."""


class Lejepa(Part):
    """The embedding of every view, near that of the volume's global views; all of them a Gaussian."""

    name = "lejepa"
    title = "LeJEPA"
    relates_views = True
    compares_volumes = True
    curves = {  # noqa: RUF012
        "LeJEPA: squared distance of views": ("lejepa_distance",),
        "LeJEPA: SIGReg": ("lejepa_sigreg",),
    }

    def require(self) -> None:
        """Two views."""
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
        """The directions of a step, the same for all micro-batches and ranks."""
        import torch

        objective = self.config.objective
        shape = objective.lejepa_width, objective.lejepa_slices
        drawn = generator(self.config.run.seed, _STREAM, step, 0).standard_normal(shape)
        return Slices(torch.from_numpy((drawn / np.linalg.norm(drawn, axis=0)).astype(np.float32)))

    def loss(self, seen: Seen) -> Judged:
        """(1 - λ) · `distance_of_views` + λ · `sigreg` (algorithm 2)."""
        from fmct_hpc.objective.projector import Projector

        embeddings = seen.module("lejepa_projector", Projector)(seen.cls)
        distance = distance_of_views(embeddings, len(seen.whole))
        gaussian = sigreg(embeddings, seen.drawn.directions)
        share = self.config.objective.lejepa_lambda
        figures = {"lejepa_distance": distance.detach(), "lejepa_sigreg": gaussian.detach()}
        return Judged((1 - share) * distance + share * gaussian, figures)

    def parameters(self) -> dict[str, int]:
        """Of the projector: three linear layers, of which the last has a bias, and two norms."""
        objective, hidden = self.config.objective, self.config.objective.lejepa_hidden
        layers = self.config.model.width * hidden + hidden**2 + (hidden + 1) * objective.lejepa_width
        return {"lejepa_projector": layers + 2 * 2 * hidden}

    def costs(self) -> Costs:
        """The projector on every view, and the slices, which need no gradient themselves."""
        objective, views = self.config.objective, self.config.data.views
        hidden, width, slices = objective.lejepa_hidden, objective.lejepa_width, objective.lejepa_slices
        projector = 2 * hidden * (self.config.model.width + hidden + width)
        return Costs(
            student=views * (projector + 2 * width * slices),
            unneeded=views * 2 * width * slices,
            outputs=views * (3 * slices * (POINTS // 2 + 1) + 2 * 4 * hidden),
        )


def distance_of_views(embeddings: Tensor, global_views: int) -> Tensor:
    """Mean squared difference of each view's embedding and the mean of the global views' (algorithm 2).

    embeddings: (V, B, K), the global views first. Returns a float32 scalar.
    """
    embeddings = embeddings.float()
    return (embeddings - embeddings[:global_views].mean(dim=0)).square().mean()


def sigreg(embeddings: Tensor, directions: Tensor) -> Tensor:
    """How far embeddings are from a standard normal: Epps and Pulley's statistic along directions.

    embeddings: (V, B, K); directions: float32 (K, M). N ∫ |φ(t) - exp(-t²/2)|² exp(-t²/2) dt by the
    trapezoidal rule, φ the characteristic function of one view's N embeddings of all ranks along one
    direction; its mean over views and directions, a float32 scalar (algorithm 1). All ranks must call it,
    with equal B. Of a point at 0 it is 0.41 N, of N volumes of a standard normal about 1.06.
    """
    import torch

    from fmct_hpc.objective.ranks import mean_over_ranks, world_size

    step = 2 * FARTHEST / (POINTS - 1)
    # Both sides of 0 are the same, so one side is computed and all but 0 counts twice.
    t = step * torch.arange(POINTS // 2 + 1, device=embeddings.device)
    weights = torch.full_like(t, 2 * step)
    weights[0] = weights[-1] = step
    normal = (-t.square() / 2).exp()
    with torch.autocast(embeddings.device.type, enabled=False):  # it would project in bfloat16
        angles = (embeddings.float() @ directions).unsqueeze(-1) * t
        cosine, sine = mean_over_ranks(torch.stack([angles.cos().mean(dim=1), angles.sin().mean(dim=1)]))
        distances = ((cosine - normal).square() + sine.square()) @ (weights * normal)
    return world_size() * embeddings.shape[1] * distances.mean()
