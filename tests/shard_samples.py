"""Records, volumes and datasets for the tests of shards."""

from pathlib import Path
from typing import Any

import numpy as np

from shards import (
    Dataset,
    DatasetInfo,
    DecodeFacts,
    ShardFormat,
    ShardWriter,
    VolumeRecord,
    crc32,
    finish_dataset,
)
from shards.info import NO_CONFIGURATION, preprocessing_digest

FORMATS: tuple[ShardFormat, ...] = ("zarr", "webdataset")
SUFFIXES = {"zarr": ".zarr.zip", "webdataset": ".tar"}

FACTS = DecodeFacts(
    kernel_class="soft",
    kvp=120.0,
    slice_thickness_mm=None,
    gantry_tilt_deg=-18.5,
    slices=28,
    slice_gap_mm=(1.14, 7.38),
    matrix=(512, 512),
    pixel_spacing_mm=(0.488, 0.488),
    manufacturer="ge",
    transfer_syntax="1.2.840.10008.1.2.1",
)


def make_record(voxels: np.ndarray, key: str, **changes: Any) -> VolumeRecord:
    d, h, w = changes.get("spacing_mm", (1.0, 1.0, 1.0))
    fields: dict[str, Any] = {
        "key": key,
        "patient_key": key[::-1],
        "study_key": "5" * 32,
        "shape": voxels.shape,
        "spacing_mm": (d, h, w),
        "affine": (0, 0, -w, 100.5, 0, -h, 0, 90.25, d, 0, 0, -70.125, 0, 0, 0, 1),
        "crc32": crc32(voxels),
        "source_digest": "a" * 64,
        "config_digest": NO_CONFIGURATION,
        "facts": FACTS,
    }
    return VolumeRecord(**(fields | changes))


def make_key(number: int) -> str:
    return f"{number:032x}"


def noise(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """HU-like noise with a corner of constant air that covers whole chunks of a large volume."""
    voxels = np.random.default_rng(seed).normal(30, 400, shape).astype(np.int16)
    voxels[: shape[0] // 2, : shape[1] // 2] = -1024
    return voxels


def write_shard(
    folder: Path, name: str, format: ShardFormat, volumes: dict[str, np.ndarray], **changes: object
) -> Path:
    with ShardWriter(folder, name, format) as shard:
        for key, voxels in volumes.items():
            shard.add(make_record(voxels, key, **changes), voxels)
    return folder / (name + SUFFIXES[format])


def write_dataset(
    folder: Path,
    format: ShardFormat,
    shards: dict[str, dict[str, np.ndarray]],
    preprocessing: dict[str, object] | None = None,
) -> DatasetInfo:
    """A dataset of the configuration `preprocessing`, if given; it need not be stored with the volumes."""
    changes = {"config_digest": preprocessing_digest(preprocessing)} if preprocessing else {}
    for name, volumes in shards.items():
        write_shard(folder, name, format, volumes, **changes)
    return finish_dataset(folder, format, list(shards), preprocessing)


PREPROCESSING: dict[str, object] = {
    "select": {"pattern": "Schädel nativ", "kvp": [80.0, 150.0]},
    "grid": {"spacing_mm": [1.0, 1.0, 1.0]},
}
"""A preprocessing configuration for datasets."""


def damage_volume(folder: Path, number: int) -> None:
    """Flip bytes of one volume's stored voxels."""
    dataset = Dataset.open(folder)
    file = dataset.shard_file(number)
    stored = bytearray(file.read_bytes())
    first, length = dataset.index["offset"][number].as_py(), dataset.index["length"][number].as_py()
    for place in range(first, first + length, 16):
        stored[place] ^= 0xFF
    file.write_bytes(stored)
