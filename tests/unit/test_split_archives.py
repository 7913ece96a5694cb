"""Archives in parts are read in place as one; a missing part is named, and detected once added."""

import io
import os
import random
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_files import axial, ct_image, save, scanned, waves

from preprocess.dicom.catalog import Series
from preprocess.dicom.decode import Decoder
from preprocess.reasons import Reason
from preprocess.scan.run import rejected_path

PIECE = 40_000


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return axial(slices=60).write(tmp_path_factory.mktemp("plain"), waves)


@pytest.fixture(scope="module")
def voxels(plain: Path) -> np.ndarray:
    return hu(scanned(plain)[0])


def hu(series: Series) -> np.ndarray:
    with Decoder() as decoder:
        return np.stack([decoder.decode(instance).hu for instance in series.instances[::7]])


def zip_of(folder: Path) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return data.getvalue()


def tar_of(folder: Path, mode: Literal["w", "w:gz"]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:
        archive.add(folder, "scan")
    return data.getvalue()


def pieces(data: bytes) -> list[bytes]:
    return [data[start : start + PIECE] for start in range(0, len(data), PIECE)]


def split_zip(data: bytes, wide: bool = False) -> list[bytes]:
    """The parts of a zip (APPNOTE 4.4.11, 4.4.16, 8.5): with `wide` its end as of Zip64 (4.3.14, 4.3.15)."""
    end = struct.unpack("<4sHHHHLLH", data[-22:])
    size, start = end[5], end[6]
    directory, at = bytearray(data[start : start + size]), 0
    while at < size:
        offset = 4 + struct.unpack_from("<L", directory, at + 42)[0]
        struct.pack_into("<H", directory, at + 34, offset // PIECE)
        struct.pack_into("<L", directory, at + 42, offset % PIECE)
        at += 46 + sum(struct.unpack_from("<HHH", directory, at + 28))
    body = b"PK\7\x08" + data[:start]
    disk, place = divmod(len(body), PIECE)
    more = b""
    if wide:
        more = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, disk, disk, *[end[3]] * 2, size, place)
        more += struct.pack("<4sLQL", b"PK\6\7", disk, place + size, disk + 1)
    count, most = (0xFFFF, 0xFFFFFFFF) if wide else (end[3], None)
    last = struct.pack("<4sHHHHLLH", b"PK\5\6", disk, disk, count, count, most or size, most or place, 0)
    return [*pieces(body)[:disk], body[disk * PIECE :] + directory + more + last]


def written(folder: Path, names: str, parts: list[bytes]) -> list[Path]:
    """The parts as files; a name is a pattern of the number from 1 on, or of letters."""
    folder.mkdir()
    letters = [f"a{chr(97 + number)}" for number in range(26)]
    paths = [folder / names.format(number + 1, letters[number]) for number in range(len(parts))]
    for path, data in zip(paths, parts, strict=True):
        path.write_bytes(data)
    return paths


def split_as(folder: Path, kind: str, plain: Path) -> list[Path]:
    if kind in ("split", "split Zip64", "SPLIT"):
        paths = written(folder, "x.z{0:02d}", split_zip(zip_of(plain), wide=kind != "split"))
        last = paths.pop()
        paths.append(last.rename(folder / "x.zip"))
        return [path.rename(folder / path.name.upper()) for path in paths] if kind == "SPLIT" else paths
    content: dict[str, Callable[[Path], bytes]] = {
        "x.zip.{0:03d}": zip_of,
        "x.tar.{0:03d}": lambda folder: tar_of(folder, "w"),
        "x.tar.gz.{0:03d}": lambda folder: tar_of(folder, "w:gz"),
        "x.tgz.part-{1}": lambda folder: tar_of(folder, "w:gz"),
        "x.tar.gz{1}": lambda folder: tar_of(folder, "w:gz"),
    }
    return written(folder, kind, pieces(content[kind](plain)))


KINDS = (
    "split",
    "split Zip64",
    "SPLIT",
    "x.zip.{0:03d}",
    "x.tar.{0:03d}",
    "x.tar.gz.{0:03d}",
    "x.tgz.part-{1}",
)


def series(folder: Path) -> list[Series]:
    """Rejections of archives, beside a readable file, since a scan without any is an error."""
    save(ct_image(np.zeros((8, 8), np.int16), SeriesInstanceUID="1.2.3.9"), folder / "good")
    return [one for one in scanned(folder) if len(one.instances) > 1]


def rejected(folder: Path) -> dict[str, tuple[str, str]]:
    rows = pq.read_table(rejected_path(folder.with_suffix(".parquet"))).to_pylist()
    return {Path(os.fsdecode(row["path"])).name: (row["reason"], row["detail"]) for row in rows}


@pytest.mark.parametrize("kind", [*KINDS, "x.tar.gz{1}"])
def test_parts_are_read_as_one(kind: str, plain: Path, voxels: np.ndarray, tmp_path: Path) -> None:
    paths = split_as(tmp_path / "e", kind, plain)
    assert len(paths) > 3
    (actual,) = series(tmp_path / "e")
    assert rejected(tmp_path / "e") == {}
    assert len(actual.instances) == 60
    assert np.array_equal(hu(actual), voxels)
    assert all(instance.source.is_unchanged() for instance in actual.instances)
    paths[1].write_bytes(paths[1].read_bytes())
    os.utime(paths[1], ns=(0, 2**60))
    assert not actual.instances[0].source.is_unchanged()


@pytest.mark.parametrize("kind", ["split", "x.zip.{0:03d}", "x.tar.gz.{0:03d}"])
def test_a_missing_part_is_named_and_read_once_it_is_there(kind: str, plain: Path, tmp_path: Path) -> None:
    paths = split_as(tmp_path / "e", kind, plain)
    absent = paths[1].rename(tmp_path / "away")
    assert series(tmp_path / "e") == []
    reasons = rejected(tmp_path / "e")
    assert set(reasons) == {path.name for path in paths} - {paths[1].name}
    assert {reason for reason, _ in reasons.values()} == {Reason.DAMAGED_ARCHIVE}
    assert all(f"{paths[1].suffix} is missing" in detail for _, detail in reasons.values())
    absent.rename(paths[1])
    assert len(series(tmp_path / "e")[0].instances) == 60
    assert rejected(tmp_path / "e") == {}


def test_a_missing_last_part_is_named(plain: Path, tmp_path: Path) -> None:
    for number, kind in enumerate(["split", "x.zip.{0:03d}"]):
        paths = split_as(tmp_path / f"e{number}", kind, plain)
        paths[-1].unlink()
        assert series(tmp_path / f"e{number}") == []
        reasons = rejected(tmp_path / f"e{number}")
        assert {reason for reason, _ in reasons.values()} == {Reason.DAMAGED_ARCHIVE}
        assert all("missing" in detail for _, detail in reasons.values())
    paths = split_as(tmp_path / "x", "x.tar.gz.{0:03d}", plain)
    paths[-1].unlink()
    assert len(series(tmp_path / "x")[0].instances) > 20
    assert set(rejected(tmp_path / "x")) == {"x.tar.gz.001"}


def test_an_absurd_number_of_parts_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    for name, parts in {"wide.zip": 2**32 - 1, "many.zip": 5001}.items():
        locator = struct.pack("<4sLQL", b"PK\6\7", 0, 0, parts)
        end = struct.pack("<4sHHHHLLH", b"PK\5\6", 0xFFFF, 0xFFFF, 0, 0, 0, 0, 0)
        (tmp_path / "e" / name).write_bytes(bytes(2000) + locator + end)
    assert series(tmp_path / "e") == []
    reasons = rejected(tmp_path / "e")
    assert {reason for reason, _ in reasons.values()} == {Reason.DAMAGED_ARCHIVE}
    assert "4294967295 parts" in reasons["wide.zip"][1]
    assert len(reasons["many.zip"][1]) < 200


def test_parts_of_unsupported_archives_have_a_remedy(tmp_path: Path) -> None:
    parts = {
        "x.7z.001": b"7z\xbc\xaf\x27\x1c",
        "y.part1.rar": b"Rar!\x1a\x07\1\0",
        "y.r00": b"Rar!\x1a\x07\1\0",
    }
    (tmp_path / "e").mkdir()
    for name, start in (parts | {"x.7z.002": b"", "z.tar.gz.002": b"", "notes.z01": b""}).items():
        (tmp_path / "e" / name).write_bytes(start + random.Random(0).randbytes(1000))
    assert series(tmp_path / "e") == []
    reasons = rejected(tmp_path / "e")
    assert {name: reason for name, (reason, _) in reasons.items()} == {
        **dict.fromkeys((*parts, "x.7z.002"), Reason.UNSUPPORTED_ARCHIVE),
        **dict.fromkeys(("z.tar.gz.002", "notes.z01"), Reason.DAMAGED_ARCHIVE),
    }
    assert "unpack" in reasons["x.7z.002"][1]
    assert ".001 is missing" in reasons["z.tar.gz.002"][1]


@pytest.mark.skipif(not shutil.which("zip"), reason="needs Info-ZIP")
def test_splits_of_info_zip_are_read(plain: Path, voxels: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    command = ["zip", "-q", "-r", "-s", "64k", str(tmp_path / "e" / "x.zip"), "."]
    subprocess.run(command, cwd=plain, check=True)
    (actual,) = series(tmp_path / "e")
    assert np.array_equal(hu(actual), voxels)
