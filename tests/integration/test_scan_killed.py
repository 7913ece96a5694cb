"""Killed scans: the next one resumes, and ends with the bytes of an uninterrupted one.

FMCT_KILLS=100 kills as many scans (default: 3).
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from dicom_files import ct_image

from preprocess.scan.run import rejected_path, scan

KILLS = int(os.environ.get("FMCT_KILLS", "3"))
FILES = 2000
PATIENCE_S = 120


def make_files(folder: Path) -> None:
    """Series of 20 files; every tenth file is also in a zip, with other files."""
    buffer = BytesIO()
    uids = {"SeriesInstanceUID": "1.2.11111111", "SOPInstanceUID": "1.2.22222222"}
    ct_image(np.zeros((8, 8), np.int16), **uids).save_as(buffer, enforce_file_format=True)
    folder.mkdir()
    with zipfile.ZipFile(folder / "zip", "w") as archive:
        for number in range(FILES):
            data = buffer.getvalue().replace(b"11111111", b"%d" % (11111111 + number // 20))
            data = data.replace(b"22222222", b"%d" % (22222222 + number))
            (folder / str(number)).write_bytes(data)
            if number % 10 == 0:
                archive.writestr(str(number), data)
                (folder / f"{number}.txt").write_text("not DICOM")


@pytest.mark.timeout(120 + 30 * KILLS)
def test_killed_scans_resume_to_identical_bytes(tmp_path: Path, seed: int) -> None:
    make_files(tmp_path / "export")
    expected = tmp_path / "expected.parquet"
    assert scan(tmp_path / "export", expected).repeated.same_bytes == FILES // 10
    catalog = tmp_path / "out" / "catalog.parquet"
    work = catalog.parent / ".catalog.parquet.scan"
    command = [sys.executable, "-m", "launch.cli", "scan", str(tmp_path / "export")]
    command += ["--catalog", str(catalog), "--workers", "2"]
    rng = np.random.default_rng(seed)
    left_parts = False
    for kill in range(KILLS):
        if catalog.exists():
            shutil.rmtree(catalog.parent)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        # Moments are counted in files that appear, so that they fall on all parts of a scan on any machine.
        files, paths = int(rng.integers(1, 12)), set[Path]()
        while len(paths) < files and process.poll() is None:
            assert time.monotonic() < deadline
            paths |= set(work.glob("*/*"))
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        left_parts = any(work.glob("parts/*.parquet"))
        assert all(path.stat().st_mode & 0o077 == 0 for path in work.rglob("*.parquet")), kill
    summary = scan(tmp_path / "export", catalog)
    assert summary.unchanged > 0 or not left_parts
    for made, wanted in ((catalog, expected), (rejected_path(catalog), rejected_path(expected))):
        assert made.read_bytes() == wanted.read_bytes()
    assert sorted(catalog.parent.iterdir()) == sorted([catalog, rejected_path(catalog)])
