"""An exported folder's encoder, with PyTorch and safetensors alone. It is part of the exported code."""

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
"""Of the weights' names in the file: the network is a part of transformers' model."""


def build(described: Mapping[str, Any]) -> VisionTransformer:
    """The network of config.json's "fmct", with drawn weights.

    What it computes from its sizes alone (positions, mean and deviation of the input) is read from the file
    as well: transformers builds models without values and fills in what the file has.
    """
    model, preprocessing = SimpleNamespace(**described["model"]), described["preprocessing"]
    channels = len(preprocessing["windows"])
    encoder = VisionTransformer(cast("ModelConfig", model), channels, preprocessing["view_size"])
    for module in encoder.modules():
        module._non_persistent_buffers_set.clear()
    return encoder


def load(folder: Path | str) -> tuple[VisionTransformer, dict[str, Any]]:
    """The encoder of a folder, in evaluation mode, and the preprocessing that `prepare` takes."""
    folder = Path(folder)
    described = json.loads((folder / CONFIG).read_bytes())["fmct"]
    encoder = build(described)
    weights = load_file(folder / WEIGHTS)
    encoder.load_state_dict({name.removeprefix(PREFIX): tensor for name, tensor in weights.items()})
    return encoder.eval(), described["preprocessing"]
