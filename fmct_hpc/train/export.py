"""The exported encoder: safetensors, and a JSON file that describes its input."""

import json
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.training_spacing import at_training_spacing
from fmct_hpc.fields import edges
from fmct_hpc.model.backbone import Backbone
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.kinds import build_encoder, size_of
from fmct_hpc.model.patches import grid_of
from fmct_hpc.train.checkpoint import DataFacts, InitialWeights, Manifest, parts, verify
from fmct_hpc.train.state import averaged_weights
from shards import Dataset, FmctError
from shards.atomic import write_bytes, write_text
from shards.errors import raise_refusal
from shards.masks import require_volumes
from shards.newer_version import read_error
from shards.preprocessing import same_voxels
from shards.section import Section
from shards.voxels import MAX_VOXELS

log = logging.getLogger(__name__)


class EncoderInfo(Section):
    """What an encoder was trained on, and how its input is computed."""

    step: int
    model: ModelConfig
    data: DataConfig
    spacing_mm: tuple[float, float, float]
    preprocess_digest: str | None = None
    """SHA-256 of the preprocessing configuration of the training volumes; None if unknown."""
    preprocessing: dict[str, Any] | None = None
    """That configuration, used to preprocess new scans; None if unknown."""
    dataset_digest: str | None = None
    code_version: str
    origin: str = "fmct train"
    """Origin of the weights."""

    def view(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> Tensor:
        """The encoder's input for a volume: float32 (1, C, D, H, W).

        volume: HU (D, H, W), axes towards superior, anterior and right, centred on the head (as written by
        `fmct preprocess`); spacing_mm: (D, H, W). If it differs from the training volumes' spacing, the
        volume is first resampled linearly. The field around its centre is windowed and averaged as in
        training, without augmentation. Raises FmctError for another kind of volume.
        """
        from fmct_hpc.data.field import center_view  # imports numba, which loading an encoder does not need

        hu, spacing_mm, _ = at_training_spacing(volume, spacing_mm, self.spacing_mm)
        return torch.from_numpy(center_view(hu, spacing_mm, self.data))[None]

    def patch_centres(
        self, volume: NDArray[np.generic], spacing_mm: Sequence[float], affine: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Centres of all patches of `view`: (N, 3), patient LPS mm, in the order of `patchify`.

        affine: (4, 4), from the volume's index (d, h, w, 1) to patient LPS mm.
        """
        first, edges = self.view_box(volume, spacing_mm)
        axes = [
            start + edge * (np.arange(n) + 0.5) / n
            for start, edge, n in zip(first, edges, self.patch_grid, strict=True)
        ]
        index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        return index @ affine[:3, :3].T + affine[:3, 3]

    @property
    def patch_grid(self) -> tuple[int, int, int]:
        """Patches of `view` along (D, H, W)."""
        return grid_of(edges(self.data.view_size), self.model.patch_size)

    def view_box(
        self, volume: NDArray[np.generic], spacing_mm: Sequence[float]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """First corner and edges of `view`: (3,) each, in the volume's index (d, h, w).

        Voxel borders, not centres; the box may extend beyond the volume.
        """
        from fmct_hpc.data.field import center_box

        hu, spacing_mm, scale = at_training_spacing(volume, spacing_mm, self.spacing_mm)
        first, lengths = center_box(hu, spacing_mm, self.data)
        return (first + 0.5) / scale - 0.5, lengths / scale


def require_same_preprocessing(
    dataset: Dataset, preprocess_digest: str | None, preprocessing: Mapping[str, Any] | None, encoder: str
) -> None:
    """Raise FmctError for masks, and for volumes preprocessed differently from an encoder's training volumes.

    preprocess_digest, preprocessing: those of the encoder; a digest of None accepts any. encoder: its name in
    messages. If the digests differ, the recorded configurations are compared: volumes that differ only in
    selection or checks are accepted with a warning.
    """
    require_volumes(dataset)
    if preprocess_digest in (None, dataset.info.config_digest):
        return
    recorded = dataset.preprocessing()
    if preprocessing is None or recorded is None or not same_voxels(preprocessing, recorded):
        raise FmctError(
            f"{dataset.path}: preprocessed with another configuration than the training data of {encoder}; "
            "run `fmct preprocess` with the encoder's preprocessing recipe"
        )
    log.warning("%s: selected or checked differently from the training data of %s", dataset.path, encoder)


def export_checkpoint(checkpoint: Path, out: Path) -> None:
    """Write the encoder of a checkpoint; raises FmctError where it is damaged."""
    manifest = verify(checkpoint)
    config = configuration_of(checkpoint, manifest)
    weights = averaged_weights(parts(checkpoint, manifest), "encoder.")
    export_encoder(out, weights, config, manifest.data, manifest.step, manifest.beginning)


def configuration_of(checkpoint: Path, manifest: Manifest) -> TrainConfig:
    """The configuration of a checkpoint's training; raises FmctError where this version can't read it."""
    try:
        return TrainConfig.from_record(manifest.configuration)
    except ValidationError as error:
        raise read_error(checkpoint, error, "not a training of this version") from None


def export_encoder(
    out: Path,
    averaged: dict[str, Tensor],
    config: TrainConfig,
    data: DataFacts,
    step: int,
    beginning: InitialWeights | None = None,
) -> None:
    """Write the encoder of a run; averaged: whole tensors by the student's names."""
    info = EncoderInfo(
        step=step,
        model=config.model,
        data=config.data,
        spacing_mm=data.spacing_mm,
        preprocess_digest=data.preprocess_digest,
        preprocessing=data.preprocessing,
        dataset_digest=data.dataset_digest,
        code_version=version("fmct-hpc"),
        origin=origin_of(config.run.start_from, beginning),
    )
    write_encoder(out, averaged, info)


def origin_of(start: Path | None, beginning: InitialWeights | None) -> str:
    """Origin of the weights of a run with run.start_from=`start` and the recorded `beginning`."""
    if beginning is not None:
        return f"fmct train, begun with: {beginning.origin}"
    if start is None:
        return "fmct train"
    try:  # checkpoints of 0.1.0 recorded only the path
        return f"fmct train, begun with: {encoder_info(start).origin}"
    except FmctError:
        return "fmct train, begun with an encoder that is no longer there"


def write_encoder(out: Path, weights: dict[str, Tensor], info: EncoderInfo) -> None:
    """Write `out`/encoder.safetensors and, last, `out`/encoder.json.

    weights: by the student's names; those under "encoder." are written.
    """
    encoder = {n.removeprefix("encoder."): t for n, t in weights.items() if n.startswith("encoder.")}
    # Not by save_file, which raises no OSError on a full disk.
    contiguous = {name: tensor.contiguous() for name, tensor in encoder.items()}
    write_bytes(out / "encoder.safetensors", save(contiguous))
    # Paths of the training data are private to the training site.
    data = info.data.model_dump(mode="json") | {"path": "", "cache": None}
    document = info.model_dump(mode="json") | {"data": data}
    write_text(out / "encoder.json", json.dumps(document, indent=1))


def load_encoder(path: Path | str) -> tuple[Backbone, EncoderInfo]:
    """The encoder at `path`, an encoder.safetensors with its encoder.json beside it, in evaluation mode.

    Raises FmctError where either is missing or they do not match.
    """
    path = Path(path)
    info = encoder_info(path)
    try:
        path.open("rb").close()  # safetensors (0.8) reports an unreadable file as missing
        if not _is_described(path.stat().st_size, info):
            raise FmctError(f"{path}: not an encoder that matches {path.stem}.json (its size)")
        encoder = build_encoder(info.model, len(info.data.windows), info.data.view_size)
        encoder.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise_refusal(error, path)
        problem = f"not an encoder that matches {path.stem}.json ({type(error).__name__})"
        raise FmctError(f"{path}: {problem}") from None
    return encoder.eval(), info


def _is_described(size: int, info: EncoderInfo) -> bool:
    """Whether a file of `size` bytes can hold the weights of `info`, checked before allocating memory.

    A weight has at least one byte.
    """
    model, channels = info.model, len(info.data.windows)
    smallest = size_of(model.kind).min_parameters(model, channels)
    return smallest <= size and channels * prod(edges(info.data.view_size)) <= MAX_VOXELS


def encoder_info(path: Path) -> EncoderInfo:
    """The JSON file of the encoder at `path`; raises FmctError as `load_encoder`, without reading weights."""
    description = path.with_suffix(".json")
    for file in (path, description):
        if not file.is_file():
            raise FmctError(f"{file}: no such file; `fmct train` and `fmct convert-weights` write it")
    try:
        return EncoderInfo.from_record_json(description.read_bytes())
    except ValidationError as error:
        raise read_error(description, error, "does not describe an encoder") from None
