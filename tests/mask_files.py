"""Volumes of a shard dataset and masks of them in files of several formats, for the tests of `fmct masks`."""

import csv
from pathlib import Path

import highdicom as hd
import numpy as np
from dicom_files import Acquisition, ct_image
from pydicom.sr.codedict import codes
from shard_samples import make_key, make_record

from preprocess.privacy.deidentify import Pseudonymizer
from preprocess.volume.resample import Grid
from shards import ShardWriter, finish_dataset

KEY = "0123456789abcdef" * 4
STUDIES = ("1.2.3.1", "1.2.3.4", "1.2.3.5")
"""Of volumes 0 and 1; 2; 3 and 4; the last two volumes are of one study."""
GRID = Grid(np.array([33.0, 41.0, -30.0]), (2.0, 1.5, 2.5), (30, 36, 28))
"""Of every volume: LPS x from 33 down, y from 41 down, z from -30 up."""
SLICES = Acquisition(
    positions=np.array([[-40.0, -20 + 0.2 * k, -34 + 5 * k] for k in range(14)]),
    row_step=np.array([0, np.cos(0.2), -np.sin(0.2)]),
    spacing=(2.2, 2.0),
    matrix=(30, 40),
)
"""Of every mask: tilted by 0.2 rad, sheared, and coarser than the grid except along rows."""


def write_volumes(folder: Path) -> Path:
    """Write `folder`/data, and `folder`/hmac.key, the key of its pseudonyms."""
    (folder / "hmac.key").write_text(KEY + "\n")
    (folder / "hmac.key").chmod(0o600)
    names = Pseudonymizer(folder / "hmac.key")
    studies = [STUDIES[0], STUDIES[1], STUDIES[2], STUDIES[2]]
    for shard, numbers in {"shard-00000": (0, 1), "shard-00001": (2, 3)}.items():
        with ShardWriter(folder / "data", shard, "zarr") as writer:
            for number in numbers:
                voxels = np.full(GRID.shape, 30 + number, np.int16)
                record = make_record(
                    voxels,
                    make_key(number),
                    patient_key=make_key(100 + number),
                    study_key=names.study(studies[number]),
                    spacing_mm=GRID.spacing,
                    affine=tuple(GRID.affine.ravel().tolist()),
                    source_digest=f"{number:064d}".replace("0", "b", 1),
                )
                writer.add(record, voxels)
    finish_dataset(folder / "data", "zarr", ["shard-00000", "shard-00001"])
    return folder / "data"


def balls(centres: list[tuple[float, float, float]], radius: float) -> np.ndarray:
    """bool (slices, rows, columns, balls) of `SLICES`."""
    points = np.stack([SLICES.points(position) for position in SLICES.positions])
    return np.stack([np.linalg.norm(points - c, axis=-1) < radius for c in centres], axis=-1)


def affine() -> np.ndarray:
    """(slice, row, column) of `SLICES` to LPS mm."""
    matrix = np.eye(4)
    matrix[:3, 0] = SLICES.positions[1] - SLICES.positions[0]
    matrix[:3, 1] = SLICES.row_step * SLICES.spacing[0]
    matrix[:3, 2] = SLICES.column_step * SLICES.spacing[1]
    matrix[:3, 3] = SLICES.positions[0]
    return matrix


def write_segmentation(path: Path, masks: np.ndarray, segments: int = 0, **options: object) -> None:
    """Masks (slices, rows, columns, segments) as a DICOM Segmentation of study STUDIES[0], by highdicom."""
    sources = []
    for number, position in enumerate(SLICES.positions):
        own = {
            "SOPInstanceUID": f"1.2.3.9.{number}",
            "InstanceNumber": number + 1,
            "PatientName": "ZZFAKE^NAME",
            "PatientBirthDate": "19500101",
            "PatientSex": "O",
            "StudyDate": "20870101",
            "StudyTime": "120000",
            "StudyID": "1",
            "AccessionNumber": "ZZFAKE",
            "ReferringPhysicianName": "ZZFAKE^DOCTOR",
        }
        image = ct_image(np.zeros(SLICES.matrix, np.int16), **own, **SLICES.attributes(position))
        sources.append(image)
    bleed = codes.SCT.Hemorrhage
    described = [
        hd.seg.SegmentDescription(
            k + 1, f"ZZFAKE {k}", codes.SCT.MorphologicallyAbnormalStructure, bleed, "MANUAL"
        )
        for k in range(segments or masks.shape[-1])
    ]
    written = hd.seg.Segmentation(
        sources,
        masks if masks.dtype.kind == "f" else masks.astype(np.uint8),
        options.pop("segmentation_type", "BINARY"),
        described,
        hd.UID(),
        1,
        hd.UID(),
        1,
        "ZZFAKE",
        "ZZFAKE",
        "1",
        "1",
        **options,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    written.save_as(path)


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path
