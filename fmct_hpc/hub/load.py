"""Loads an exported encoder with only PyTorch and safetensors. This module is exported too."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from safetensors.torch import load_file

from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.vit import VisionTransformer

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PREFIX = "encoder."
"""Prefix of the weights' names in the file, since the network is a part of transformers' model."""


def build(described: Mapping[str, Any]) -> VisionTransformer:
    """The network of config.json's "fmct", with random weights.

    Constants computed from the configuration (positions, mean and deviation of the input) are stored in the
    file as well, since transformers builds models without values and fills in those of the file.
    """
    model, preprocessing = SimpleNamespace(**described["model"]), described["preprocessing"]
    channels = len(preprocessing["windows"])
    encoder = VisionTransformer(cast("ModelConfig", model), channels, preprocessing["view_size"])
    for module in encoder.modules():
        module._non_persistent_buffers_set.clear()
    return encoder


def load(folder: Path | str) -> tuple[VisionTransformer, dict[str, Any]]:
    """The encoder of a folder, in evaluation mode, and its preprocessing for `prepare`."""
    folder = Path(folder)
    described = json.loads((folder / CONFIG).read_bytes())["fmct"]
    encoder = build(described)
    weights = load_file(folder / WEIGHTS)
    encoder.load_state_dict({name.removeprefix(PREFIX): tensor for name, tensor in weights.items()})
    return encoder.eval(), described["preprocessing"]
