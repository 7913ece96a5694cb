"""A dataset of masks: segmentations of the volumes of another dataset, with the same keys and grids.

The masks are int16 volumes; each voxel is a bit set of classes: bit k (value 2^k) is set inside class k. So
classes may overlap, and every format, check and command for volumes works for masks. The class names are in
preprocessing.json under `masks`, and so are covered by the dataset's `config_digest`.
"""

from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from shards.closed import Closed
from shards.dataset import Dataset
from shards.errors import FmctError
from shards.names import Component, Sha256
from shards.newer_version import read_error

SECTION = "masks"
"""Key in preprocessing.json."""
MAX_CLASSES = 15
"""Bits of int16 below the sign."""
_PLACE = ("shape", "affine", "source_digest")
"""Columns that are equal for a mask and its volume."""


class MaskInfo(Closed):
    """The description of a dataset of masks in preprocessing.json."""

    classes: tuple[Component, ...] = Field(min_length=1, max_length=MAX_CLASSES)
    """Class names; name k is of class k."""
    resampling: str
    """How the masks were resampled to the volumes' grid."""
    volumes_digest: Sha256
    """`Dataset.content_digest` of the dataset of volumes that they were made for."""

    def document(self) -> dict[str, Any]:
        """preprocessing.json."""
        return {SECTION: self.model_dump(mode="json")}


def is_masks(dataset: Dataset) -> bool:
    """Whether a dataset holds masks."""
    return SECTION in (dataset.preprocessing() or {})


def require_volumes(dataset: Dataset) -> None:
    """Raise FmctError if a dataset holds masks, which are not HU."""
    if is_masks(dataset):
        raise FmctError(f"{dataset.path}: holds masks; give the dataset of volumes")


def mask_info(masks: Dataset) -> MaskInfo:
    """The description of a dataset of masks; FmctError if it holds volumes."""
    document = masks.preprocessing() or {}
    if SECTION not in document:
        raise FmctError(f"{masks.path}: holds volumes, not masks; give a folder made by `fmct masks`")
    try:
        return MaskInfo.model_validate(document[SECTION])
    except ValidationError as error:
        raise read_error(masks.path, error, "does not record its volumes; make the masks again") from None


def volumes_of(masks: Dataset, volumes: Dataset) -> NDArray[np.int64]:
    """The number of each mask's volume, (N,) in the order of `masks`.

    Raises FmctError for a mask whose volume is not in `volumes`, or differs there in position, shape or scan.
    """
    rows = pc.index_in(masks.index["key"], volumes.index["key"])
    missing = masks.index["key"].filter(pc.is_null(rows))
    if len(missing):
        raise FmctError(
            f"{masks.path}: {len(missing)} masks are of volumes that {volumes.path} lacks, {missing[0]} for "
            "instance; give the dataset that they were made for"
        )
    there = volumes.index.take(rows)
    for name in _PLACE:
        for key, own, other in zip(
            *(table[column].to_pylist() for table, column in _columns(masks, there, name)), strict=True
        ):
            if own != other:
                raise FmctError(
                    f"{masks.path}: the {name} of mask {key} differs from its volume in {volumes.path}; "
                    "run `fmct masks` with these volumes"
                )
    return np.asarray(rows.to_numpy(zero_copy_only=False), dtype=np.int64)


def _columns(masks: Dataset, there: Any, name: str) -> tuple[tuple[Any, str], ...]:
    return (masks.index, "key"), (masks.index, name), (there, name)


def packed(planes: NDArray[np.bool_]) -> NDArray[np.int16]:
    """bool (C, D, H, W), one plane per class, to the stored int16 (D, H, W)."""
    bits = np.zeros(planes.shape[1:], np.int16)
    for number, plane in enumerate(planes):
        bits |= plane.astype(np.int16) << number
    return bits


def unpacked(bits: NDArray[np.int16], classes: int) -> NDArray[np.bool_]:
    """int16 (D, H, W) as stored to bool (C, D, H, W)."""
    return np.stack([(bits >> number) & 1 == 1 for number in range(classes)])
