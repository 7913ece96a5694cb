"""An exported encoder of head CT as a trainable backbone, and a UNETR-like network on it.

This file belongs to the folder that `fmct export-model --monai` wrote. It needs PyTorch, and `Unetr` MONAI.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AIR_HU = -1000.0


class Backbone(nn.Module):
    """Feature maps of an encoder behind three of its blocks; all of its weights can be trained."""

    def __init__(self, folder: Path | str) -> None:
        """Load it with its pretrained weights."""
        super().__init__()
        described = json.loads((Path(folder) / "encoder.json").read_text())
        self.data: dict[str, Any] = described["data"]
        self.spacing_mm: list[float] = described["spacing_mm"]
        self.width: int = described["model"]["width"]
        """Channels of a map."""
        self.channels = len(self.data["windows"])
        """Of the input."""
        size = self.data["view_size"]
        self.view_size: tuple[int, int, int] = (size,) * 3 if isinstance(size, int) else tuple(size)
        """(D, H, W) voxels of the input."""
        with (Path(folder) / "backbone.pt2").open("rb") as file:
            self.program = torch.export.load(file).module()

    def train(self, mode: bool = True) -> "Backbone":
        """Nothing in the encoder depends on the mode, and an exported program refuses the call."""
        self.training = mode
        return self

    def forward(self, views: Tensor) -> list[Tensor]:
        """float32 (B, channels, *view_size), windowed to [0, 1] (`view`), to (B, width, d, h, w) a block.

        Maps are from shallow to deep, one patch a place, behind the encoder's last LayerNorm.
        """
        return list(self.program(views))

    def view(self, hu: Tensor) -> Tensor:
        """The input of a volume, HU (D, H, W) growing towards superior, anterior, right: (C, *view_size).

        The volume has the encoder's spacing, `spacing_mm`, and the head in its middle.
        """
        windows = [(level - width / 2, width) for level, width in self.data["windows"]]
        cube = self._cube(hu.float(), AIR_HU)
        windowed = torch.stack([((cube - low) / width).clamp(0, 1) for low, width in windows])
        return F.adaptive_avg_pool3d(windowed, self.view_size)

    def view_of_mask(self, mask: Tensor) -> Tensor:
        """A mask on the volume's grid, bool (D, H, W), as the view shows it: (1, *view_size), of 0 and 1."""
        cube = self._cube(mask.float(), 0.0)
        return (F.adaptive_avg_pool3d(cube[None], self.view_size) >= 0.5).float()

    def _cube(self, volume: Tensor, outside: float) -> Tensor:
        """The field in the volume's middle, `field_mm` wide, padded where the volume ends."""
        if self.data["field"] != "isotropic":
            raise ValueError(
                "this encoder's field is squeezed to the head's box: prepare its input with fmct-hpc"
            )
        pads = []
        for size, spacing in reversed(list(zip(volume.shape, self.spacing_mm, strict=True))):
            edge = max(1, round(self.data["field_mm"] / spacing))
            first = -int((edge - size) / 2)
            pads += [-first, first + edge - size]
        return F.pad(volume, pads, value=outside)


class Unetr(nn.Module):
    """A decoder of MONAI's UNETR blocks (Hatamizadeh et al. 2022) on a backbone.

    The deepest map is doubled twice, with the shallower maps beside it, and meets the input at its own size;
    UNETR's own four doublings fit patches of 16 voxels only.
    """

    def __init__(self, backbone: Backbone, classes: int, features: int = 16) -> None:
        """classes: output channels, one a class; features: channels at full size."""
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
        found = self.up_to_middle(deep, self.middle(middle))
        found = self.up_to_shallow(found, self.shallow(shallow))
        found = F.interpolate(found, views.shape[2:], mode="trilinear", align_corners=False)
        joined = self.join(torch.cat([found, self.image(views)], dim=1))
        logits: Tensor = self.out(joined)
        return logits
