"""Damaged, encrypted and malicious archives are named with a reason and affect no other file."""

import gzip
import io
import os
import random
import struct
import tarfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from dicom_files import axial, ct_image, save, scanned, waves
from packed_exports import PACKERS, dicom_bytes, hu, iso_of, reasons, tar_of, zip_of

from preprocess.dicom.archive_kinds import START_BYTES, archive_kind
from preprocess.dicom.sources import archive_members, open_source
from preprocess.reasons import Reason, Rejection
from preprocess.scan.run import scan

NOISE = random.Random(0).randbytes(50_000)


def bomb_zip(declared: int) -> bytes:
    """A zip of 1 kB whose one member claims `declared` bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", dicom_bytes())
    data = buffer.getvalue()
    return data.replace(struct.pack("<I", len(dicom_bytes())), struct.pack("<I", declared))


def bomb_gzip(unpacked: int) -> bytes:
    """A tar.gz whose member is `unpacked` zeros, followed by a DICOM object."""
    member, buffer = tarfile.TarInfo("bomb"), io.BytesIO()
    member.size = unpacked
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    buffer.write(packer.compress(member.tobuf()))
    for _ in range(unpacked >> 20):
        buffer.write(packer.compress(bytes(2**20)))
    buffer.write(packer.flush())
    return buffer.getvalue()


def encrypted_zip() -> bytes:
    """The encryption flag (bit 0) of local header and directory set."""
    data = bytearray(zip_of(("secret", dicom_bytes())))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def long_name(size: int) -> bytes:
    """A GNU long name header that claims `size` bytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    return info.tobuf()


def zip_end(disk: int) -> bytes:
    """The record that ends the last part of a split zip."""
    return b"PK\5\6" + struct.pack("<HHHHLLH", disk, disk, 1, 1, 60, 100, 0)


def test_unreadable_archives_are_named_and_affect_no_others(tmp_path: Path) -> None:
    export, one = tmp_path / "e", ("good", dicom_bytes())
    save(ct_image(np.zeros((8, 8), np.int16)), export / "file")
    huge = tarfile.TarInfo("huge.tar")
    huge.size = 2**40
    flipped = bytearray(zip_of(("flipped", dicom_bytes())))
    flipped[60] ^= 0xFF
    files = {
        "encrypted": encrypted_zip(),
        "bomb.zip": bomb_zip(0xFFFFFFF0),
        "bomb.gz": bomb_gzip(2**27),
        "absurd.tar": tar_of(one) + huge.tobuf() + bytes(1024),
        "name.tar": tar_of(one) + long_name(2**32),
        "cut.tar": tar_of(one, ("cut", bytes(5000)))[:3000],
        "cut.gz": gzip.compress(tar_of(one, ("cut", NOISE)))[:20_000],
        "cut.zip": zip_of(one)[:-60],
        "noise.zip": b"PK\x03\x04" + NOISE[:2000],
        "flipped.zip": bytes(flipped),
        "outer.zip": zip_of(("inner.zip", zip_of(one)), ("inner.tar", tar_of(one)), ("good", dicom_bytes())),
        "x.7z": b"7z\xbc\xaf\x27\x1c" + bytes(100),
        "x.cab": b"MSCF\0\0\0\0" + bytes(100),
        "x.lzh": b"\x19\x80-lh5-" + bytes(100),
        "x.bin": b"\0" + b"\xff" * 10 + b"\0\0\2\0\1" + bytes(40_000),
        "x.udf": bytes(16 * 2048 + 1) + b"BEA01" + bytes(5000),
        "x.exe": b"MZ" + bytes(3000) + zip_of(one),
        "viewer.exe": b"MZ" + bytes(3000),
        "x.dcm.gz": gzip.compress(dicom_bytes()),
        "split.z01": b"PK\x07\x08" + zip_of(one),
        "split.zip": NOISE[:600] + zip_end(disk=3),
        "split-2.zip": zip_of(one)[:-22] + zip_end(disk=1),
        "zip.gz": gzip.compress(zip_of(one)),
        "volume.nii.gz": gzip.compress(bytes(400)),
        "padded.dcm.gz": gzip.compress(dicom_bytes()) + bytes(2000),
        "empty.zip": zip_of(),
    }
    for name, data in files.items():
        (export / name).write_bytes(data)
    summary = scan(export, tmp_path / "c")
    by_name = reasons(tmp_path / "c")
    assert by_name == {
        "secret": Reason.ENCRYPTED_ARCHIVE,
        "bomb": Reason.ARCHIVE_BOMB,
        "bomb.gz": Reason.ARCHIVE_BOMB,
        "huge.tar": Reason.ARCHIVE_BOMB,
        "absurd.tar": Reason.DAMAGED_ARCHIVE,
        "name.tar": Reason.DAMAGED_ARCHIVE,
        "cut.tar": Reason.DAMAGED_ARCHIVE,
        "cut.gz": Reason.DAMAGED_ARCHIVE,
        "cut.zip": Reason.DAMAGED_ARCHIVE,
        "noise.zip": Reason.DAMAGED_ARCHIVE,
        "flipped": Reason.DAMAGED_ARCHIVE,
        "inner.zip": Reason.NESTED_ARCHIVE,
        "inner.tar": Reason.NESTED_ARCHIVE,
        **dict.fromkeys(("x.7z", "x.cab", "x.lzh", "x.bin", "x.udf"), Reason.UNSUPPORTED_ARCHIVE),
        "padded.dcm.gz": Reason.UNSUPPORTED_ARCHIVE,
        "split.z01": Reason.DAMAGED_ARCHIVE,
        "split.zip": Reason.DAMAGED_ARCHIVE,
        "split-2.zip": Reason.DAMAGED_ARCHIVE,
        "zip.gz": Reason.NESTED_ARCHIVE,
    }
    # Members before the damage are kept: in absurd, name and cut (tar and gz), and after inner.tar.
    assert summary.objects == 8  # and in the self-extracting zip


