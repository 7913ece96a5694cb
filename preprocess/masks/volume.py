"""Merging all masks of one volume, or the rejections of its rows."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preprocess.masks.classes import Classes
from preprocess.masks.files import class_of, read_planes
from preprocess.masks.grid import to_grid
from preprocess.masks.table import CLASS, PATH, Row
from preprocess.privacy.deidentify import Pseudonymizer
from preprocess.reasons import Reason, Rejection
from preprocess.volume.given_file import file_status
from shards.schema import VolumeRecord


class Merged(NamedTuple):
    """The merged rows of a volume."""

    bits: NDArray[np.int16] | None
    """(D, H, W), bit k inside class k; None if a row is rejected, since the rest would count as healthy."""
    refused: dict[int, Rejection]
    """Rejections by row number."""


def merged(
    rows: Sequence[Row],
    record: VolumeRecord,
    classes: Classes,
    root: Path,
    names: Pseudonymizer | None,
    objections: Mapping[int, Rejection],
) -> Merged:
    """The union of the rows' masks; a row without a path means that the reader found nothing.

    root: base of relative paths. names: to compare a DICOM object's study with the volume's. objections:
    rejections of rows.
    """
    bits = np.zeros(record.shape, np.int16)
    refused: dict[int, Rejection] = {}
    for row in rows:
        try:
            if row.number in objections:
                raise objections[row.number]
            bits |= _one(row, record, classes, root, names)
        except Rejection as rejection:
            refused[row.number] = rejection
    if not refused:
        return Merged(bits, {})
    partner = Rejection(
        Reason.PARTNER_REFUSED, "another mask of this volume was rejected, so it is incomplete"
    )
    return Merged(None, {row.number: refused.get(row.number, partner) for row in rows})


def _one(
    row: Row, record: VolumeRecord, classes: Classes, root: Path, names: Pseudonymizer | None
) -> NDArray[np.int16]:
    word = row.cells.get(CLASS, "")
    of_class = class_of(word, classes, "column class: a word that") if word else None
    if not row.cells[PATH]:
        return np.zeros(record.shape, np.int16)
    path = place_of(row, root)
    file_status(path)
    planes, study = read_planes(path, classes, of_class)
    if study is not None and names is not None and names.study(study) != record.study_key:
        raise Rejection(
            Reason.ANOTHER_STUDY, "the object's Study Instance UID differs from that of the row's volume"
        )
    return to_grid(planes, record, len(classes.names))


def place_of(row: Row, root: Path) -> Path:
    """The path of a row's file; raises Rejection for an invalid path or one outside `root`."""
    path = row.cells[PATH]
    if "\0" in path:
        raise Rejection(Reason.INVALID_VALUE, "column path: contains a zero byte; correct it")
    if not os.path.isabs(path) and os.path.normpath(path).split(os.sep)[0] == os.pardir:
        raise Rejection(
            Reason.PATH_OUTSIDE,
            "column path: is outside the table's folder; give an absolute path, or name --root",
        )
    return Path(os.path.normpath(root / path))
