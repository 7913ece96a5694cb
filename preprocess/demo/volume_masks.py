"""True masks of the labels of generated heads, on the grids of a dataset's volumes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from preprocess.demo.export import TRUTH
from preprocess.demo.identity import identity
from preprocess.demo.masks import lesion_masks
from preprocess.demo.plan import plan_studies
from preprocess.privacy.deidentify import Pseudonymizer
from shards import Dataset
from shards.errors import FmctError, raise_refusal


class VolumeMask(NamedTuple):
    """The mask of one volume and label."""

    key: str
    """The volume's."""
    task: str
    """The label's column."""
    mask: np.ndarray
    """bool (D, H, W), on the volume's grid."""
    affine: np.ndarray
    """float64 (4, 4): (d, h, w, 1) to patient LPS mm."""


def volume_masks(export: Path, data: Path, key_file: Path) -> Iterator[VolumeMask]:
    """Masks of the positive labels of a dataset's volumes, made from a `fmct demo export` with the key file.

    A mask without voxels, of a bleed outside the volume, is omitted. Raises FmctError if `export` is not such
    a folder, or if no volume is of its studies.
    """
    file = export / TRUTH
    try:
        truth = json.loads(file.read_text())
        plans = plan_studies(truth["seed"], len(truth["studies"]), truth["matrix"])
    except (OSError, ValueError, KeyError) as error:
        raise_refusal(error, file)
        raise FmctError(f"{file}: not written by `fmct demo export`") from None
    names = Pseudonymizer(key_file)
    of_study = {names.study(identity(truth["seed"], p.index, p.patient).study_uid): p for p in plans}
    dataset, known = Dataset.open(data), 0
    for number in range(len(dataset)):
        record = dataset.record(number)
        plan = of_study.get(record.study_key)
        known += plan is not None
        if plan is None or not plan.head.lesions:
            continue
        affine = np.array(record.affine).reshape(4, 4)
        points = np.moveaxis(np.indices(record.shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
        kinds = lesion_masks(points, plan.head)
        tasks = {"any_bleed": np.any(list(kinds.values()), axis=0)}
        for task, mask in (tasks | {kind.value: mask for kind, mask in kinds.items()}).items():
            if mask.any():
                yield VolumeMask(record.key, task, mask, affine)
    if not known:
        raise FmctError(f"{data}: no volume is of a study in {export}; give the key file it was made with")
