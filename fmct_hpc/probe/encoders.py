"""Encoders to be probed: this package's at any step, untrained ones, the reference's, and peers."""

import hashlib
import importlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fmct_hpc.fields import Edges
from fmct_hpc.model.backbone import Backbone
from fmct_hpc.probe.encoder_spec import EncoderSpec
from fmct_hpc.probe.store import Pooling
from fmct_hpc.train.checkpoint import MANIFEST
from fmct_hpc.train.convert import convert_weights
from fmct_hpc.train.export import EncoderInfo, export_checkpoint, load_encoder
from fmct_hpc.train.start import untrained_encoder
from shards.errors import FmctError


class Encoder(Protocol):
    """Interface of an encoder: a module, and the transform from a volume to the module's input.

    For a peer, derive a class that sets `module`, `digest` and `transform`, and `tokens` if the module does
    not return tokens. tests/peer_encoder.py is an example.
    """

    module: nn.Module
    """Inputs (B, ...) -> tokens (B, prefix + N, width), the CLS token first and the N patches last."""
    digest: str
    """Digest of weights (`weights_digest`) and transform; must change whenever the features change."""
    step: int | None = None
    """Training step, if the encoder is from a run."""
    depth: int = 1
    """Number of layers that `tokens` can return, numbered from 0."""
    prefix: int = 1
    """Tokens before the patches: CLS and registers."""
    poolings: tuple[Pooling, ...] = ("cls", "mean")
    """Available poolings; ("cls",) if the module returns one vector per volume, (B, 1, width)."""
    preprocess_digest: str | None = None
    """Digest of the preprocessing configuration required of the volumes; None: any."""
    preprocessing: Mapping[str, Any] | None = None
    """That configuration, if known: volumes that differ from it only in their selection are accepted."""

    def transform(self, volume: NDArray[np.int16], spacing_mm: Sequence[float]) -> Tensor:
        """The module's input, without the batch axis.

        volume: HU (D, H, W) growing towards superior, anterior and right; spacing_mm: (D, H, W).
        """
        ...

    grid: Edges | None = None
    """Patches along (D, H, W), in C order; None without a regular grid, which dense evaluation requires."""

    def field(
        self, volume: NDArray[np.int16], spacing_mm: Sequence[float]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The box of a volume covered by `grid`: first voxel and number of voxels, (3,) each."""
        name = type(self).__name__
        raise NotImplementedError(f"{name} has no regular grid of patches")

    def tokens(self, inputs: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Tokens of a batch after each of `layers`: (B, prefix + N, width) each."""
        return [self.module(inputs) for _ in layers]


class OurEncoder(Encoder):
    """An encoder of this package."""

    module: Backbone

    def __init__(self, module: Backbone, info: EncoderInfo) -> None:
        self.module, self.info = module, info
        self.step: int | None = info.step
        self.depth = info.model.depth
        self.prefix = module.prefix
        self.poolings: tuple[Pooling, ...] = ("cls", "mean") if module.prefix else ("mean",)
        self.grid = module.grid if module.keep_tokens == 1 else None
        self.preprocess_digest, self.preprocessing = info.preprocess_digest, info.preprocessing
        self.digest = weights_digest(module, _feature_settings(info))

    def transform(self, volume: NDArray[np.int16], spacing_mm: Sequence[float]) -> Tensor:
        """The whole field, windowed, without augmentation (`EncoderInfo.view`)."""
        return self.info.view(volume, spacing_mm)[0]

    def field(
        self, volume: NDArray[np.int16], spacing_mm: Sequence[float]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The box of `EncoderInfo.view_box`; its lower face is half a voxel below the first voxel."""
        first, edges = self.info.view_box(volume, spacing_mm)
        return first + 0.5, edges

    def tokens(self, inputs: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """See `Backbone.at_blocks`."""
        return self.module.at_blocks(inputs, layers)


def _feature_settings(info: EncoderInfo) -> str:
    """Everything apart from the weights on which an encoder's features of a volume depend."""
    view = info.data.model_dump(mode="json", include={"windows", "view_size", "field", "field_mm"})
    return json.dumps([info.model.recorded(), view, info.spacing_mm], sort_keys=True)


def weights_digest(module: nn.Module, extra: str = "") -> str:
    """SHA-256 of a module's weights by name, and of further text on which its features depend."""
    digest = hashlib.sha256(extra.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def open_encoder(spec: EncoderSpec) -> Encoder:
    """The encoder of `spec`, in evaluation mode; raises FmctError if it cannot be loaded."""
    if spec.peer is not None:
        from fmct_hpc.peers.registry import open_peer

        return open_peer(spec.peer, spec.weights, spec.untrained, spec.arguments)
    if spec.function is not None:
        encoder = _call(spec.function, spec.arguments)
        encoder.module.eval()
        return encoder
    assert spec.weights is not None
    module, info = load_weights(spec.weights)
    if spec.untrained is not None:
        return OurEncoder(untrained_encoder(info, spec.untrained), info.model_copy(update={"step": 0}))
    return OurEncoder(module, info)


def load_weights(path: Path) -> tuple[Backbone, EncoderInfo]:
    """The encoder of a run folder, a checkpoint, an encoder.safetensors or a file of the reference.

    Raises FmctError if it is missing or damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        if (path / MANIFEST).is_file():
            export_checkpoint(path, Path(folder))
            path = Path(folder)
        elif path.is_file() and path.suffix != ".safetensors":
            convert_weights(path, Path(folder))
            path = Path(folder)
        return load_encoder(path if path.suffix == ".safetensors" else path / "encoder.safetensors")


def _call(function: str, arguments: dict[str, Any]) -> Encoder:
    module_name, name = function.split(":")
    try:
        made = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise FmctError(f"encoder {function}: {error}; put its folder on PYTHONPATH") from None
    except AttributeError:
        raise FmctError(f"encoder {function}: {module_name} has no {name}") from None
    encoder: Encoder = made(**arguments)
    if not isinstance(getattr(encoder, "module", None), nn.Module) or not hasattr(encoder, "transform"):
        raise FmctError(
            f"encoder {function}: returned a {type(encoder).__name__}, not an fmct_hpc.probe.encoders.Encoder"
        )
    return encoder
