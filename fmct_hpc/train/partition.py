"""Parameters that ZeRO stage 3 may have partitioned: each rank's own part, in memory and on disk."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def own_part(parameter: nn.Parameter) -> Tensor:
    """What this rank holds: under stage 3 a flat slice (`ds_tensor`, padded), else the whole parameter."""
    return parameter.ds_tensor.data if hasattr(parameter, "ds_tensor") else parameter.data


def shape(parameter: nn.Parameter) -> torch.Size:
    """The whole parameter's shape; under stage 3 the tensor itself is empty."""
    return getattr(parameter, "ds_shape", parameter.shape)


def is_partitioned(parameters: Mapping[str, nn.Parameter]) -> bool:
    """Whether ranks hold slices (stage 3), so that each has to write its own file."""
    return any(hasattr(parameter, "ds_tensor") for parameter in parameters.values())


def write_part(path: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Write this rank's parts, with the whole shapes beside them."""
    parts = {name: own_part(parameter).contiguous().cpu() for name, parameter in parameters.items()}
    shapes = {name: list(shape(parameter)) for name, parameter in parameters.items()}
    save_file(parts, path, metadata={"shapes": json.dumps(shapes)})


def read_part(path: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Copy a file of `write_part` into the parameters it was made from."""
    with torch.no_grad(), safe_open(path, "pt") as file:
        for name, parameter in parameters.items():
            own_part(parameter).copy_(file.get_tensor(name))


def join_parts(paths: list[Path]) -> dict[str, Tensor]:
    """The whole tensors from all ranks' files, given in the order of ranks."""
    parts: dict[str, list[Tensor]] = {}
    for path in paths:
        with safe_open(path, "pt") as file:
            shapes = json.loads(file.metadata()["shapes"])
            for name in shapes:
                parts.setdefault(name, []).append(file.get_tensor(name).flatten())
    whole = {}
    for name, slices in parts.items():
        size = torch.Size(shapes[name])
        whole[name] = torch.cat(slices)[: size.numel()].reshape(size)
    return whole
