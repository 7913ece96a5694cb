"""KoLeo, which spreads features over the sphere (Sablayrolles et al. 2019, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fmct_hpc.fields import AtLeast0
from fmct_hpc.objective.part import ForwardPass, Part, PartLoss
from shards.section import Section

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-8
"""Added in the logarithm: two volumes may have equal features (as in DINOv2's published code)."""


class KoleoKeys(Section):
    """KoLeo's key."""

    koleo_weight: AtLeast0 = 0.0
    """Weight of KoLeo, which spreads the CLS tokens of a micro-batch over all ranks (Oquab et al. 2024,
    DINOv2: 0.1); the reference does not have it."""


class Koleo(Part):
    """Moves each volume's CLS token away from its nearest neighbour's, for each global view."""

    name = "koleo"
    title = "KoLeo"
    learns = False
    compares_volumes = True

    def loss(self, forward: ForwardPass) -> PartLoss:
        """`koleo_loss`."""
        return PartLoss(koleo_loss(forward.whole_cls))


def koleo_loss(features: Tensor) -> Tensor:
    """-mean(log distance to the nearest neighbour), summed over views; a float32 scalar.

    features: (G, B, width), of this rank. Each is compared with the same view of all other volumes of the
    micro-batch on all ranks, of which there must be one. The mean of the ranks' losses, and of their
    gradients, equals that of the whole batch in one process. All ranks must call it, with equal B.
    """
    import torch
    import torch.nn.functional as F

    from fmct_hpc.objective.ranks import joined

    own = F.normalize(features.float(), dim=-1)
    everyone, first = joined(own)
    # Autocast would compare in bfloat16.
    with torch.no_grad(), torch.autocast(own.device.type, enabled=False):
        similarity = own @ everyone.transpose(1, 2)  # the nearest on the sphere has the greatest cosine
        similarity[:, torch.arange(own.shape[1]), first + torch.arange(own.shape[1])] = -torch.inf
        nearest = similarity.argmax(dim=-1)
    others = everyone.gather(1, nearest.unsqueeze(-1).expand_as(own))
    distances = F.pairwise_distance(own, others, eps=EPS)
    return -(distances + EPS).log().mean(dim=1).sum()
