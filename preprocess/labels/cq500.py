"""CQ500 (Chilamkurthy et al. 2018): majority vote of three radiologists' reads of each scan.

reads.csv has one row per scan: name (CQ500-CT-7), Category, and R1:ICH, R2:ICH, R3:ICH and so on, 0 or 1. The
dataset's DICOM files have the name, with or without hyphens, as Patient ID.
"""

import re
from pathlib import Path

from preprocess.csv_file import csv_lines
from preprocess.dicom.catalog import read_studies
from preprocess.labels.mapping import read_mapping
from preprocess.labels.table import Label, LabelTable
from shards.errors import FmctError

READERS = ("R1", "R2", "R3")
_NAME = re.compile(r"CQ500-CT-\d+")


def read(path: Path, catalog: Path | None, mapping: Path | None) -> LabelTable:
    """Labels of the scans: the agreement of two of the three readers; unknown if no two agree.

    catalog: of the dataset's scan; or mapping: a CSV with name and study_instance_uid. Raises FmctError for
    another kind of file, or if none of the scans is found.
    """
    findings, votes = _votes(path)
    studies: dict[str, set[str]] = {}
    if catalog:
        for patient, study in read_studies(catalog):
            studies.setdefault(_plain(patient), set()).add(study)
    else:
        assert mapping is not None
        for name, study in read_mapping(mapping, "name").items():
            studies.setdefault(_plain(name), set()).add(study)
    rows: dict[str, tuple[Label, ...]] = {}
    absent = several = 0
    for name, labels in votes.items():
        keys = studies.get(_plain(name), set())
        absent += not keys
        several += len(keys) > 1
        if len(keys) == 1:
            rows[next(iter(keys))] = labels
    if not rows:
        raise FmctError(f"{path}: none of its {len(votes)} scans are in {catalog or mapping}")
    notes = [f"{absent} scans of the table are not among the studies"] if absent else []
    if several:
        notes.append(f"{several} names have several studies and are not labelled: give a mapping")
    return LabelTable(findings, rows, notes=tuple(notes))


def _plain(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", name.upper())


def _votes(path: Path) -> tuple[tuple[str, ...], dict[str, tuple[Label, ...]]]:
    wanted = "expected CQ500's reads.csv with name and R1:ICH, R2:ICH, R3:ICH, ..."
    lines = csv_lines(path, wanted)
    header = [name.strip() for name in next(lines, (0, []))[1]]
    columns = {name: place for place, name in enumerate(header)}
    findings = [name.removeprefix("R1:") for name in header if name.startswith("R1:")]
    complete = all(f"{reader}:{finding}" in columns for reader in READERS for finding in findings)
    if "name" not in columns or not findings or not complete:
        raise FmctError(f"{path}: {wanted}")
    votes: dict[str, tuple[Label, ...]] = {}
    for line, cells in lines:
        if not cells:
            continue
        if len(cells) != len(header) or not _NAME.fullmatch(cells[columns["name"]].strip()):
            raise FmctError(f"{path} row {line}: not the row of a scan; {wanted}")
        name = cells[columns["name"]].strip()
        if name in votes:
            raise FmctError(f"{path} row {line}: its scan is in an earlier row; keep one row per scan")
        labels: list[Label] = []
        for finding in findings:
            given = [cells[columns[f"{reader}:{finding}"]].strip() for reader in READERS]
            if not set(given) <= {"0", "1", ""}:
                raise FmctError(f"{path} row {line}, finding {finding}: a read is 0, 1 or empty; correct it")
            labels.append(1 if given.count("1") >= 2 else 0 if given.count("0") >= 2 else None)
        votes[name] = tuple(labels)
    return tuple(re.sub(r"\W", "_", finding) for finding in findings), votes
