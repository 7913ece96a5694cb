"""Export of one volume to a file that viewers open."""

from pathlib import Path

import numpy as np

from shards.atomic import atomic_path, write_bytes
from shards.dataset import Dataset
from shards.errors import FmctError
from shards.nifti import nifti_bytes
from shards.output_paths import require_file


def dump(source: Path, key: str, out: Path) -> None:
    """Write volume `key` as NIfTI-1 (`.nii`, `.nii.gz`; int16 HU, axes x y z, RAS mm) or `.npy` (D, H, W).

    Raises FmctError for another suffix, a file that cannot be written, an unknown key or a damaged volume.
    """
    ending = next((end for end in (".nii.gz", ".nii", ".npy") if out.name.endswith(end)), None)
    if not ending:
        raise FmctError(f"{out}: the name must end in .nii, .nii.gz or .npy")
    require_file(out)
    dataset = Dataset.open(source)
    try:
        i = dataset.position(key)
    except KeyError:
        raise FmctError(f"{source}: no volume {key}; index.parquet lists the keys") from None
    voxels = dataset.read(i)
    if ending == ".npy":
        with atomic_path(out) as temporary, temporary.open("wb") as stream:
            np.save(stream, voxels)
        return
    affine = np.array(dataset.record(i).affine).reshape(4, 4)
    write_bytes(out, nifti_bytes(voxels, affine, packed=ending == ".nii.gz"))
