"""Figures of features without labels: retrieval of views, effective rank, similarity of patches and crops.

All are computed in float64: there are few features, and a collapse shows in small differences.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def retrieval(first: Tensor, second: Tensor, volumes: Tensor) -> tuple[float, float]:
    """Share of volumes whose second view retrieves the first one among all first views; and that by chance.

    first, second: (N, width), features of the same N volumes; the nearest one has the greatest cosine.
    volumes: int64 (N,), their numbers: a batch may contain a volume twice, then both first views are correct.
    Chance is the mean share of correct ones: 1/N where all volumes differ.
    """
    cosines = F.normalize(second.double(), dim=-1) @ F.normalize(first.double(), dim=-1).T
    retrieved = volumes[cosines.argmax(dim=1)] == volumes
    correct = volumes[:, None] == volumes
    return retrieved.double().mean().item(), correct.double().mean().item()


def effective_rank(gram: Tensor) -> float:
    """RankMe (Garrido et al. 2023, equation 1): exp of the entropy of the singular values' shares.

    gram: float64 (width, width), ZᵀZ of the uncentred features Z (rows, width). The paper adds 1e-7 to each
    share, for float32; here a share of 0 contributes 0 to the entropy.
    """
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    return torch.special.entr(values / values.sum()).sum().exp().item()


def similarities(cls: Tensor, patches: Tensor) -> Tensor:
    """Mean cosines within each view: of two different patch tokens, and of a patch token and the CLS token.

    cls: (V, width); patches: (V, n, width). Returns float64 (V, 2); the first is NaN where n is 1.
    """
    n = patches.shape[1]
    total = F.normalize(patches.double(), dim=-1).sum(dim=1)
    of_patches = (total.square().sum(dim=-1) - n) / (n * (n - 1) or torch.nan)
    of_cls = (F.normalize(cls.double(), dim=-1) * total).sum(dim=-1) / n
    return torch.stack([of_patches, of_cls], dim=1)


def crop_likeness(first: Tensor, second: Tensor, crops: Tensor, volumes: Tensor) -> float:
    """Correlation of nearness in features and nearness of crops, over views of different volumes.

    first, second: (N, width), features of the volumes' two views; crops: float64 (2, N, K), K parameters of
    each crop; volumes: int64 (N,). For each second view and each first view of another volume: the cosine of
    the features and the distance of the crops, each parameter in units of its standard deviation, without
    constant ones. Returns Pearson's correlation of cosine and -distance: 0 where features are independent of
    the crop; NaN where no crop or no cosine varies.
    """
    cosines = F.normalize(second.double(), dim=-1) @ F.normalize(first.double(), dim=-1).T
    deviation = crops.flatten(0, 1).std(dim=0, correction=0)
    scaled = crops[..., deviation > 0] / deviation[deviation > 0]
    others = volumes[:, None] != volumes
    pairs = torch.stack([cosines[others], -torch.cdist(scaled[1], scaled[0])[others]])
    pairs = pairs - pairs.mean(dim=1, keepdim=True)
    return (pairs[0].dot(pairs[1]) / (pairs[0].norm() * pairs[1].norm())).item()
