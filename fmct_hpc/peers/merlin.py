"""Merlin (Blankemeier et al. 2024, arXiv 2406.06512), an inflated ResNet-152 for abdominal CT, as an encoder.

Layout and preprocessing are those of StanfordMIMI/Merlin at commit 2489a96: `merlin/models/i3res.py` and
`inflate.py` (a 2D ResNet-152 whose kernels of 7 x 7 and 3 x 3 are extended to depth 3, the others to depth 1;
the first convolution only halves the in-plane axes, later ones halve all axes), `merlin/models/build.py`
(its names in the checkpoint), and `merlin/data/monai_transforms.py`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fmct_hpc.model.tunable import Tunable
from fmct_hpc.peers.files import loaded_or_drawn
from fmct_hpc.peers.grid import as_tensor, fitted, resampled, scaled
from fmct_hpc.peers.peer import Facts, Peer, Settings
from fmct_hpc.peers.residual import EXPANSION, WIDTHS, ResidualTokens, bottlenecks

BLOCKS = [3, 8, 36, 3]
"""ResNet-152 (He et al. 2016, table 1)."""
RANGE_HU = (-1000.0, 1000.0)
SPACING_MM = (3.0, 1.5, 1.5)
"""(D, H, W); in Merlin 1.5 x 1.5 x 3 along right, anterior, superior."""
SIZE = (160, 224, 224)
"""Voxels (D, H, W); in Merlin 224 x 224 x 160."""
PREFIX = "encode_image.i3_resnet."
IGNORED = ("classifier.", "contrastive_head.")
"""Heads after pooling: phenotypes, and the image projection of the contrastive loss."""


class MerlinTokens(ResidualTokens):
    """(B, 1, D, H, W) -> (B, N, 2048); Merlin's embedding is the mean of these tokens."""

    def forward(self, views: Tensor) -> Tensor:
        """Merlin's input layout: slices first, then right and anterior, in three identical channels."""
        return super().forward(views.transpose(3, 4).expand(-1, 3, -1, -1, -1))


class Merlin(Peer):
    """Merlin; its embedding of 2048 channels (`ImageEmbedding=True`) is the mean of the tokens."""

    name = "merlin"
    settings = Settings
    weights = "the .pt file of stanfordmimi/Merlin on Hugging Face, or a .safetensors of its tensors"

    @classmethod
    def open(cls, weights: Path | None, seed: int | None, settings: Settings) -> "Merlin":
        """From a published checkpoint (with or without text encoder), or random weights from a seed."""
        network = loaded_or_drawn(cls.name, network_of, weights, seed, PREFIX, IGNORED)
        module: Tunable = MerlinTokens(network, EXPANSION * WIDTHS[-1])
        return cls(module, settings)

    @classmethod
    def facts(cls, weights: Path | None) -> Facts:
        """According to the repository."""
        return Facts(
            "Merlin",
            "github.com/StanfordMIMI/Merlin at 2489a96",
            "MIT",
            "15,331 abdominal CTs of one hospital, with reports and diagnosis codes",
        )

    def transform(self, volume: NDArray[np.int16], spacing_mm: Sequence[float]) -> Tensor:
        """Float32 (1, 160, 224, 224): -1000 to 1000 HU as 0 to 1, 480 x 336 x 336 mm around the centre."""
        return fitted(scaled(resampled(as_tensor(volume), spacing_mm, SPACING_MM), *RANGE_HU), SIZE, 0.0)[
            None
        ]


def network_of() -> nn.Module:
    """The inflated ResNet-152, without its heads."""
    return bottlenecks(BLOCKS, 3, (3, 7, 7), (1, 2, 2))
