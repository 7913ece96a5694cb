"""CT-FM (Pai et al. 2025, arXiv 2501.09001), a convolutional encoder for CT of the whole body.

Layout and preprocessing are those of project-lighter/CT-FM at commit f58c89a: network and preprocessing of
the pretraining (`experiments/fm/backbones/segresenc.yaml`, `experiments/fm/base.yaml`,
`experiments/fm/frameworks/intrasample_simclr.yaml`), pooling of features (`scripts/feature_extractor.py`),
and a fixed input size for heads (`evaluation/cq500.yaml`). Weights: model.safetensors of
project-lighter/ct_fm_feature_extractor or ct_fm_segresnet on Hugging Face.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from fmct_hpc.data.field import foreground
from fmct_hpc.fields import Above0
from fmct_hpc.model.tunable import Tunable
from fmct_hpc.peers.files import loaded_or_drawn
from fmct_hpc.peers.grid import AIR_HU, as_tensor, fitted, resampled, scaled
from fmct_hpc.peers.peer import Facts, Peer, Settings

BLOCKS = (1, 2, 2, 4, 4)
FILTERS = 32
HALVINGS = len(BLOCKS) - 1
PREFIX = "encoder."
"""Prefix of the encoder's tensors in ct_fm_segresnet, which also has a decoder."""
IGNORED = ("up_layers.",)


class CtFmSettings(Settings):
    """Settings of the input; the defaults are those of the pretraining."""

    spacing_mm: tuple[Above0, Above0, Above0] = (3.0, 1.0, 1.0)
    """(D, H, W), as in pretraining; the authors' classifier of head CT uses 5, 2, 2."""
    size: tuple[int, int, int] = (80, 224, 224)
    """Voxels (D, H, W), to which the foreground is padded or cropped, since volumes of a batch need the same
    size: 240 x 224 x 224 mm contain a head. The classifier of head CT uses 48, 128, 128."""
    ranges_hu: Annotated[tuple[tuple[float, float], ...], Field(min_length=1)] = ((-1024.0, 2048.0),)
    """HU that are mapped to 0 and 1. Images of several ranges are concatenated along D in the single channel,
    as in the classifier of head CT, which uses (0, 80), (-125, 175), (28, 36) and (-900, 2100)."""

    @model_validator(mode="after")
    def _fits_the_network(self) -> "CtFmSettings":
        if any(edge < 1 or edge % 2**HALVINGS for edge in self.size):
            raise ValueError(f"size: each edge must be a multiple of {2**HALVINGS}")
        if any(low >= high for low, high in self.ranges_hu):
            raise ValueError("ranges_hu: the first value of each must be below the second")
        return self


class CtFmTokens(Tunable):
    """(B, 1, D, H, W) -> (B, N, 512): the locations of the deepest map, in the order (d, h, w)."""

    prefix = 0
    depth = len(BLOCKS)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.width = network, FILTERS * 2**HALVINGS

    def forward(self, views: Tensor) -> Tensor:
        """The locations of the last map; CT-FM's embedding is their mean."""
        deepest: Tensor = self.network(views)[-1]
        return deepest.flatten(2).transpose(1, 2)

    def layer_of(self, name: str) -> int:
        """0 for the first convolution, 1 to 5 for the levels."""
        parts = name.removeprefix("network.").split(".")
        return int(parts[1]) + 1 if parts[0] == "layers" else 0


class CtFm(Peer):
    """CT-FM; its embedding of 512 channels is the mean of the tokens."""

    name = "ct-fm"
    settings = CtFmSettings
    weights = "model.safetensors of project-lighter/ct_fm_feature_extractor or ct_fm_segresnet"

    def __init__(self, module: Tunable, settings: CtFmSettings) -> None:
        super().__init__(module, settings)
        self._settings = settings

    @classmethod
    def open(cls, weights: Path | None, seed: int | None, settings: CtFmSettings) -> "CtFm":
        """From a published file, or with random weights from a seed, the authors' baseline."""
        network = loaded_or_drawn(cls.name, network_of, weights, seed, PREFIX, IGNORED)
        return cls(CtFmTokens(network), settings)

    @classmethod
    def facts(cls, weights: Path | None) -> Facts:
        """According to repository and model card."""
        return Facts(
            "CT-FM",
            "github.com/project-lighter/CT-FM at f58c89a",
            "Apache-2.0 (weights), MIT (code)",
            "148,000 CTs of the Imaging Data Commons, without labels",
        )

    def transform(self, volume: NDArray[np.int16], spacing_mm: Sequence[float]) -> Tensor:
        """Float32 (1, ranges · D, H, W) in [0, 1], axes towards superior, posterior, left.

        Resampled, cropped to the bounding box of values above 0 HU (if any), and padded with -1024 HU.
        """
        settings = self._settings
        turned = as_tensor(volume).flip(1, 2)
        grid = resampled(turned, spacing_mm, settings.spacing_mm)
        head = fitted(grid[foreground(grid.numpy())], settings.size, AIR_HU)
        return torch.cat([scaled(head, *limits) for limits in settings.ranges_hu])[None]


def network_of() -> nn.Module:
    """The encoder of SegResNet (Myronenko 2018) in MONAI."""
    from monai.networks.nets.segresnet_ds import SegResEncoder

    return SegResEncoder(spatial_dims=3, in_channels=1, init_filters=FILTERS, blocks_down=BLOCKS)
