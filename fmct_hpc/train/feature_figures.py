"""What features tell of themselves: whether views are recognised, effective rank, likeness of patches.

All are of float64: the features are few, and a collapse shows in small differences.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def retrieval(first: Tensor, second: Tensor, volumes: Tensor) -> tuple[float, float]:
    """Share of volumes whose second view finds the first one among all volumes' first views; and chance.

    first, second: (N, width), features of the same N volumes; the nearest has the greatest cosine. volumes:
    int64 (N,), their numbers: a batch may hold a volume twice, and either of its first views is right.
    Chance is the mean share of right ones: 1/N where all volumes differ.
    """
    cosines = F.normalize(second.double(), dim=-1) @ F.normalize(first.double(), dim=-1).T
    found = volumes[cosines.argmax(dim=1)] == volumes
    right = volumes[:, None] == volumes
    return found.double().mean().item(), right.double().mean().item()


def effective_rank(gram: Tensor) -> float:
    """RankMe (Garrido et al. 2023, equation 1): exp of the entropy of the singular values' shares.

    gram: float64 (width, width), ZᵀZ of the features Z (rows, width), which are not centred. The paper adds
    1e-7 to each share, for float32; here a share of 0 adds nothing to the entropy.
    """
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    return torch.special.entr(values / values.sum()).sum().exp().item()


def similarities(cls: Tensor, patches: Tensor) -> Tensor:
    """Mean cosines inside each view: of two different patch tokens, and of a patch token and the CLS token.

    cls: (V, width); patches: (V, n, width). Returns float64 (V, 2); the first is NaN where n is 1.
    """
    n = patches.shape[1]
    total = F.normalize(patches.double(), dim=-1).sum(dim=1)
    of_patches = (total.square().sum(dim=-1) - n) / (n * (n - 1) or torch.nan)
    of_cls = (F.normalize(cls.double(), dim=-1) * total).sum(dim=-1) / n
    return torch.stack([of_patches, of_cls], dim=1)


def crop_likeness(first: Tensor, second: Tensor, crops: Tensor, volumes: Tensor) -> float:
    """Whether features that are near come of crops that are near: a correlation, over views of two volumes.

    first, second: (N, width), features of the volumes' two views; crops: float64 (2, N, K), what is known of
    their crops; volumes: int64 (N,). Of each second view and each first view of another volume, the cosine of
    the features and the distance of the crops, each of the K numbers in its standard deviations; those that
    do not vary say nothing. Returns Pearson's correlation of cosine and -distance: 0 where features tell
    nothing of the crop; NaN where no crop or no cosine varies.
    """
    cosines = F.normalize(second.double(), dim=-1) @ F.normalize(first.double(), dim=-1).T
    deviation = crops.flatten(0, 1).std(dim=0, correction=0)
    scaled = crops[..., deviation > 0] / deviation[deviation > 0]
    others = volumes[:, None] != volumes
    pairs = torch.stack([cosines[others], -torch.cdist(scaled[1], scaled[0])[others]])
    pairs = pairs - pairs.mean(dim=1, keepdim=True)
    return (pairs[0].dot(pairs[1]) / (pairs[0].norm() * pairs[1].norm())).item()
