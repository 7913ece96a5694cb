"""An export of files and archives, whose scans have many batches, and the tables of a scan."""

import io
import shutil
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from dicom_files import ct_image

from preprocess.dicom import catalog_table
from preprocess.dicom.header import read_header
from preprocess.dicom.sources import Source
from preprocess.scan import findings, spill
from preprocess.scan import run as scan_module
from preprocess.scan.run import rejected_path, scan

PIXELS = np.zeros((4, 4), np.int16)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small export has many batches, row groups and partitions."""
    for module, name, value in (
        (scan_module, "BATCH_FILES", 8),
        (findings, "PART_ROWS", 4),
        (spill, "PARTITION_ROWS", 8),
        (spill, "BUFFERED_ROWS", 20),
        (spill, "SAMPLED_ROWS", 2),
        (catalog_table, "ROW_GROUP_INSTANCES", 16),
        (catalog_table, "ROW_GROUP_SERIES", 3),
    ):
        monkeypatch.setattr(module, name, value)


@cache
def image(patient: int, series: int, number: int, **attributes: object) -> bytes:
    identity = {
        "PatientID": f"patient {patient}",
        "StudyInstanceUID": f"1.2.{patient}",
        "SeriesInstanceUID": f"1.2.{patient}.{series}",
        "SOPInstanceUID": f"1.2.{patient}.{series}.{number}",
        "SeriesDescription": f"as image {number} says",
    }
    data = ct_image(PIXELS, **identity | attributes)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def export(folder: Path, patients: int = 6, series: int = 4) -> Path:
    """Four images per series, the last but one in a zip, the last in a tar, with broken and other files."""
    for patient in range(patients):
        files = {
            f"p{patient}/s{one}/{number}": image(patient, one, number)
            for one in range(series)
            for number in range(4)
        }
        files[f"p{patient}/notes.txt"] = b"not DICOM"
        files[f"p{patient}/broken"] = b"\0" * 128 + b"DICM" + bytes(range(200))
        folder.mkdir(exist_ok=True)
        if patient == patients - 2:
            with zipfile.ZipFile(folder / "zip", "w") as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
            continue
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    with tarfile.open(folder / "tar", "w:gz") as archive:
        archive.add(folder / f"p{patient}", "packed")
    shutil.rmtree(folder / f"p{patient}")
    return folder


class Reads:
    """Counts objects with a read header."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.stop_at: int | None = None
        real = read_header

        def read(file: BinaryIO, source: Source) -> list[dict[str, Any]]:
            self.count += 1
            if self.count == self.stop_at:
                raise KeyboardInterrupt  # as a kill: no handler of the scan may run
            return real(file, source)

        monkeypatch.setattr(findings, "read_header", read)


def tables(catalog: Path) -> tuple[bytes, bytes]:
    return catalog.read_bytes(), rejected_path(catalog).read_bytes()


def fresh(folder: Path, where: Path) -> tuple[bytes, bytes]:
    shutil.rmtree(where, ignore_errors=True)
    scan(folder, where / "catalog.parquet")
    return tables(where / "catalog.parquet")
