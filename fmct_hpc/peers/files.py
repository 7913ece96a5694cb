"""Weights from a peer's published file: only tensors, whose shapes must match the network."""

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
"""A counter of batch normalisation without influence on the output."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors or a file of `torch.save`; no code of the file is run.

    If the file has a `state_dict`, its tensors are returned. Raises FmctError for anything else.
    """
    try:
        path.open("rb").close()
        if path.suffix == ".safetensors":
            return load_file(path)
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise_refusal(error, path)
        raise FmctError(
            f"{path}: not a .safetensors or a PyTorch file with tensors only ({type(error).__name__})"
        ) from None
    held = held.get("state_dict", held) if isinstance(held, Mapping) else held
    if not isinstance(held, Mapping) or not all(isinstance(tensor, Tensor) for tensor in held.values()):
        raise FmctError(f"{path}: expected a mapping from names to tensors")
    return {str(name): tensor for name, tensor in held.items()}


def loaded(build: Callable[[], nn.Module], path: Path, prefix: str, ignored: tuple[str, ...]) -> nn.Module:
    """The network of `build` with the weights of a file, in float32.

    prefix: of the tensors' names in files with a larger network. ignored: prefixes of the names of its other
    parts. Raises FmctError with the first tensor that is missing, unknown, or of another shape.
    """
    held = read_tensors(path)
    within = any(name.startswith(prefix) for name in held)
    own = {name.removeprefix(prefix): t for name, t in held.items() if not within or name.startswith(prefix)}
    with torch.device("meta"):  # check shapes before allocating memory
        network = build()
    wanted = network.state_dict()
    start = prefix if within else ""
    for name, tensor in wanted.items():
        if name.endswith(_BATCHES):
            own[name] = torch.zeros((), dtype=torch.int64)
        elif name not in own:
            raise FmctError(f"{path}: no tensor {start}{name}; expected {_shape(tensor)}")
        elif own[name].shape != tensor.shape:
            raise FmctError(f"{path}: {start}{name} is {_shape(own[name])}; expected {_shape(tensor)}")
    others = set(own) - set(wanted)
    unknown = sorted(name for name in others if not name.startswith(ignored))
    if unknown:
        raise FmctError(f"{path}: unknown tensor {start}{unknown[0]}")
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
    ignored: tuple[str, ...],
) -> nn.Module:
    """`loaded` from a file, or `drawn` if a seed or no file is given.

    Raises FmctError as `loaded`, and if the library of the peer's network is not installed.
    """
    try:
        if seed is not None or weights is None:
            return drawn(build, seed or 0)
        return loaded(build, weights, prefix, ignored)
    except ImportError as error:
        raise missing_library(peer, error) from None


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def drawn(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The network with its library's random initialisation, from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
