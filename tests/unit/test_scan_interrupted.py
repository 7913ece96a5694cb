"""A scan that is killed, or fails on a file or on the disk, resumes with the same tables."""

import errno
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from unittest.mock import Mock

import pytest
from mixed_exports import Reads, export, fresh, image, tables
from mixed_exports import small_sizes as small_sizes

from preprocess.dicom import catalog_table, header
from preprocess.dicom.header import read_header
from preprocess.dicom.sources import Source
from preprocess.reasons import Reason
from preprocess.scan import findings
from preprocess.scan import run as scan_module
from preprocess.scan.run import rejected_path, scan
from shards.errors import FmctError


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


def test_the_exit_code_distinguishes_a_full_disk_from_other_failures() -> None:
    for number, code in ((errno.ENOSPC, 73), (errno.EDQUOT, 73), (errno.EIO, 74), (errno.EACCES, 2)):
        error = findings.cannot_write(Path("work"), OSError(number, "x"))
        assert (error.exit_code, "are kept" in str(error)) == (code, True)
