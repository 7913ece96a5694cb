"""An exported encoder of head CT as a trainable backbone, and a UNETR-like network on it.

This file is part of a folder written by `fmct export-model --monai`. It requires PyTorch; `Unetr` also
requires MONAI.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AIR_HU = -1000.0


class Backbone(nn.Module):
    """Feature maps of an encoder after three of its blocks; all weights are trainable."""

    def __init__(self, folder: Path | str) -> None:
        """Load the encoder with its pretrained weights."""
        super().__init__()
        described = json.loads((Path(folder) / "encoder.json").read_text())
        self.data: dict[str, Any] = described["data"]
        self.spacing_mm: list[float] = described["spacing_mm"]
        self.width: int = described["model"]["width"]
        """Channels of the maps."""
        self.channels = len(self.data["windows"])
        """Channels of the input."""
        size = self.data["view_size"]
        self.view_size: tuple[int, int, int] = (size,) * 3 if isinstance(size, int) else tuple(size)
        """Voxels of the input, (D, H, W)."""
        with (Path(folder) / "backbone.pt2").open("rb") as file:
            self.program = torch.export.load(file).module()

    def train(self, mode: bool = True) -> "Backbone":
        """Set only the flag: the encoder does not depend on it, and exported programs reject the call."""
        self.training = mode
        return self

    def forward(self, views: Tensor) -> list[Tensor]:
        """float32 (B, channels, *view_size), windowed to [0, 1] (`view`), to (B, width, d, h, w) per block.

        Maps are from shallow to deep, with one location per patch, after the encoder's last LayerNorm.
        """
        return list(self.program(views))

    def view(self, hu: Tensor) -> Tensor:
        """The input from a volume, HU (D, H, W), axes towards superior, anterior, right: (C, *view_size).

        The volume must have the encoder's spacing, `spacing_mm`, and the head in its centre.
        """
        windows = [(level - width / 2, width) for level, width in self.data["windows"]]
        cube = self._cube(hu.float(), AIR_HU)
        windowed = torch.stack([((cube - low) / width).clamp(0, 1) for low, width in windows])
        return F.adaptive_avg_pool3d(windowed, self.view_size)

    def view_of_mask(self, mask: Tensor) -> Tensor:
        """A mask on the volume's grid, bool (D, H, W), resampled to the view: (1, *view_size), 0 or 1."""
        cube = self._cube(mask.float(), 0.0)
        return (F.adaptive_avg_pool3d(cube[None], self.view_size) >= 0.5).float()

    def _cube(self, volume: Tensor, outside: float) -> Tensor:
        """The field around the volume's centre, `field_mm` wide, padded outside of the volume."""
        if self.data["field"] != "isotropic":
            raise ValueError("the field of this encoder is `squeezed`; prepare its input with fmct-hpc")
        pads = []
        for size, spacing in reversed(list(zip(volume.shape, self.spacing_mm, strict=True))):
            edge = max(1, round(self.data["field_mm"] / spacing))
            first = -int((edge - size) / 2)
            pads += [-first, first + edge - size]
        return F.pad(volume, pads, value=outside)


class Unetr(nn.Module):
    """A decoder of MONAI's UNETR blocks (Hatamizadeh et al. 2022) on a backbone.

    The deepest map is upsampled by 2 twice, with skip connections from the shallower maps, and then merged
    with the input at full size. UNETR's original four steps only fit patches of 16 voxels.
    """

    def __init__(self, backbone: Backbone, classes: int, features: int = 16) -> None:
        """classes: output channels, one per class; features: channels at full size."""
        super().__init__()
        from monai.networks.blocks.dynunet_block import UnetOutBlock
        from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock

        norm: dict[str, Any] = {"norm_name": "instance", "res_block": True}
        self.backbone = backbone
        width, f = backbone.width, features
        up = {"kernel_size": 3, "stride": 1, "upsample_kernel_size": 2, **norm}
        self.shallow = UnetrPrUpBlock(3, width, 2 * f, num_layer=1, conv_block=True, **up)
        self.middle = UnetrPrUpBlock(3, width, 4 * f, num_layer=0, conv_block=True, **up)
        self.up_to_middle = UnetrUpBlock(3, width, 4 * f, kernel_size=3, upsample_kernel_size=2, **norm)
        self.up_to_shallow = UnetrUpBlock(3, 4 * f, 2 * f, kernel_size=3, upsample_kernel_size=2, **norm)
        self.image = UnetrBasicBlock(3, backbone.channels, f, kernel_size=3, stride=1, **norm)
        self.join = UnetrBasicBlock(3, 3 * f, f, kernel_size=3, stride=1, **norm)
        self.out = UnetOutBlock(3, f, classes)

    def forward(self, views: Tensor) -> Tensor:
        """(B, channels, D, H, W) to logits (B, classes, D, H, W)."""
        shallow, middle, deep = self.backbone(views)
        decoded = self.up_to_middle(deep, self.middle(middle))
        decoded = self.up_to_shallow(decoded, self.shallow(shallow))
        decoded = F.interpolate(decoded, views.shape[2:], mode="trilinear", align_corners=False)
        joined = self.join(torch.cat([decoded, self.image(views)], dim=1))
        logits: Tensor = self.out(joined)
        return logits
