"""The study's heads: drawn, rendered, acquired, and written as shard datasets with labels.

Volumes are written directly as shards: DICOM would take most of the study's time and is tested elsewhere.
Every head is a separate patient and a pure function of (seed, split, number).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from enum import IntEnum
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from launch.study.config import CohortConfig
from launch.study.findings import Finding, Subject, displaced, draw_findings, paint_findings
from launch.study.scanners import FINE, SEEN, UNSEEN, StudyScanner, acquire
from preprocess.demo.anatomy import head_hu
from preprocess.demo.head import draw_anatomy
from preprocess.demo.streams import Stream, generator
from shards import DecodeFacts, ShardWriter, VolumeRecord, crc32, finish_dataset
from shards.atomic import atomic_path
from shards.info import FILE_NAME, preprocessing_digest

LABELS = "labels.parquet"
"""Label table in a cohort's folder, written last."""
RAISED_MM = 14.0
"""Offset of the field's centre above the head's centre, since the brain is in the upper part of the head."""
TURN_DEG, OFFSET_MM = 8.0, 7.0
"""Standard deviations of a head's rotation about and shift along each axis: a structure at a fixed place in
the head has no fixed place in the volume, so a linear weighting of voxels cannot detect it."""
_HEADS_PER_SPLIT = 10**6
"""Range of head numbers per split, so that the size of a split does not affect the heads of another."""
_HEADS_PER_SHARD = 500
_HEADS_PER_CALL = 16


