"""Scanning again: known files are not read, and the tables equal those of a first scan byte for byte."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from dicom_files import ct_image, save
from mixed_exports import PIXELS, Reads, export, fresh, image, tables
from mixed_exports import small_sizes as small_sizes

from preprocess.dicom.catalog import read_catalog
from preprocess.dicom.sources import Source
from preprocess.scan import duplicates, findings, spill
from preprocess.scan.duplicates import Repeated
from preprocess.scan.run import ScanSummary, scan
from shards.lock import LockHeldError


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
