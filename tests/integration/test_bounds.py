"""Small files that claim gigabytes, under a memory limit: each has its row, and the others are kept."""

import io
import os
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from dicom_files import axial, ct_image, save
from preprocess_export import KEY, ROOT, write_series
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from preprocess.privacy.trace import trace
from preprocess.reasons import Reason

LIMIT = 3 * 2**30
"""Limit of the address space; a worker's imports take a fifth of it."""
LIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({LIMIT}, {LIMIT}))"
SLICES = 12
EDGE = 64


def fmct(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command under the limit."""
    code = f"{LIMITED}; from launch.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)


def deflated_zeros(mebibytes: int) -> bytes:
    """Part of a raw deflate stream, valid anywhere in one, a thousandth as long as the zeros it encodes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)) * (mebibytes // 16)


def deflated(data: bytes, level: int = 6, end: bool = False) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush(zlib.Z_FINISH if end else zlib.Z_FULL_FLUSH)


def frames(number: int, edge: int = EDGE, count: int = SLICES, **attributes: Any) -> FileDataset:
    """A classic multi-frame CT, the one series of study `number`; its pixels are zeros."""
    identity = {
        "PatientID": f"bad {number}",
        "StudyInstanceUID": f"{ROOT}.9{number}",
        "SeriesInstanceUID": f"{ROOT}.9{number}.1",
        "SOPInstanceUID": f"{ROOT}.9{number}.1.1",
    }
    geometry = {"SpacingBetweenSlices": 10, "PixelSpacing": [200 / edge] * 2, "NumberOfFrames": count}
    data = ct_image(np.zeros((8, 8), np.int16), **identity | geometry | attributes)
    data.file_meta.MediaStorageSOPInstanceUID = UID(identity["SOPInstanceUID"])
    data.Rows = data.Columns = edge
    return data


def split(data: FileDataset) -> tuple[bytes, bytes]:
    """A file's bytes up to its data set, and from there to the length of its pixels (none if deflated)."""
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()
    start = 132 + 12 + struct.unpack("<L", whole[140:144])[0]
    return whole[:start], whole[start : whole.rfind(b"\xe0\x7f\x10\x00OW") + 8]


def deflated_file(path: Path, number: int, mebibytes: int, before: bytes = b"", **attributes: Any) -> None:
    """Deflated pixels of so many MiB, behind what stands `before` the pixels."""
    data = frames(number, **attributes)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    start, text = split(data)[0], split(frames(number, **attributes))[1]
    pixels = deflated(text[-8:] + struct.pack("<L", mebibytes * 2**20)) + deflated_zeros(mebibytes)
    path.write_bytes(start + deflated(text[:-8]) + before + pixels + deflated(b"", end=True))


def zip_of_gigabytes(path: Path, number: int, mebibytes: int, noise: int) -> None:
    """A zip with one member, valid except for gigabytes of pixels that its header does not declare."""
    start, text = split(frames(number))
    begin = start + text + struct.pack("<L", mebibytes * 2**20) + random.Random(0).randbytes(noise)
    rest = (mebibytes * 2**20 + len(start + text) + 4 - len(begin)) // 2**24
    packed = deflated(begin, 0) + deflated_zeros(16 * rest) + deflated(b"", end=True)
    crc = zlib.crc32(begin)
    for _ in range(rest):
        crc = zlib.crc32(bytes(2**24), crc)
    size = len(begin) + rest * 2**24
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image", b"")
        info = archive.infolist()[0]
        assert archive.fp is not None
        archive.fp.seek(0)
        info.CRC, info.compress_size, info.file_size = crc, len(packed), size
        archive.fp.write(info.FileHeader(zip64=False) + packed)
        archive.start_dir = archive.fp.tell()


def encapsulated(path: Path, number: int, syntax: str, codestream: bytes, **attributes: Any) -> None:
    data = frames(number, **attributes)
    data.PixelData = encapsulate([codestream] * int(data.NumberOfFrames))
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = UID(syntax)
    save(data, path)


def jpeg_2000(rows: int, columns: int, components: int) -> bytes:
    """The main header of a codestream with this image size, and its end marker."""
    size = struct.pack(">4L4L", columns, rows, 0, 0, columns, rows, 0, 0)
    siz = struct.pack(">H", 0) + size + struct.pack(">H", components) + b"\x0f\1\1" * components
    head = b"\xff\x4f\xff\x51" + struct.pack(">H", 2 + len(siz)) + siz
    cod = b"\xff\x52\0\x0c\0\0\0\1\0\1\3\3\0\1"
    return head + cod + b"\xff\x5c\0\x07\x40\x40\x48\x48\x50" + b"\xff\xd9"


def make_export(folder: Path) -> dict[str, Reason | None]:
    """A valid series and others; the expected reason of each one's file or series, by study."""
    write_series(folder, 0, 1, axial(slices=20, gap=6.0, start=(-70, -60, 0)))
    private = struct.pack("<HH2s2xL", 0x0029, 0x1001, b"OB", 2**32 - 16)
    deflated_file(folder / "header", 1, 16, deflated(private) + deflated_zeros(4096))
    deflated_file(folder / "pixels", 2, 4080)
    deflated_file(folder / "black", 3, 512, edge=4096, count=16)
    zip_of_gigabytes(folder / "zip", 4, 2032, 2**24)  # zipfile of 3.11.2 has no header for more
    save(frames(6, count=30_000), folder / "frames")
    encapsulated(folder / "stack", 7, RLELossless, bytes(80), edge=4096, count=1400)
    encapsulated(folder / "jp2", 8, JPEG2000Lossless, jpeg_2000(EDGE, EDGE, 16_384))
    wrapped = struct.pack(">L4sL", 12, b"jP  ", 0x0D0A870A) + struct.pack(">L4s", 0, b"jp2c")
    encapsulated(folder / "wrapped", 9, JPEG2000Lossless, wrapped + jpeg_2000(60_000, 60_000, 1))
    sparse(folder / "sparse")
    return {
        "1": None,
        "2": Reason.UNDECODABLE_PIXEL_DATA,
        "3": Reason.ARCHIVE_BOMB,
        "4": Reason.UNDECODABLE_PIXEL_DATA,
        "6": None,
        "7": Reason.TOO_MANY_SLICES,
        "8": Reason.UNDECODABLE_PIXEL_DATA,
        "9": Reason.UNDECODABLE_PIXEL_DATA,
        "10": Reason.UNDECODABLE_PIXEL_DATA,
    }


def sparse(path: Path) -> None:
    """One sparse fragment of 3 GiB, under a header of a few pixels."""
    data = frames(10)
    data.PixelData = encapsulate([bytes(64)])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = RLELossless
    save(data, path)
    content = path.read_bytes()
    at = content.rindex(b"\xfe\xff\x00\xe0")
    with path.open("wb") as file:
        file.write(content[:at] + struct.pack("<HHL", 0xFFFE, 0xE000, 3 * 2**30))
        file.truncate(at + 8 + 3 * 2**30)


def test_files_that_declare_gigabytes_are_quarantined_without_other_losses(tmp_path: Path) -> None:
    export, catalog, out = tmp_path / "e", tmp_path / "c.parquet", tmp_path / "out"
    reasons = make_export(export)
    result = fmct("scan", str(export), "--catalog", str(catalog), "--workers", "1")
    assert result.returncode == 0, result.stderr[-2000:]
    rejected = {
        os.path.basename(os.fsdecode(row["path"])): row["reason"]
        for row in pq.read_table(tmp_path / "c.rejected.parquet").to_pylist()
    }
    broken = {"header": Reason.ARCHIVE_BOMB, "frames": Reason.BROKEN_HEADER}
    assert rejected == broken
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o600)
    settings = [f"key_file={tmp_path / 'key'}", "workers=1", "grid.spacing_mm=[4,4,4]"]
    result = fmct("preprocess", str(catalog), "--out", str(out), *settings)
    assert result.returncode == 0, result.stderr[-2000:]
    assert pq.read_table(out / "manifest.parquet").num_rows == 1
    traced = {}
    for row in pq.read_table(out / "quarantine.parquet").to_pylist():
        series = trace(catalog, tmp_path / "key", row["key"])
        traced[series.patient_id.removeprefix("bad ")] = row["reason"]
    assert traced == {number: reason for number, reason in reasons.items() if reason}
