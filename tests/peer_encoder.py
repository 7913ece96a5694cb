"""An external encoder, as named in a configuration file: peer_encoder:tiny."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fmct_hpc.probe.encoders import Encoder, weights_digest


class Tiny(Encoder):
    """One vector per volume: a linear layer on an 8³ thumbnail in the brain window."""

    poolings = ("cls",)

    def __init__(self, width: int) -> None:
        layer = nn.Linear(8**3, width)
        nn.init.constant_(layer.weight, 1 / 8**3)
        self.module = nn.Sequential(nn.Flatten(), layer, nn.Unflatten(1, (1, width)))
        self.digest = weights_digest(self.module, "8³, 0 to 80 HU")

    def transform(self, volume: NDArray[np.int16], spacing_mm: Sequence[float]) -> Tensor:
        brain = torch.from_numpy(volume).float().clamp(0, 80) / 80
        return F.adaptive_avg_pool3d(brain[None], 8)[0]


def tiny(width: int = 5) -> Tiny:
    return Tiny(width)
