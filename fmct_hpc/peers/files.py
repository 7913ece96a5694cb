"""Weights from a peer's published file: tensors alone, each of the shape that the network has."""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fmct_hpc.peers.peer import missing_library
from shards.errors import FmctError, raise_refusal

_BATCHES = "num_batches_tracked"
"""A counter of batch normalisation's, without which a network does the same."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a .safetensors, or of a file that `torch.save` wrote; no code of it is run.

    Raises FmctError for anything else; what lies under `state_dict` is taken where there is that.
    """
    try:
        path.open("rb").close()
        if path.suffix == ".safetensors":
            return load_file(path)
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise_refusal(error, path)
        raise FmctError(
            f"{path}: not a .safetensors or a PyTorch file of tensors alone ({type(error).__name__})"
        ) from None
    held = held.get("state_dict", held) if isinstance(held, Mapping) else held
    if not isinstance(held, Mapping) or not all(isinstance(tensor, Tensor) for tensor in held.values()):
        raise FmctError(f"{path}: holds other things than tensors by name")
    return {str(name): tensor for name, tensor in held.items()}


def loaded(build: Callable[[], nn.Module], path: Path, prefix: str, beside: tuple[str, ...]) -> nn.Module:
    """The network that `build` makes, with the weights of a file, in float32.

    prefix: of the network's names in files where it is a part of a larger one. beside: how other parts' names
    begin. Raises FmctError that names the first tensor that is missing, of another shape, or of neither.
    """
    held = read_tensors(path)
    within = any(name.startswith(prefix) for name in held)
    own = {name.removeprefix(prefix): t for name, t in held.items() if not within or name.startswith(prefix)}
    with torch.device("meta"):  # shapes first, before memory is taken for them
        network = build()
    wanted = network.state_dict()
    start = prefix if within else ""
    for name, tensor in wanted.items():
        if name.endswith(_BATCHES):
            own[name] = torch.zeros((), dtype=torch.int64)
        elif name not in own:
            raise FmctError(f"{path}: has no {start}{name}, which is {_shape(tensor)} here")
        elif own[name].shape != tensor.shape:
            raise FmctError(f"{path}: {start}{name} is {_shape(own[name])}, and {_shape(tensor)} here")
    others = set(own) - set(wanted)
    unknown = sorted(name for name in others if not name.startswith(beside))
    if unknown:
        raise FmctError(f"{path}: has {start}{unknown[0]}, of which this network knows nothing")
    state = {
        name: own[name] if name.endswith(_BATCHES) else own[name].to(torch.float32, copy=True)
        for name in wanted
    }
    network.load_state_dict(state, assign=True)
    return network


def loaded_or_drawn(
    peer: str,
    build: Callable[[], nn.Module],
    weights: Path | None,
    seed: int | None,
    prefix: str,
    beside: tuple[str, ...],
) -> nn.Module:
    """`loaded` of a file, or `drawn` where a seed is given or there is none.

    Raises FmctError as `loaded`, and where the library of the peer's network is not installed.
    """
    try:
        if seed is not None or weights is None:
            return drawn(build, seed or 0)
        return loaded(build, weights, prefix, beside)
    except ImportError as error:
        raise missing_library(peer, error) from None


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def drawn(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The network with the weights that its library draws, from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
