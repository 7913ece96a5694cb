"""No part of an identity in any output: an export full of marked names, numbers, dates and UIDs."""

import base64
import hashlib
import io
import os
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from dicom_files import axial, ct_image, save
from forked_commands import forked_fmct
from preprocess_export import KEY, head
from pydicom import config as pydicom_config
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID
from small_training import small_encoder

MARK = "QZXWV"
"""Present in every text attribute of every file, and in file and folder names."""
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
    item = Dataset()
    item.PatientID, item.AccessionNumber, item.StudyDate = f"{MARK}-4712", f"{MARK}ACC", DATE
    item.ReferencedSOPInstanceUID = f"{ROOT}.5"
    block.add_new(3, "SQ", [item])
    data.OtherPatientIDsSequence = data.RequestAttributesSequence = [item]
    data.ReferencedStudySequence = data.SourceImageSequence = [item]
    data.file_meta.SourceApplicationEntityTitle = MARK
    data.file_meta.PrivateInformationCreatorUID = UID(f"{ROOT}.6")
    data.file_meta.PrivateInformation = MARK.encode()


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
        data.file_meta.MediaStorageSOPInstanceUID = UID(uids["SOPInstanceUID"])
        path = save(data, folder / f"{MARK}^ANNA" / f"{MARK} {DATE}" / f"{MARK}-{series}-{number:03d}.dcm")
        if cut:
            path.write_bytes(path.read_bytes()[:-cut])


@pytest.fixture(scope="module")
def logs_and_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The commands' output on valid and damaged input, and their folder: two volumes, six rejections."""
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
    whole = next(folder.rglob("*-1-000.dcm"))
    (whole.parent / f"{MARK} torn.dcm").write_bytes(whole.read_bytes()[:300])
    (whole.parent / f"{MARK} empty.dcm").touch()
    key_file = where / "hmac.key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    catalog, out = str(where / "catalog.parquet"), where / "out"
    (where / "labels.csv").write_text(f"patient_id,study_instance_uid,bleed\n{MARK}-4711,{ROOT}.1,1\n")
    (where / "bad.csv").write_text(f"study_instance_uid,bleed\n{ROOT}.1,{MARK}\n")
    settings = [f"key_file={key_file}", "workers=1", "grid.spacing_mm=[4,4,4]", "privacy.date_shift_days=900"]
    # Contrast/Bolus Agent is marked as well, and all series are of one study.
    settings += ["select.contrast=any", "select.keep=all"]
    labels = ["labels", "--key-file", str(key_file), "--out", str(out / "labels.parquet")]
    logs = fmct(0, "scan", str(folder), "--catalog", catalog, "--workers", "1")
    logs += fmct(0, "preprocess", catalog, "--out", str(out), *settings)
    logs += fmct(0, "preprocess", catalog, "--out", str(out), "--status")
    logs += fmct(0, "shards", "verify", str(out / "zarr"))
    logs += fmct(0, *labels, str(where / "labels.csv"))
    logs += fmct(2, *labels, str(where / "bad.csv"))
    encoder = small_encoder(out / "zarr", out / "encoder")
    scans = ["features", "--encoder", str(encoder), "--out", str(out / "features")]
    logs += fmct(0, *scans, str(folder))
    assert "rejected series" in logs
    with pydicom_config.disable_value_validation():
        write(where / "short", 9, slices=4)
    logs += fmct(2, *scans, str(where / "short"))
    os.utime(whole)
    logs += fmct(2, "preprocess", catalog, "--out", str(where / "again"), *settings)
    assert "changed since the scan" in logs
    whole.unlink()
    logs += fmct(2, "preprocess", catalog, "--out", str(where / "again"), *settings)
    return logs, out


def fmct(code: int, *arguments: str) -> str:
    """The command's output; it must end with the exit code `code`."""
    result = subprocess.run(
        [*forked_fmct(), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert result.returncode == code, result.stderr
    return result.stdout + result.stderr


def texts(out: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every file, archive member and table below `out`, decompressed."""
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        yield path.name, str(path.relative_to(out))
        yield path.name, path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            yield path.name, str(table.schema) + str(table.schema.metadata) + str(table.to_pylist())
        elif path.suffix == ".html":
            for number, picture in enumerate(re.findall(r"data:image/png;base64,([^\"]+)", path.read_text())):
                yield f"{path.name}/{number}", png_text(base64.b64decode(picture))
        elif path.suffix == ".png":
            yield f"{path.name}/text", png_text(path.read_bytes())
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


def png_text(content: bytes) -> str:
    """Text chunks of a PNG, decompressed."""
    with PIL.Image.open(io.BytesIO(content)) as picture:
        picture.load()
        return str(picture.info)


def test_dates_are_kept_only_shifted(logs_and_out: tuple[str, Path]) -> None:
    _, out = logs_and_out
    (shifted,) = set(pq.read_table(out / "manifest.parquet")["shifted_study_date"].to_pylist())
    assert 1 <= (date(2031, 2, 3) - shifted).days <= 900


def test_the_export_has_the_expected_volumes_and_rejections(logs_and_out: tuple[str, Path]) -> None:
    _, out = logs_and_out
    keys = pq.read_table(out / "manifest.parquet")["key"].to_pylist()
    assert len(keys) == 2
    searched = [name for name, text in texts(out) if keys[0] in text]
    assert {"manifest.parquet", "index.parquet"} < set(searched), "the search must include tables"
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


def test_no_output_or_log_contains_an_identity(logs_and_out: tuple[str, Path]) -> None:
    logs, out = logs_and_out
    actual = [(name, mark) for name, text in texts(out) for mark in MARKS if mark in text]
    assert not actual
    assert not [mark for mark in MARKS if mark in logs]


def test_no_output_holds_an_unkeyed_hash_of_an_identifier(logs_and_out: tuple[str, Path]) -> None:
    logs, out = logs_and_out
    identifiers = [
        f"{MARK}-4711",
        f"{ROOT}.1",
        f"{ROOT}.2",
        *(f"{ROOT}.3.{series}" for series in range(1, 10)),
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
