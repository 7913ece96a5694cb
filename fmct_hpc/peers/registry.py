"""Registry of peers by their name in a sweep's file."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fmct_hpc.peers.ct_fm import CtFm
from fmct_hpc.peers.merlin import Merlin
from fmct_hpc.peers.peer import Peer, Settings
from fmct_hpc.peers.residual import ResNet50
from fmct_hpc.peers.slices import Slices
from shards.errors import FmctError

PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (ResNet50, Slices, CtFm, Merlin)}
"""A new peer is added here, and its name to `PeerName` (fmct_hpc/probe/encoder_spec.py)."""


def settings_of(peer: str, arguments: dict[str, Any]) -> Settings:
    """The peer's settings from `arguments`; raises ValueError that names an invalid key."""
    try:
        return PEERS[peer].settings.model_validate(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "arguments"
        raise ValueError(f"peer {peer}: {place}: {first['msg']}") from None


def open_peer(peer: str, weights: Path | None, seed: int | None, arguments: dict[str, Any]) -> Peer:
    """The encoder in evaluation mode, from files or, with a seed, with random weights; raises FmctError."""
    if weights is not None and not weights.exists():
        raise FmctError(f"{weights}: not found; peer {peer} requires {PEERS[peer].weights}")
    model = PEERS[peer].open(weights, seed, settings_of(peer, arguments))
    model.module.eval()
    return model
