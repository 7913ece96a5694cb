"""What a peer has beside an encoder: settings, where they come from, and the terms of its weights."""

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.data.field import origin, voxels
from fmct_hpc.data.kernel import cut_view
from fmct_hpc.fields import Above0, BoxSize
from fmct_hpc.model.tunable import Tunable
from fmct_hpc.probe.encoders import Encoder, weights_digest
from shards.errors import FmctError
from shards.section import Section

WANTED = "pip install 'fmct-hpc[peers]'"
"""What brings the libraries that the networks are built with."""


class Facts(NamedTuple):
    """What is known of published weights; it stands beside results."""

    title: str
    source: str
    """Of layout and preprocessing."""
    licence: str
    """Of the published weights; of files that somebody made of them, that one's own."""
    trained_on: str
    """As its authors say; whether tested patients were among them, `pretraining` alone can tell."""


class Settings(Section):
    """What an encoder of a sweep's file may say in `arguments`; each peer has its own keys."""


class WindowedField(Settings):
    """A cube around the volume's middle as windows side by side: what encoders of this package see too."""

    windows: tuple[tuple[float, float], ...] = ((40, 80), (80, 200), (600, 2800))
    """(level, width) in HU, one channel each: brain, subdural, bone, as `data.windows`."""
    view_size: BoxSize = 96
    """Voxels of the input, an edge or (D, H, W), as `data.view_size`."""
    field_mm: Above0 = 224.0
    """Edge of the cube, as `data.field_mm`."""

    def view(self, volume: NDArray[np.int16], spacing_mm: Any) -> NDArray[np.float32]:
        """Float32 (C, D, H, W) in [0, 1] of a volume, as `fmct_hpc.data.field.center_view`."""
        field = voxels(self.field_mm, spacing_mm)
        return cut_view(volume, origin(volume.shape, field), field, self.windows, self.view_size)


class Peer(Encoder):
    """An encoder of this folder: its module can be fine-tuned too."""

    module: Tunable
    prefix = 0
    poolings = ("mean",)
    name: ClassVar[str]
    """In a sweep's file."""
    settings: ClassVar[type[Settings]]
    weights: ClassVar[str]
    """What `weights` must be, in words; empty where there are no published ones."""

    def __init__(self, module: Tunable, given: Settings) -> None:
        self.module = module
        self.digest = weights_digest(module, f"{self.name} {given.model_dump_json()}")

    @classmethod
    def open(cls, weights: Path | None, seed: int | None, given: Any) -> "Peer":
        """From a file or folder, or, with a seed, of the same architecture drawn anew.

        Raises FmctError for files that do not fit, and where a library is missing.
        """
        raise NotImplementedError

    @classmethod
    def facts(cls, weights: Path | None) -> Facts:
        """Of the weights at that place; nothing is loaded."""
        raise NotImplementedError


def missing_library(peer: str, error: ImportError) -> FmctError:
    """What to say where a network's library is not installed."""
    return FmctError(f"peer {peer}: {error.name or error} is not installed; {WANTED}")
