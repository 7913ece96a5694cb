"""A 3D ResNet of MONAI as an encoder; the locations of its last map are the tokens.

ResNet-50 is He et al. 2016, table 1, with three-dimensional kernels (Hara et al. 2018), as built by MONAI's
`ResNet`. As a baseline it is trained from scratch by fine-tuning, or frozen with random weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fmct_hpc.model.tunable import Tunable
from fmct_hpc.peers.files import loaded_or_drawn
from fmct_hpc.peers.peer import Facts, Peer, WindowedField

STAGES = ("layer1", "layer2", "layer3", "layer4")
WIDTHS = [64, 128, 256, 512]
"""Channels within the blocks of each stage; the output of a bottleneck has four times as many."""
EXPANSION = 4


class ResidualTokens(Tunable):
    """(B, C, D, H, W) -> (B, N, width): the locations of the last stage's map, in the order (d, h, w)."""

    prefix = 0
    depth = len(STAGES)

    def __init__(self, network: nn.Module, width: int) -> None:
        super().__init__()
        self.network, self.width = network, width

    def forward(self, views: Tensor) -> Tensor:
        """Stem and stages, without the final pooling."""
        net: Any = self.network
        maps = net.maxpool(net.act(net.bn1(net.conv1(views))))
        for stage in STAGES:
            maps = getattr(net, stage)(maps)
        tokens: Tensor = maps.flatten(2).transpose(1, 2)
        return tokens

    def layer_of(self, name: str) -> int:
        """0 for the stem, 1 to 4 for the stages."""
        stage = name.removeprefix("network.").split(".")[0]
        return STAGES.index(stage) + 1 if stage in STAGES else 0


def bottlenecks(counts: list[int], channels: int, kernel: Sequence[int], stride: Sequence[int]) -> nn.Module:
    """A ResNet of bottleneck blocks without a classifier; kernel, stride: of the first convolution.

    Raises ImportError if MONAI is not installed.
    """
    from monai.networks.nets.resnet import ResNet

    return ResNet(
        "bottleneck",
        counts,
        WIDTHS,
        n_input_channels=channels,
        conv1_t_size=tuple(kernel),
        conv1_t_stride=tuple(stride),
        feed_forward=False,
        bias_downsample=False,
    )


class ResNet50(Peer):
    """MONAI's 3D ResNet-50 on the windows of this package's encoders."""

    name = "resnet50"
    settings = WindowedField
    weights = "a state dict of MONAI's resnet50, or none with `untrained`"

    def __init__(self, module: Tunable, settings: WindowedField) -> None:
        super().__init__(module, settings)
        self._settings = settings

    @classmethod
    def open(cls, weights: Path | None, seed: int | None, settings: WindowedField) -> "ResNet50":
        """Random from a seed, or a state dict of `monai.networks.nets.resnet50(feed_forward=False)`."""

        def build() -> nn.Module:
            # Strides of 2 along all axes, as in MONAI's pretrained ResNets (`ResNetFeatures`).
            return bottlenecks([3, 4, 6, 3], len(settings.windows), (7, 7, 7), (2, 2, 2))

        network = loaded_or_drawn(cls.name, build, weights, seed, "module.", ("fc.",))
        return cls(ResidualTokens(network, EXPANSION * WIDTHS[-1]), settings)

    @classmethod
    def facts(cls, weights: Path | None) -> Facts:
        """No weights are published; licence and data of given weights are unknown."""
        unknown = "unknown" if weights else None
        source = "He et al. 2016; monai.networks.nets.resnet50"
        return Facts("3D ResNet-50 (MONAI)", source, unknown or "none", unknown or "nothing")

    def transform(self, volume: NDArray[np.int16], spacing_mm: Sequence[float]) -> Tensor:
        """Float32 (windows, D, H, W) in [0, 1] (`WindowedField`)."""
        return torch.from_numpy(self._settings.view(volume, spacing_mm))