def test_damaged_cd_images_have_typed_reasons(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    save(ct_image(np.zeros((8, 8), np.int16)), tmp_path / "e" / "good")
    image = iso_of({"DICOM": {"A.;1": dicom_bytes()}})
    places = {"root": (16 * 2048 + 156, b"\xff" * 34), "record": (19 * 2048, b"\x08"), "none": (0, b"")}
    for name, (at, value) in places.items():
        damaged = bytearray(image)
        damaged[at : at + len(value)] = value
        (tmp_path / "e" / name).write_bytes(damaged[: 18 * 2048] if name == "none" else damaged)
    scan(tmp_path / "e", tmp_path / "c")
    assert reasons(tmp_path / "c") == dict.fromkeys(("root", "record", "none"), Reason.DAMAGED_ARCHIVE)


@pytest.mark.parametrize("packer", PACKERS)
def test_a_member_with_changed_bytes_is_refused(packer: str, tmp_path: Path) -> None:
    """Zip has a checksum per member, gzip one per stream; a tar has none, like a plain file."""
    plain = axial(slices=2).write(tmp_path / "plain", waves)
    (tmp_path / "e").mkdir()
    archive = tmp_path / "e" / "a"
    PACKERS[packer](plain, archive)
    (series,) = scanned(tmp_path / "e")
    data, status = bytearray(archive.read_bytes()), archive.stat()
    data[len(data) // 3] ^= 0x10
    archive.write_bytes(data)
    os.utime(archive, ns=(status.st_atime_ns, status.st_mtime_ns))
    outcomes = []
    for instance in series.instances:
        try:
            hu(instance)
        except Rejection as rejection:
            outcomes.append(rejection.reason)
    expected = [] if packer == "tar" else [Reason.DAMAGED_ARCHIVE]
    assert outcomes[:1] == expected


@pytest.mark.parametrize("packer", ["deflated", "stored", "tar", "tar.gz"])
def test_a_mutated_archive_is_read_or_named(packer: str, tmp_path: Path, fixed_seed: int) -> None:
    """FMCT_FUZZ=10000 tries as many mutations (default: 60): no exception, no hang, no bomb."""
    plain = axial(slices=3).write(tmp_path / "plain", waves)
    archive = tmp_path / "a"
    PACKERS[packer](plain, archive)
    data, rng = archive.read_bytes(), np.random.default_rng(fixed_seed)
    mutated = tmp_path / "mutated"
    for number in range(int(os.environ.get("FMCT_FUZZ", "60"))):
        changed = np.frombuffer(data, np.uint8).copy()
        # Half of the changes are in the directory of a zip and the first header of a tar.
        low, high = [(0, len(data)), (0, 600), (max(len(data) - 600, 0), len(data))][number % 3]
        places = rng.integers(low, high, 1 + number % 8)
        changed[places] = (
            rng.integers(0, 256, len(places)) if number % 2 else rng.choice([0, 255], len(places))
        )
        mutated.write_bytes(changed[: rng.integers(low, high) if number % 5 == 0 else None].tobytes())
        with mutated.open("rb") as file:
            kind = archive_kind(file.read(START_BYTES))
        if not kind:
            continue
        for source, member in archive_members(mutated, kind, mutated.stat()):
            if isinstance(member, Rejection):
                continue
            with suppress(Rejection, zipfile.BadZipFile, zlib.error, EOFError):
                assert len(member.read()) <= source.size
            with suppress(Rejection), open_source(source) as opened:
                assert len(opened.read()) <= source.size
