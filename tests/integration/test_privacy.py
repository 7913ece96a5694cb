"""No word of an identity in any output: an export full of marked names, numbers, dates and UIDs."""

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_files import axial, ct_image, save
from preprocess_export import KEY, head
from pydicom import config as pydicom_config
from pydicom.datadict import DicomDictionary
from pydicom.dataset import FileDataset

from preprocess.scan import scan

MARK = "QZXWV"
"""In every text attribute of every file, and in file and folder names."""
DATE, TIME, ROOT = "20310203", "231759", "1.2.276.0.7230010.3.98"
MARKS = (MARK, MARK.lower(), DATE, "2031-02-03", TIME, ROOT)
TEXT = {"PN", "LO", "SH", "ST", "LT", "UT", "UC", "AE"}
"""Value representations that hold free text (PS3.5 section 6.2)."""
NEEDED = {"RescaleType", "PatientID", "Modality"}
"""Set by the test itself."""


def mark_every_text(data: FileDataset) -> None:
    """Fill every attribute of the data dictionary that holds text, a date or a time; and private ones."""
    for tag, (vr, vm, _, _, keyword) in DicomDictionary.items():
        group = tag >> 16
        if not keyword or keyword in NEEDED or group in (0x0000, 0x0002, 0xFFFE) or not vm.startswith("1"):
            continue
        if vr in TEXT:
            setattr(data, keyword, f"{MARK} {tag:08x}"[:16])
        elif vr in ("DA", "DT"):
            setattr(data, keyword, DATE)
        elif vr == "TM":
            setattr(data, keyword, TIME)
    data.PatientID = f"{MARK}-4711"
    block = data.private_block(0x0029, f"{MARK} CREATOR", create=True)
    block.add_new(1, "LO", f"{MARK} private")
    block.add_new(2, "UN", MARK.encode())


def write(folder: Path, series: int, slices: int = 13, cut: int = 0, **attributes: object) -> None:
    acquisition = axial(slices=slices, gap=10.0)
    for number, position in enumerate(acquisition.positions):
        stored = np.rint(head(acquisition.points(position))).astype(np.int16)
        data = ct_image(stored, **acquisition.attributes(position))
        mark_every_text(data)
        uids = {
            "StudyInstanceUID": f"{ROOT}.1",
            "FrameOfReferenceUID": f"{ROOT}.2",
            "SeriesInstanceUID": f"{ROOT}.3.{series}",
            "SOPInstanceUID": f"{ROOT}.4.{series}.{number}",
        }
        for name, value in (uids | attributes).items():
            setattr(data, name, value)
        data.file_meta.MediaStorageSOPInstanceUID = uids["SOPInstanceUID"]
        data.file_meta.SourceApplicationEntityTitle = MARK
        path = save(data, folder / f"{MARK}^ANNA" / f"{MARK} {DATE}" / f"{MARK}-{series}-{number:03d}.dcm")
        if cut:
            path.write_bytes(path.read_bytes()[:-cut])


@pytest.fixture(scope="module")
def logs_and_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What `fmct preprocess` printed and the folder it wrote, for two volumes and six rejections."""
    where = tmp_path_factory.mktemp("privacy")
    folder = where / "export"
    with pydicom_config.disable_value_validation():
        write(folder, 1)
        write(folder, 2, ConvolutionKernel="H30s", Manufacturer=f"SIEMENS {MARK}")
        write(folder, 3, slices=4)
        write(folder, 4, cut=3000)
        write(folder, 5, RescaleType=f"{MARK} UNITS")
        write(folder, 6, slices=2, Modality="MR")
        write(folder, 7, slices=2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER", MARK])
        write(folder, 8, slices=2, ImageOrientationPatient=[1, 1, 0, 0, 1, 0])
    key_file = where / "hmac.key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    scan(folder, where / "catalog.parquet")
    out = where / "out"
    command = [
        sys.executable,
        "-m",
        "launch.cli",
        "preprocess",
        str(where / "catalog.parquet"),
        "--out",
        str(out),
    ]
    command += [f"key_file={key_file}", "workers=1", "grid.spacing_mm=[4,4,4]"]
    # Contrast/Bolus Agent is marked as well, and all series are of one study.
    command += ["select.contrast=any", "select.keep=all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr, out


def texts(out: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every file, archive member and table below `out`, decompressed."""
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        yield path.name, str(path.relative_to(out))
        yield path.name, path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            yield path.name, str(table.schema) + str(table.schema.metadata) + str(table.to_pylist())
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield f"{path.name}/{name}", name + archive.read(name).decode("latin-1")
        elif path.suffix == ".tar":
            with tarfile.open(path) as archive:
                for member in archive:
                    stream = archive.extractfile(member)
                    assert stream
                    yield f"{path.name}/{member.name}", member.name + stream.read().decode("latin-1")


def test_the_export_is_as_meant(logs_and_out: tuple[str, Path]) -> None:
    _, out = logs_and_out
    keys = pq.read_table(out / "manifest.parquet")["key"].to_pylist()
    assert len(keys) == 2
    searched = [name for name, text in texts(out) if keys[0] in text]
    assert {"manifest.parquet", "index.parquet"} < set(searched), "the search must see into tables"
    assert any(".zarr.zip/" in name for name in searched)
    assert any(".tar/" in name for name in searched)
    rows = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert sorted(row["reason"] for row in rows) == [
        "invalid_geometry",
        "localizer",
        "not_ct",
        "not_hounsfield",
        "too_few_slices",
        "truncated_pixel_data",
    ]


def test_no_output_and_no_log_names_anyone(logs_and_out: tuple[str, Path]) -> None:
    logs, out = logs_and_out
    found = [(name, mark) for name, text in texts(out) for mark in MARKS if mark in text]
    assert not found
    assert not [mark for mark in MARKS if mark in logs]


def test_no_output_holds_a_bare_hash_that_guessing_could_confirm(logs_and_out: tuple[str, Path]) -> None:
    logs, out = logs_and_out
    identifiers = [
        f"{MARK}-4711",
        f"{ROOT}.1",
        f"{ROOT}.2",
        *(f"{ROOT}.3.{series}" for series in range(1, 9)),
    ]
    hashes = [
        hashlib.new(algorithm, identifier.encode()).hexdigest()[:16]
        for identifier in identifiers
        for algorithm in ("md5", "sha1", "sha256", "sha512")
    ]
    assert not [name for name, text in [*texts(out), ("log", logs)] for digest in hashes if digest in text]


def test_the_key_is_in_no_output(logs_and_out: tuple[str, Path]) -> None:
    logs, out = logs_and_out
    key = bytes.fromhex(KEY).decode("latin-1")
    assert not [name for name, text in [*texts(out), ("log", logs)] if KEY in text or key in text]
