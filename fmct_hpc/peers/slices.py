"""A 2D encoder on each slice of a volume: DINOv2 and DINOv3 of transformers, from a local folder.

Each slice is an image with three windows as channels. Its CLS token is a token of the volume: `attentive`
pools them by attention over slices, the linear methods use their mean.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor, nn

from fmct_hpc.fields import BoxSize, edges
from fmct_hpc.model.tunable import Tunable
from fmct_hpc.peers.files import drawn
from fmct_hpc.peers.peer import Facts, Peer, WindowedField, missing_library
from shards import json_text
from shards.errors import FmctError, raise_refusal

LICENCES = {
    "dinov2": "Apache-2.0",
    "dinov2_with_registers": "Apache-2.0",
    "dinov3_vit": "DINOv3 License",
}
"""Licences of the published weights by supported model type; their last hidden state begins with CLS."""
_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")


class SlicesSettings(WindowedField):
    """Settings of the images: a view of the whole field, where D is the number of slices."""

    view_size: BoxSize = (40, 224, 224)
    """Slices of 5.6 mm, as in clinical reading, with 1 mm pixels; H and W are multiples of the patch size."""

    @model_validator(mode="after")
    def _three_channels(self) -> "SlicesSettings":
        if len(self.windows) != 3:
            raise ValueError("windows: expected three, one per channel of an image")
        return self


class SliceTokens(Tunable):
    """(B, 3, S, H, W) in [0, 1] -> (B, S, width): the CLS token of each slice."""

    prefix = 0
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, width: int, depth: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network, self.width, self.depth = network, width, depth
        self.register_buffer("mean", mean.reshape(3, 1, 1))
        self.register_buffer("std", std.reshape(3, 1, 1))

    def forward(self, views: Tensor) -> Tensor:
        """Encode all slices of the batch together, standardised as in the network's training."""
        images = (views.transpose(1, 2).flatten(0, 1) - self.mean) / self.std
        cls = self.network(pixel_values=images).last_hidden_state[:, 0]
        return cls.unflatten(0, (len(views), -1))

    def layer_of(self, name: str) -> int:
        """0 for the embedding; the last norm is grouped with the head."""
        match = _LAYER.search(name)
        if match:
            return int(match[1]) + 1
        return self.depth + 1 if "norm" in name else 0


class Slices(Peer):
    """A vision transformer for natural images, slice by slice."""

    name = "slices"
    settings = SlicesSettings
    weights = "a folder with config.json, model.safetensors and preprocessor_config.json"

    def __init__(self, module: Tunable, settings: SlicesSettings) -> None:
        super().__init__(module, settings)
        self._settings = settings

    @classmethod
    def open(cls, weights: Path | None, seed: int | None, settings: SlicesSettings) -> "Slices":
        """Load from such a folder; with a seed, only the architecture in config.json, with random weights.

        No code of the folder is run, and no network is accessed. Raises FmctError for an unsupported model
        type, for missing weights in safetensors, and for a patch size that does not divide the slices.
        """
        if weights is None:
            raise FmctError(f"peer {cls.name}: requires `weights`, {cls.weights}")
        kind, patch = _described(weights)
        _, height, width = edges(settings.view_size)
        if height % patch or width % patch:
            raise FmctError(
                f"peer {cls.name}: slices of {height} x {width} are not multiples of the patch size {patch} "
                f"of {weights}"
            )
        try:
            network = _network(weights, seed)
        except ImportError as error:
            raise missing_library(cls.name, error) from None
        config: Any = network.config
        if config.model_type != kind:
            raise FmctError(f"{weights}: model_type is {config.model_type}; expected {kind}")
        mean, std = (_statistics(weights, key) for key in ("image_mean", "image_std"))
        return cls(SliceTokens(network, config.hidden_size, config.num_hidden_layers, mean, std), settings)

    @classmethod
    def facts(cls, weights: Path | None) -> Facts:
        """By the model type in the folder's config.json."""
        kind = _described(weights)[0] if weights else ""
        return Facts(
            f"{kind}, slice by slice" if kind else "2D, slice by slice",
            "Oquab et al. 2024 (DINOv2), Siméoni et al. 2025 (DINOv3); transformers",
            LICENCES.get(kind, "unknown"),
            "natural images",
        )

    def transform(self, volume: NDArray[np.int16], spacing_mm: Sequence[float]) -> Tensor:
        """Float32 (3, S, H, W) in [0, 1]: windowed, averaged over voxels; rows grow towards posterior.

        Images have the radiological orientation: anterior at the top, the patient's right on the left.
        """
        view = self._settings.view(volume, spacing_mm)
        return torch.from_numpy(np.ascontiguousarray(view[:, :, ::-1, ::-1]))


def _network(folder: Path, seed: int | None) -> nn.Module:
    """The model in float32, with code of transformers only."""
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes about a second
    try:
        if seed is not None:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            return drawn(lambda: AutoModel.from_config(config, trust_remote_code=False).float(), seed)
        model, report = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise_refusal(error, folder)
        detail = " ".join(str(error).split())[:200]
        raise FmctError(f"{folder}: transformers cannot load it: {detail}") from None
    for what, key in (("missing tensor", "missing_keys"), ("tensor of another shape", "mismatched_keys")):
        if report[key]:
            raise FmctError(f"{folder}: {what} {min(map(str, report[key]))}")
    return model


def _described(folder: Path) -> tuple[str, int]:
    """Model type and patch size from config.json; raises FmctError for an unsupported type."""
    document = _json(folder / "config.json")
    kind, patch = document.get("model_type"), document.get("patch_size")
    if kind not in LICENCES or not isinstance(patch, int) or patch < 1:
        raise FmctError(f"{folder / 'config.json'}: model_type {kind!r}; expected {', '.join(LICENCES)}")
    return kind, patch


def _statistics(folder: Path, key: str) -> Tensor:
    """Mean or standard deviation of the three channels, from preprocessor_config.json."""
    values: Any = _json(folder / "preprocessor_config.json").get(key)
    good = isinstance(values, list) and len(values) == 3 and all(isinstance(v, int | float) for v in values)
    if not good or (key.endswith("std") and min(values) <= 0):
        raise FmctError(f"{folder / 'preprocessor_config.json'}: {key}: expected three numbers")
    return torch.tensor(values, dtype=torch.float32)


def _json(file: Path) -> dict[str, Any]:
    try:
        document = json_text.parse(file.read_bytes())
    except (OSError, json.JSONDecodeError, ValueError) as error:
        raise_refusal(error, file)
        raise FmctError(f"{file}: missing or not JSON; expected {Slices.weights}") from None
    if not isinstance(document, dict):
        raise FmctError(f"{file}: not a JSON object")
    return document
