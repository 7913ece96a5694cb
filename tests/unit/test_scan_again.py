"""Scanning again: known files are not read, and the tables equal those of a first scan byte for byte."""

import errno
import io
import os
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_files import ct_image, save

from preprocess.dicom import catalog_table, header
from preprocess.dicom.catalog import read_catalog
from preprocess.dicom.header import read_header
from preprocess.dicom.sources import Source
from preprocess.reasons import Reason
from preprocess.scan import duplicates, findings, spill
from preprocess.scan import run as scan_module
from preprocess.scan.duplicates import Repeated
from preprocess.scan.run import ScanSummary, rejected_path, scan
from shards.errors import FmctError
from shards.lock import LockHeldError

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


def test_only_new_or_changed_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, catalog = export(tmp_path / "export"), tmp_path / "catalog.parquet"
    reads = Reads(monkeypatch)
    assert (scan(folder, catalog).unchanged, reads.count) == (0, 108)
    first = tables(catalog)

    def again(expected: int) -> ScanSummary:
        reads.count = 0
        summary = scan(folder, catalog)
        assert reads.count == expected
        assert tables(catalog) == fresh(folder, tmp_path / "fresh")
        assert not list(tmp_path.glob(".*")), "the working folder is removed"
        return summary

    assert again(0).unchanged == 74
    assert tables(catalog) == first

    (folder / "p0" / "s0" / "0").unlink()
    (folder / "p1" / "s0" / "new").write_bytes(image(1, 0, 77))
    (folder / "p2" / "s0" / "1").write_bytes(image(2, 0, 1, StudyDescription="longer than it was"))
    os.utime(folder / "p2" / "s0" / "2", ns=(1, 1))
    assert again(3).unchanged == 71
    shutil.rmtree(folder / "p3")
    (folder / "zip").unlink()
    again(0)
    with zipfile.ZipFile(folder / "zip", "w") as archive:
        archive.writestr("one", image(4, 0, 0))
        archive.writestr("notes", b"not DICOM")
    again(2)
    (folder / "p0").rename(folder / "renamed")
    again(17)


def test_each_image_keeps_its_own_texts(tmp_path: Path) -> None:
    """If any image of a series is removed, nothing is read again."""
    folder, catalog = export(tmp_path / "export"), tmp_path / "catalog.parquet"
    scan(folder, catalog)

    def texts_of_images() -> set[tuple[str, str]]:
        return {
            (i.sop_uid.rpartition(".")[2], i.texts.series_description)
            for series in read_catalog(catalog)
            for i in series.instances
        }

    expected = {(str(number), f"as image {number} says") for number in range(4)}
    assert texts_of_images() == expected
    for path in folder.rglob("0"):
        path.unlink()
    assert scan(folder, catalog).unchanged == 74 - 16
    assert {number for number, _ in texts_of_images()} == {*"0123"}, "those in archives"
    assert texts_of_images() == expected
    assert tables(catalog) == fresh(folder, tmp_path / "fresh")
    (series, *_) = read_catalog(catalog)
    assert len({id(i.texts) for i in series.instances}) == 3


