"""Base class of peers, which add settings, source and licence to an encoder."""

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
"""Installs the libraries of the networks."""


class Facts(NamedTuple):
    """Information about published weights, reported with results."""

    title: str
    source: str
    """Source of layout and preprocessing."""
    licence: str
    """Licence of the published weights; weights derived from them may have another one."""
    trained_on: str
    """According to the authors; overlap with tested patients is only known from `pretraining`."""


class Settings(Section):
    """Base of the keys in `arguments` of an encoder in a sweep's file; each peer defines its keys."""


class WindowedField(Settings):
    """Input as of this package's encoders: a cube around the volume's centre, one channel per window."""

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
    """An encoder in this folder; its module can be fine-tuned."""

    module: Tunable
    prefix = 0
    poolings = ("mean",)
    name: ClassVar[str]
    """Name in a sweep's file."""
    settings: ClassVar[type[Settings]]
    weights: ClassVar[str]
    """Description of the expected `weights`; empty without published ones."""

    def __init__(self, module: Tunable, settings: Settings) -> None:
        self.module = module
        self.digest = weights_digest(module, f"{self.name} {settings.model_dump_json()}")

    @classmethod
    def open(cls, weights: Path | None, seed: int | None, settings: Any) -> "Peer":
        """Load from a file or folder, or, with a seed, build the architecture with random weights.

        Raises FmctError for files that do not match, and if a library is missing.
        """
        raise NotImplementedError

    @classmethod
    def facts(cls, weights: Path | None) -> Facts:
        """Information about the weights at that path, which are not loaded."""
        raise NotImplementedError


def missing_library(peer: str, error: ImportError) -> FmctError:
    """The error for a network whose library is not installed."""
    return FmctError(f"peer {peer}: {error.name or error} is not installed; {WANTED}")
