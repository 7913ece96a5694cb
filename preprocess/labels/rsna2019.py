"""RSNA 2019 intracranial haemorrhage: from slice labels to exam labels.

stage_2_train.csv has one row per image and finding, ID_<image>_<finding>,<0 or 1>; an image's SOP Instance
UID in the dataset's DICOM files is ID_<image>.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from preprocess.dicom.catalog import read_images
from preprocess.labels.mapping import read_mapping
from preprocess.labels.table import Label, LabelTable
from shards.errors import FmctError, raise_refusal

FINDINGS = ("any", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
PREFIX = "ID_"
_UNKNOWN = -1


def read(path: Path, catalog: Path | None, mapping: Path | None) -> LabelTable:
    """Labels of the exams: a finding is positive if one slice has it, and negative if all slices lack it.

    If some slices of a series have no label and the others lack a finding, it is unknown. catalog: of the
    dataset's scan; or mapping: a CSV with sop_instance_uid and study_instance_uid. Raises FmctError for
    another kind of file, contradictory rows, or if all images are of other studies.
    """
    images, values = _slices(path)
    exams: dict[str, NDArray[np.int8]] = {}
    count = 0
    for study, sops in _series(catalog) if catalog else _mapped(mapping):
        place = pc.index_in(sops, images).to_numpy(zero_copy_only=False)
        known = ~np.isnan(place)
        if not known.any():
            continue
        count += int(known.sum())
        of_series = values[place[known].astype(np.int64)]
        # 1 wins over 0 over unknown; a slice without a label for a finding prevents a certain 0.
        complete = known.all() & (of_series != _UNKNOWN).all(axis=0)
        exam = np.where((of_series == 1).any(axis=0), 1, np.where(complete, 0, _UNKNOWN)).astype(np.int8)
        before = exams.get(study)
        exams[study] = exam if before is None else _both(before, exam)
    if not exams:
        raise FmctError(f"{path}: none of its {len(images)} images are in {catalog or mapping}")
    rows = {study: tuple(_label(value) for value in exam.tolist()) for study, exam in exams.items()}
    notes = (f"{count} of {len(images)} labelled images are in these studies",)
    return LabelTable(FINDINGS, rows, notes=notes)


def _both(first: NDArray[np.int8], second: NDArray[np.int8]) -> NDArray[np.int8]:
    """Combine two series of an exam: positive if either is positive, else unknown if either is unknown."""
    positive, unknown = (first == 1) | (second == 1), (first == _UNKNOWN) | (second == _UNKNOWN)
    return np.where(positive, 1, np.where(unknown, _UNKNOWN, 0)).astype(np.int8)


def _label(value: int) -> Label:
    return None if value == _UNKNOWN else value


def _slices(path: Path) -> tuple[pa.Array, NDArray[np.int8]]:
    """SOP Instance UIDs, and labels (N, FINDINGS), -1 if missing."""
    wanted = "expected stage_2_train.csv with columns ID and Label"
    types = {"ID": pa.string(), "Label": pa.int8()}
    try:
        options = pa.csv.ConvertOptions(column_types=types, include_columns=list(types))
        table = pa.csv.read_csv(path, convert_options=options).combine_chunks()
    except FileNotFoundError:
        raise FmctError(f"{path}: no such file; {wanted}") from None
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise_refusal(error, path)
        raise FmctError(f"{path}: {wanted}, IDs as ID_<image>_<finding> and labels 0 or 1") from None
    parts = pc.extract_regex(table["ID"], f"^(?P<image>{PREFIX}.+)_(?P<finding>{'|'.join(FINDINGS)})$")
    labels = table["Label"].to_numpy(zero_copy_only=False)
    wrong = parts.is_null().to_numpy(zero_copy_only=False) | ~np.isin(labels, (0, 1))
    if not len(labels) or wrong.any():
        row = f" row {int(np.flatnonzero(wrong)[0]) + 2}" if len(labels) else ""
        raise FmctError(f"{path}{row}: {wanted}, IDs as ID_<image>_<finding> and labels 0 or 1")
    parts = parts.combine_chunks() if isinstance(parts, pa.ChunkedArray) else parts
    image = parts.field("image").dictionary_encode()
    finding = pc.index_in(parts.field("finding"), pa.array(FINDINGS)).to_numpy()
    number = image.indices.to_numpy()
    values = np.full((len(image.dictionary), len(FINDINGS)), _UNKNOWN, dtype=np.int8)
    values[number, finding] = labels
    contradictory = np.flatnonzero(values[number, finding] != labels)
    if len(contradictory):  # the file has some repeated rows that agree
        raise FmctError(f"{path} row {contradictory[0] + 2}: contradicts another row; remove one")
    return image.dictionary, values


def _series(catalog: Path) -> Iterator[tuple[str, pa.Array]]:
    """Study and images of each series of the catalog."""
    for study, sops in read_images(catalog):
        bare = pc.invert(pc.starts_with(sops, PREFIX))
        yield study, pc.if_else(bare, pc.binary_join_element_wise(PREFIX, sops, ""), sops)


def _mapped(mapping: Path | None) -> Iterator[tuple[str, pa.Array]]:
    assert mapping is not None
    by_study: dict[str, list[str]] = {}
    for sop, study in read_mapping(mapping, "sop_instance_uid").items():
        by_study.setdefault(study, []).append(sop if sop.startswith(PREFIX) else PREFIX + sop)
    return ((study, pa.array(sops)) for study, sops in by_study.items())