def test_an_interrupted_scan_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, catalog = export(tmp_path / "export"), tmp_path / "catalog.parquet"
    expected = fresh(folder, tmp_path / "fresh")
    reads = Reads(monkeypatch)
    total = 0
    for stop_at in (30, 25, 40):
        reads.count, reads.stop_at = 0, stop_at
        with pytest.raises(KeyboardInterrupt):
            scan(folder, catalog)
        assert not catalog.exists()
        total += reads.count
    reads.count, reads.stop_at = 0, None
    scan(folder, catalog)
    # A kill loses the current batch: 8 files, or an archive of 18 members.
    assert 108 <= total + reads.count <= 108 + 3 * 18
    assert tables(catalog) == expected
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("before", ["nothing", "an older export"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_tables(before: str, tmp_path: Path) -> None:
    """The kill precedes each call that creates, moves or removes a file, one after the other."""
    # Two batches of files, two archives, and two row groups of each table.
    folder, where = export(tmp_path / "export", patients=3, series=2), tmp_path / "run"
    catalog = where / "catalog.parquet"
    old = None
    if before == "an older export":
        old = fresh(folder, tmp_path / "old")
        (folder / "p0" / "s0" / "0").unlink()
        (folder / "p0" / "s0" / "new").write_bytes(image(0, 0, 77))
    new = fresh(folder, tmp_path / "fresh")

    def calls_until(stop: int) -> list[str]:
        """Scan, and be killed at call number `stop`, from 1; returns the arguments of the calls."""
        calls: list[str] = []

        def step(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                calls.append(" ".join(map(str, args)))
                if len(calls) == stop:
                    raise KeyboardInterrupt
                return real(*args, **kwargs)

            return call

        shutil.rmtree(where, ignore_errors=True)
        shutil.copytree(tmp_path / "old", where) if old else where.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("replace", "mkdir", "unlink", "rmdir", "open"):
                patch.setattr(os, name, step(getattr(os, name)))
            with suppress(KeyboardInterrupt):
                scan(folder, catalog)
        return calls

    calls = calls_until(0)
    assert tables(catalog) == new
    # While the marker of a complete scan exists, every call counts.
    marked = [number for number, call in enumerate(calls, 1) if "complete" in call]
    assert len(marked) > 2
    for stop in [*random.Random(0).sample(range(1, len(calls)), 6), *range(marked[0], marked[-1] + 2)]:
        calls_until(stop)
        complete = where / ".catalog.parquet.scan" / "complete"
        state = tables(catalog) if catalog.exists() and rejected_path(catalog).exists() else None
        assert state in (old, new) or complete.exists()
        scan(folder, catalog)
        assert tables(catalog) == new, f"killed at call {stop} of {len(calls)}"
        assert not list(where.glob(".*"))


def test_tables_do_not_depend_on_how_rows_are_spilled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(tmp_path / "export")
    expected = fresh(folder, tmp_path / "fresh")
    for partition_rows, part_rows in ((3, 2), (1000, 1000)):
        monkeypatch.setattr(spill, "PARTITION_ROWS", partition_rows)
        monkeypatch.setattr(findings, "PART_ROWS", part_rows)
        assert fresh(folder, tmp_path / "fresh") == expected
    series = read_catalog(tmp_path / "fresh" / "catalog.parquet")
    order = [(one.patient_id, one.study_uid, one.series_uid) for one in series]
    assert order == sorted(order)
    assert len(order) == 24


def test_files_refused_by_the_system_are_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, catalog = export(tmp_path / "export"), tmp_path / "catalog.parquet"
    real = Path.open

    def refuse(path: Path, *args: Any, **kwargs: Any) -> object:
        if path.name == "3":
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert scan(folder, catalog).rejected[Reason.UNREADABLE_FILE] == 16
    assert "unreadable_file" not in scan(folder, catalog).rejected
    assert tables(catalog) == fresh(folder, tmp_path / "fresh")


@pytest.mark.parametrize("killed", [False, True])
def test_a_partly_read_archive_is_read_again(
    killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members before the error are in the tables, of many row groups, but the archive is not known."""
    folder, catalog = export(tmp_path / "export"), tmp_path / "catalog.parquet"
    real, calls = read_header, 0

    def read(file: BinaryIO, source: Source) -> list[dict[str, Any]]:
        nonlocal calls
        calls += bool(source.member)
        if source.member and calls in (13, 20):  # the 13th member of one, the 7th of the other
            raise OSError(5, "Input/output error")
        return real(file, source)

    with monkeypatch.context() as patch:
        patch.setattr(findings, "read_header", read)
        if killed:
            patch.setattr(scan_module, "write_tables", Mock(side_effect=KeyboardInterrupt))
        with suppress(KeyboardInterrupt):
            assert scan(folder, catalog).rejected[Reason.UNREADABLE_FILE] == 2
    assert catalog.exists() != killed
    summary = scan(folder, catalog)
    assert "unreadable_file" not in summary.rejected
    assert summary.unchanged == 72
    assert tables(catalog) == fresh(folder, tmp_path / "fresh")


@pytest.mark.parametrize(("where", "name"), [(header, "walked"), (header, "text")])
def test_out_of_memory_ends_the_scan_and_marks_no_file_as_broken(
    where: object, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, catalog = export(tmp_path / "export"), tmp_path / "catalog.parquet"
    expected = fresh(folder, tmp_path / "fresh")
    real, calls = getattr(where, name), 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 60:
            raise MemoryError
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, call)
        with pytest.raises(
            FmctError, match="out of memory; files already read are kept: rerun the same command"
        ):
            scan(folder, catalog)
    assert not catalog.exists()
    scan(folder, catalog)
    assert tables(catalog) == expected


@pytest.mark.parametrize("writer", ["PrivateParquet", "CatalogWriter"])
def test_a_full_disk_is_reported_and_the_next_scan_resumes(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, catalog = export(tmp_path / "export"), tmp_path / "catalog.parquet"
    expected = fresh(folder, tmp_path / "fresh")
    kind, calls = getattr(catalog_table, writer), 0

    def add(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise OSError(28, "No space left on device")
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        real = kind.add
        patch.setattr(kind, "add", add)
        with pytest.raises(FmctError, match="No space left on device; fix that"):
            scan(folder, catalog)
    assert not catalog.exists()
    assert scan(folder, catalog).unchanged > 0
    assert tables(catalog) == expected


def test_objects_with_one_uid_are_compared_by_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, catalog = export(tmp_path / "export"), tmp_path / "catalog.parquet"
    assert scan(folder, catalog).repeated == Repeated(0, 0)
    assert all(not i.sha256 for s in read_catalog(catalog) for i in s.instances)

    digested: list[Source] = []
    real = duplicates.content_digest

    def digest(source: Source) -> Any:
        digested.append(source)
        return real(source)

    monkeypatch.setattr(duplicates, "content_digest", digest)
    for count in (2, 0):  # the second scan reuses the digests of the first catalog
        (folder / "copy").write_bytes((folder / "p0" / "s1" / "2").read_bytes())
        os.utime(folder / "copy", ns=(1, 1))
        digested.clear()
        assert scan(folder, catalog).repeated == Repeated(1, 0)
        assert len(digested) == count
    (folder / "other").write_bytes(image(0, 1, 2, StudyDescription="sent again"))
    (folder / "elsewhere").write_bytes(image(0, 1, 2, PatientID="another"))
    with zipfile.ZipFile(folder / "packed", "w") as archive:
        archive.writestr("x", (folder / "p0" / "s1" / "2").read_bytes())
        archive.writestr("y", image(4, 0, 0))  # already in the other zip
    digested.clear()
    assert scan(folder, catalog).repeated == Repeated(same_bytes=3, other_bytes=2)
    assert len(digested) == 5
    same = {i.sha256 for s in read_catalog(catalog) for i in s.instances if i.path.name in ("copy", "2")}
    assert len(same - {""}) == 1
    assert tables(catalog) == fresh(folder, tmp_path / "fresh")
    for name in ("copy", "other", "elsewhere", "packed"):
        (folder / name).unlink()
    assert scan(folder, catalog).repeated == Repeated(0, 0)
    assert tables(catalog) == fresh(folder, tmp_path / "fresh")


def test_two_scans_of_one_catalog_do_not_run_at_once(tmp_path: Path) -> None:
    folder, catalog = export(tmp_path / "export"), tmp_path / "catalog.parquet"

    def other_scan(done: int, listed: int) -> None:
        with pytest.raises(LockHeldError):
            scan(folder, catalog)

    scan(folder, catalog, progress=other_scan)


def test_the_exit_code_distinguishes_a_full_disk_from_other_failures() -> None:
    for number, code in ((errno.ENOSPC, 73), (errno.EDQUOT, 73), (errno.EIO, 74), (errno.EACCES, 2)):
        error = findings.cannot_write(Path("work"), OSError(number, "x"))
        assert (error.exit_code, "are kept" in str(error)) == (code, True)


def test_a_catalog_of_another_version_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, catalog = export(tmp_path / "export"), tmp_path / "catalog.parquet"
    expected = fresh(folder, tmp_path / "fresh")
    scan(folder, catalog)
    old = pq.read_table(catalog)
    pq.write_table(old.replace_schema_metadata({"fmct_scan_version": "1"}), catalog)
    parts = tmp_path / ".catalog.parquet.scan" / "parts"
    parts.mkdir(parents=True)
    (parts / "1-1.parquet").write_bytes(b"torn")
    assert scan(folder, catalog).unchanged == 0
    assert tables(catalog) == expected


def test_a_catalog_inside_the_export_is_not_scanned(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    save(ct_image(PIXELS), folder / "a")
    for _ in range(2):
        summary = scan(folder, folder / "catalog.parquet")
        assert (summary.files, summary.skipped) == (1, 0)
