"""Spreading features over the sphere: KoLeo (Sablayrolles et al. 2019, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fmct_hpc.fields import AtLeast0
from fmct_hpc.objective.part import Judged, Part, Seen
from shards.section import Section

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-8
"""Under the logarithm: two volumes may have one feature (as in DINOv2's published code)."""


class KoleoKeys(Section):
    """KoLeo's key."""

    koleo_weight: AtLeast0 = 0.0
    """Spreads the CLS tokens of a micro-batch over all ranks (Oquab et al. 2024, DINOv2: 0.1); the reference
    has none."""


class Koleo(Part):
    """Each volume's CLS token away from its nearest neighbour's, view by view of the global ones."""

    name = "koleo"
    title = "KoLeo"
    learns = False
    compares_volumes = True

    def loss(self, seen: Seen) -> Judged:
        """`koleo_loss`."""
        return Judged(koleo_loss(seen.whole_cls))


def koleo_loss(features: Tensor) -> Tensor:
    """-mean(log distance to the nearest other), summed over views; a float32 scalar.

    features: (G, B, width), of this rank. Each is compared with the same view of all other volumes of all
    ranks (of this micro-batch), at least one; the mean of the ranks' losses is then the loss, and of their
    gradients the gradient, of the whole batch in one process. All ranks must call it, with equal B.
    """
    import torch
    import torch.nn.functional as F

    from fmct_hpc.objective.ranks import joined

    own = F.normalize(features.float(), dim=-1)
    everyone, first = joined(own)
    # Autocast would compare in bfloat16.
    with torch.no_grad(), torch.autocast(own.device.type, enabled=False):
        similarity = own @ everyone.transpose(1, 2)  # nearest on the sphere is most similar
        similarity[:, torch.arange(own.shape[1]), first + torch.arange(own.shape[1])] = -torch.inf
        nearest = similarity.argmax(dim=-1)
    others = everyone.gather(1, nearest.unsqueeze(-1).expand_as(own))
    distances = F.pairwise_distance(own, others, eps=EPS)
    return -(distances + EPS).log().mean(dim=1).sum()
