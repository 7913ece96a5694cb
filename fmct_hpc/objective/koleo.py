"""Spreading features over the sphere: KoLeo (Sablayrolles et al. 2019, section 3)."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from fmct_hpc.fields import AtLeast0
from fmct_hpc.objective.part import Judged, Part, Seen
from shards.section import Section

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
    own = F.normalize(features.float(), dim=-1)
    everyone = _GatherVolumes.apply(own)
    first = dist.get_rank() * own.shape[1] if dist.is_initialized() else 0
    # Autocast would compare in bfloat16.
    with torch.no_grad(), torch.autocast(own.device.type, enabled=False):
        similarity = own @ everyone.transpose(1, 2)  # nearest on the sphere is most similar
        similarity[:, torch.arange(own.shape[1]), first + torch.arange(own.shape[1])] = -torch.inf
        nearest = similarity.argmax(dim=-1)
    others = everyone.gather(1, nearest.unsqueeze(-1).expand_as(own))
    distances = F.pairwise_distance(own, others, eps=EPS)
    return -(distances + EPS).log().mean(dim=1).sum()


class _GatherVolumes(torch.autograd.Function):
    """(G, B, width) of every rank -> (G, ranks · B, width); gradients go back where it came from."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        if not dist.is_initialized():
            return own.clone()
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        if not dist.is_initialized():
            return gradient
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size(), dim=1)[dist.get_rank()]
