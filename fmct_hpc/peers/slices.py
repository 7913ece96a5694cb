"""A 2D encoder on each slice of a volume: DINOv2 and DINOv3 of transformers, from a folder on this machine.

Each slice is an image of three windows. Its CLS token is a token of the volume, which `attentive` weighs by
attention over slices; the linear methods see their mean.
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
"""Of the published weights, by the kinds of model that are taken: their last hidden state begins with CLS."""
_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")


class SlicesSettings(WindowedField):
    """The images: a view of the whole field whose D is the number of slices."""

    view_size: BoxSize = (40, 224, 224)
    """Slices of 5.6 mm, as thick as clinical ones, of 1 mm pixels; H and W are multiples of the patch."""

    @model_validator(mode="after")
    def _three_channels(self) -> "SlicesSettings":
        if len(self.windows) != 3:
            raise ValueError("windows: an image has three channels, so give three")
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
        """All slices of the batch at once, standardised as the network's images were."""
        images = (views.transpose(1, 2).flatten(0, 1) - self.mean) / self.std
        cls = self.network(pixel_values=images).last_hidden_state[:, 0]
        return cls.unflatten(0, (len(views), -1))

    def layer_of(self, name: str) -> int:
        """The embedding is 0; the last norm goes with the head."""
        found = _LAYER.search(name)
        if found:
            return int(found[1]) + 1
        return self.depth + 1 if "norm" in name else 0


class Slices(Peer):
    """A vision transformer for natural images, slice by slice."""

    name = "slices"
    settings = SlicesSettings
    weights = "a folder with config.json, model.safetensors and preprocessor_config.json"

    def __init__(self, module: Tunable, given: SlicesSettings) -> None:
        super().__init__(module, given)
        self._given = given

    @classmethod
    def open(cls, weights: Path | None, seed: int | None, given: SlicesSettings) -> "Slices":
        """From such a folder; with a seed the architecture of its config.json alone, drawn anew.

        No code of the folder's is run, and nothing is asked of a network. Raises FmctError for a folder of
        another kind of model, without weights in safetensors, or with a patch that does not fit the views.
        """
        if weights is None:
            raise FmctError(f"peer {cls.name}: needs `weights`, {cls.weights}")
        kind, patch = _described(weights)
        _, height, width = edges(given.view_size)
        if height % patch or width % patch:
            raise FmctError(
                f"peer {cls.name}: slices of {height} x {width}, and {weights} has patches of {patch}"
            )
        try:
            network = _network(weights, seed)
        except ImportError as error:
            raise missing_library(cls.name, error) from None
        config: Any = network.config
        if config.model_type != kind:
            raise FmctError(f"{weights}: says {kind}, and is {config.model_type}")
        mean, std = (_statistics(weights, key) for key in ("image_mean", "image_std"))
        return cls(SliceTokens(network, config.hidden_size, config.num_hidden_layers, mean, std), given)

    @classmethod
    def facts(cls, weights: Path | None) -> Facts:
        """By the kind of model that the folder says it is."""
        kind = _described(weights)[0] if weights else ""
        return Facts(
            f"{kind}, slice by slice" if kind else "2D, slice by slice",
            "Oquab et al. 2024 (DINOv2), Siméoni et al. 2025 (DINOv3); transformers",
            LICENCES.get(kind, "unknown"),
            "natural images",
        )

    def transform(self, volume: NDArray[np.int16], spacing_mm: Sequence[float]) -> Tensor:
        """Float32 (3, S, H, W) in [0, 1]: windowed, averaged over voxels; rows grow towards posterior.

        Images are as radiologists look at them: anterior above, the patient's right on the left.
        """
        view = self._given.view(volume, spacing_mm)
        return torch.from_numpy(np.ascontiguousarray(view[:, :, ::-1, ::-1]))


def _network(folder: Path, seed: int | None) -> nn.Module:
    """The model in float32; transformers' own code alone."""
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # for a second's work
    try:
        if seed is not None:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            return drawn(lambda: AutoModel.from_config(config, trust_remote_code=False).float(), seed)
        model, told = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise_refusal(error, folder)
        said = " ".join(str(error).split())[:200]
        raise FmctError(f"{folder}: transformers cannot load it: {said}") from None
    for what, names in (("has no", told["missing_keys"]), ("has another shape of", told["mismatched_keys"])):
        if names:
            raise FmctError(f"{folder}: {what} {min(map(str, names))}")
    return model


def _described(folder: Path) -> tuple[str, int]:
    """Kind of model and patch, by config.json; FmctError for a kind that is not taken."""
    document = _json(folder / "config.json")
    kind, patch = document.get("model_type"), document.get("patch_size")
    if kind not in LICENCES or not isinstance(patch, int) or patch < 1:
        raise FmctError(f"{folder / 'config.json'}: model_type {kind!r}; expected {', '.join(LICENCES)}")
    return kind, patch


def _statistics(folder: Path, key: str) -> Tensor:
    """Mean or deviation of the three channels, by preprocessor_config.json."""
    values: Any = _json(folder / "preprocessor_config.json").get(key)
    good = isinstance(values, list) and len(values) == 3 and all(isinstance(v, int | float) for v in values)
    if not good or (key.endswith("std") and min(values) <= 0):
        raise FmctError(f"{folder / 'preprocessor_config.json'}: {key} must be three numbers")
    return torch.tensor(values, dtype=torch.float32)


def _json(file: Path) -> dict[str, Any]:
    try:
        document = json_text.parse(file.read_bytes())
    except (OSError, json.JSONDecodeError, ValueError) as error:
        raise_refusal(error, file)
        raise FmctError(f"{file}: not there, or no JSON; expected {Slices.weights}") from None
    if not isinstance(document, dict):
        raise FmctError(f"{file}: not a JSON object")
    return document