class Split(IntEnum):
    """The use of a head."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    UNSEEN = 3


def write_cohort(
    config: CohortConfig,
    sizes: tuple[int, ...],
    out: Path,
    executor: Executor,
    progress: Callable[[int, int], None],
) -> None:
    """Write `out`/pretrain-N for each of `sizes`, `out`/labelled and `out`/labels.parquet, where missing.

    pretrain-N contains the first N heads of the training split; labelled contains its labelled heads and
    all heads of the other splits. labels.parquet has one row per head of the latter: study_key, split,
    scanner and one 0/1 column per finding.
    """
    counts = {
        Split.TRAIN: config.labelled,
        Split.VALIDATION: config.validation,
        Split.TEST: config.test,
        Split.UNSEEN: config.unseen,
    }
    labelled = [(split, number) for split, count in counts.items() for number in range(count)]
    parts = {f"pretrain-{size}": [(Split.TRAIN, number) for number in range(size)] for size in sizes}
    parts["labelled"] = labelled
    missing = {name: heads for name, heads in parts.items() if not (out / name / FILE_NAME).exists()}
    wanted = sorted({head for heads in missing.values() for head in heads})
    volumes: dict[tuple[Split, int], NDArray[np.int16]] = {}
    calls = [wanted[start : start + _HEADS_PER_CALL] for start in range(0, len(wanted), _HEADS_PER_CALL)]
    for made in executor.map(partial(_make_volumes, config), calls):
        volumes.update(made)
        progress(len(volumes), len(wanted))
    for name, heads in missing.items():
        _write_dataset(config, out / name, ((head, volumes[head]) for head in heads), len(heads))
    rows = [_label_row(config, *head) for head in labelled]
    with atomic_path(out / LABELS) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)


def _make_volumes(
    config: CohortConfig, heads: Sequence[tuple[Split, int]]
) -> dict[tuple[Split, int], NDArray[np.int16]]:
    return {head: make_volume(config, *head)[0] for head in heads}


def make_volume(
    config: CohortConfig, split: Split, number: int, without: Finding | None = None
) -> tuple[NDArray[np.int16], Subject]:
    """int16 HU (edge, edge, edge), axes (D, H, W) towards superior, anterior, right; and the subject.

    without: a finding to leave out of the same head in the same scan.
    """
    place = split * _HEADS_PER_SPLIT + number
    subject = make_subject(config, split, number, without)
    cells = config.edge * FINE
    along = ((np.arange(cells) - (cells - 1) / 2) * config.spacing_mm / FINE).astype(np.float32)
    z, y, x = np.meshgrid(along + RAISED_MM, -along, -along, indexing="ij")
    at = subject.head.local(np.stack([x, y, z], axis=-1).reshape(-1, 3))
    at = displaced(at, subject)
    # `at` already includes the pose.
    upright = replace(subject.head, scale=(1.0, 1.0, 1.0), rotation=(0.0, 0.0, 0.0), origin=(0.0, 0.0, 0.0))
    hu = head_hu(np.stack(at, axis=-1), upright)
    paint_findings(hu, at, subject)
    scanner = scanner_of(split, number)
    noise = generator(config.seed, Stream.NOISE, place)
    return acquire(hu.reshape(cells, cells, cells), config.spacing_mm, scanner, noise), subject


def make_subject(config: CohortConfig, split: Split, number: int, without: Finding | None = None) -> Subject:
    """The head and its findings, without rendering it."""
    place = split * _HEADS_PER_SPLIT + number
    pose = generator(config.seed, Stream.POSE, place)
    pitch, roll, yaw = (float(angle) for angle in pose.normal(0, TURN_DEG, 3))
    x, y, z = (float(offset) for offset in pose.normal(0, OFFSET_MM, 3))
    head = replace(draw_anatomy(config.seed, place), rotation=(pitch, roll, yaw), origin=(x, y, z))
    return draw_findings(config.seed, place, head, config.prevalence, without)


def scanner_of(split: Split, number: int) -> StudyScanner:
    """Scanners alternate, so that no finding correlates with a scanner."""
    scanners = UNSEEN if split is Split.UNSEEN else SEEN
    return scanners[number % len(scanners)]


def key(kind: str, config: CohortConfig, split: Split, number: int) -> str:
    """32 hexadecimal digits, like the HMACs of real identifiers."""
    return hashlib.sha256(f"{kind} {config.seed} {split} {number}".encode()).hexdigest()[:32]


def _label_row(config: CohortConfig, split: Split, number: int) -> dict[str, object]:
    findings = make_subject(config, split, number).findings
    return {
        "study_key": key("study", config, split, number),
        "split": split.name.lower(),
        "scanner": scanner_of(split, number).name,
        **{finding.value: int(finding in findings) for finding in Finding},
    }


def _write_dataset(
    config: CohortConfig,
    directory: Path,
    heads: Iterator[tuple[tuple[Split, int], NDArray[np.int16]]],
    count: int,
) -> None:
    names = [f"shard-{number:05d}" for number in range(-(-count // _HEADS_PER_SHARD))]
    made_by = {"heads": config.model_dump(mode="json", include={"edge", "spacing_mm"})}
    digest = preprocessing_digest(made_by)
    for name in names:
        with ShardWriter(directory, name, "zarr") as writer:
            for head, voxels in islice(heads, _HEADS_PER_SHARD):
                writer.add(_record(config, *head, voxels, digest), voxels)
    finish_dataset(directory, "zarr", names, made_by)


def _record(
    config: CohortConfig, split: Split, number: int, voxels: NDArray[np.int16], digest: str
) -> VolumeRecord:
    scanner, step = scanner_of(split, number), config.spacing_mm
    half = (config.edge - 1) / 2 * step
    facts = DecodeFacts(
        kernel_class="soft",
        kvp=120.0,
        slice_thickness_mm=scanner.thickness,
        gantry_tilt_deg=0.0,
        slices=config.edge,
        slice_gap_mm=(step, step),
        matrix=(config.edge, config.edge),
        pixel_spacing_mm=(step, step),
        manufacturer="other",
        transfer_syntax="1.2.840.10008.1.2.1",
    )
    return VolumeRecord(
        key=key("series", config, split, number),
        patient_key=key("patient", config, split, number),
        study_key=key("study", config, split, number),
        shape=(config.edge, config.edge, config.edge),
        spacing_mm=(step, step, step),
        affine=(0, 0, -step, half, 0, -step, 0, half, step, 0, 0, RAISED_MM - half, 0, 0, 0, 1),
        crc32=crc32(voxels),
        source_digest=hashlib.sha256(voxels.tobytes()).hexdigest(),
        config_digest=digest,
        facts=facts,
    )
