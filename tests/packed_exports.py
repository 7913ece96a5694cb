"""Exports in archives, for the tests of sources: zip, tar, tar.gz and images of CDs."""

import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from decoded_slices import decode
from dicom_files import ct_image

from preprocess.dicom.catalog import Instance
from preprocess.reasons import Reason
from preprocess.scan.run import rejected_path


def hu(instance: Instance) -> np.ndarray:
    return decode(instance).hu


def pack_zip(folder: Path, path: Path, method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))


def pack_tar(folder: Path, path: Path, **options: Any) -> None:
    with tarfile.open(path, **options) as archive:
        archive.add(folder, "a folder")


PACKERS: dict[str, Callable[[Path, Path], None]] = {
    "deflated": pack_zip,
    "stored": lambda folder, path: pack_zip(folder, path, zipfile.ZIP_STORED),
    "tar": lambda folder, path: pack_tar(folder, path, mode="w"),
    "tar.gz": lambda folder, path: pack_tar(folder, path, mode="w:gz", compresslevel=1),
}


def reasons(catalog: Path) -> dict[str, str]:
    """Reasons by the name of the unreadable file or member."""
    rows = pq.read_table(rejected_path(catalog)).to_pylist()
    return {
        Path(os.fsdecode(row["member"] or row["path"])).name: row["reason"]
        for row in rows
        if row["reason"] != Reason.NOT_DICOM
    }


def dicom_bytes() -> bytes:
    buffer = io.BytesIO()
    ct_image(np.zeros((8, 8), np.int16)).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def tar_of(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        return buffer.getvalue()[: archive.offset]  # its end mark is written on exit


def zip_of(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def iso_of(folders: dict[str, dict[str, bytes]]) -> bytes:
    """An ISO 9660 image (ECMA-119): a root with folders of files."""

    def record(name: bytes, sector: int, size: int, flags: int) -> bytes:
        both = b"".join(struct.pack("<L", n) + struct.pack(">L", n) for n in (sector, size))
        length = 33 + len(name) + (len(name) + 1) % 2
        fields = bytes([length, 0]) + both + bytes(7) + bytes([flags, 0, 0]) + b"\1\0\0\1"
        return (fields + bytes([len(name)]) + name).ljust(length, b"\0")

    def directory(records: list[bytes], own: int, parent: int) -> bytes:
        data = record(b"\0", own, 2048, 2) + record(b"\1", parent, 2048, 2)
        for one in records:
            if len(data) % 2048 + len(one) > 2048:
                data += bytes(-len(data) % 2048)
            data += one
        return data.ljust(2 * 2048, b"\0")

    sectors = {19: b""}
    free, root = 21, []
    for folder, content in folders.items():
        place, records = free, []
        free += 2
        for name, data in content.items():
            sectors[free] = data
            records.append(record(name.encode(), free, len(data), 0))
            free += -(-len(data) // 2048)
        sectors[place] = directory(records, place, 19)
        root.append(record(folder.encode(), place, 2 * 2048, 2))
    sectors[19] = directory(root, 19, 19)
    descriptor = b"\1CD001\1".ljust(128, b"\0") + b"\0\x08\x08\0"
    sectors[16] = descriptor.ljust(156, b"\0") + record(b"\0", 19, 2 * 2048, 2)
    sectors[17] = b"\xffCD001\1"
    image = bytearray(2048 * free)
    for sector, data in sectors.items():
        image[2048 * sector : 2048 * sector + len(data)] = data
    return bytes(image)
