"""Objects in archives are found and decoded like files; unreadable ones are named."""

import gzip
import io
import os
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_files import axial, ct_image, save, scanned, waves

from preprocess.dicom import inflate, sources
from preprocess.dicom.archive_kinds import START_BYTES, archive_kind
from preprocess.dicom.catalog import Instance
from preprocess.dicom.decode import Decoder
from preprocess.dicom.inflate import INDEX_SPACING
from preprocess.dicom.sources import Source, archive_members, open_source
from preprocess.reasons import Reason, Rejection
from preprocess.scan.run import rejected_path, scan
from preprocess.tasks.task import require_unchanged
from shards.errors import FmctError

NOISE = random.Random(0).randbytes(50_000)


def hu(instance: Instance) -> np.ndarray:
    with Decoder() as decoder:
        return decoder.decode(instance).hu


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


@pytest.mark.parametrize("packer", PACKERS)
def test_archive_members_are_scanned_and_decoded_like_files(packer: str, tmp_path: Path) -> None:
    plain = axial(slices=4).write(tmp_path / "plain", waves)
    (plain / "notes.txt").write_text("not DICOM")
    (plain / "broken").write_bytes(b"\0" * 128 + b"DICM" + bytes(range(256)))
    (tmp_path / "packed").mkdir()
    # The names of archives and files are not used.
    archive = tmp_path / "packed" / "export.dcm"
    PACKERS[packer](plain, archive)
    (of_files,), (of_members,) = scanned(plain), scanned(tmp_path / "packed")
    assert reasons(tmp_path / "packed.parquet") == {"broken": Reason.MISSING_UID}
    for file, member in zip(of_files.instances, of_members.instances, strict=True):
        assert member.path == archive
        assert Path(member.member).name == file.path.name
        place: dict[str, Any] = {"path": file.path, "mtime_ns": file.mtime_ns}
        assert replace(member, **place, member="", offset=0, archive_size=0) == file
        assert np.array_equal(hu(member), hu(file))
    assert of_members.bytes == of_files.bytes

    require_unchanged(of_members, "key")
    with archive.open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(FmctError, match="changed since the scan"):
        require_unchanged(of_members, "key")


def test_several_members_may_have_one_name(tmp_path: Path) -> None:
    """An appended tar has old and new members of one name; both are objects."""
    images = [ct_image(np.full((8, 8), value, np.int16)) for value in (1, 2)]
    (tmp_path / "e").mkdir()
    with tarfile.open(tmp_path / "e" / "t", "w") as archive:
        for image in images:
            archive.add(save(image, tmp_path / "x"), "same")
    (series,) = scanned(tmp_path / "e")
    assert sorted(hu(i)[0, 0] for i in series.instances) == [1, 2]


def test_members_of_a_long_gzip_stream_are_read_by_its_index(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    edge = 1200  # so that three images are more than one spacing of the index
    assert 3 * edge * edge * 2 > INDEX_SPACING
    images = [ct_image(rng.integers(0, 4, (edge, edge), np.int16)) for _ in range(5)]
    for number, image in enumerate(images):
        save(image, tmp_path / "plain" / str(number))
    (tmp_path / "e").mkdir()
    PACKERS["tar.gz"](tmp_path / "plain", tmp_path / "e" / "t")
    (series,) = scanned(tmp_path / "e")
    (plain,) = scanned(tmp_path / "plain")
    for packed, file in reversed(list(zip(series.instances, plain.instances, strict=True))):
        with open_source(packed.source) as data:
            assert data.read() == file.path.read_bytes()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_large_member_of_a_zip_is_read_in_place(
    method: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order, with the same bytes; a changed one is refused on opening."""
    monkeypatch.setattr(sources, "RATIO_FROM", 1000)
    monkeypatch.setattr(inflate, "INDEX_SPACING", 2**14)
    rng = np.random.default_rng(0)
    data = rng.integers(0, 9, 200_000, np.uint8).tobytes()
    archive = tmp_path / "a"
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr("one", data)
    status = archive.stat()
    source = Source(archive, len(data), status.st_mtime_ns, "one", 0, status.st_size)
    with open_source(source) as opened:
        assert opened.read() == data
        for _ in range(50):
            start, size = (int(n) for n in rng.integers(0, len(data), 2))
            opened.seek(start)
            assert opened.read(size) == data[start : start + size]
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(Rejection, match="damaged_archive"), open_source(source):
        pass


def dicom_bytes() -> bytes:
    buffer = io.BytesIO()
    ct_image(np.zeros((8, 8), np.int16)).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


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


def encrypted_zip() -> bytes:
    """The encryption flag (bit 0) of local header and directory set."""
    data = bytearray(zip_of(("secret", dicom_bytes())))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


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
        "split.z01": Reason.DAMAGED_ARCHIVE,
        "split.zip": Reason.DAMAGED_ARCHIVE,
        "split-2.zip": Reason.DAMAGED_ARCHIVE,
        "zip.gz": Reason.NESTED_ARCHIVE,
    }
    # Members before the damage are kept: in absurd, name and cut (tar and gz), and after inner.tar.
    assert summary.objects == 8  # and in the self-extracting zip


def zip_end(disk: int) -> bytes:
    """The record that ends the last part of a split zip."""
    return b"PK\5\6" + struct.pack("<HHHHLLH", disk, disk, 1, 1, 60, 100, 0)


def test_a_gzipped_file_is_one_object(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    path = save(ct_image(np.arange(64, dtype=np.int16).reshape(8, 8)), tmp_path / "plain" / "x.dcm")
    (tmp_path / "e" / "x.dcm.gz").write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "e" / "scan.nii.gz").write_bytes(gzip.compress(bytes(400)))
    (of_file,), (of_gzip,) = scanned(tmp_path / "plain"), scanned(tmp_path / "e")
    assert reasons(tmp_path / "e.parquet") == {}
    assert np.array_equal(hu(of_gzip.instances[0]), hu(of_file.instances[0]))
    assert of_gzip.instances[0].size == of_file.instances[0].size
    assert of_gzip.instances[0].source.is_unchanged()


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


def test_a_cd_image_is_read_in_place(tmp_path: Path) -> None:
    plain = axial(slices=60).write(tmp_path / "plain", waves)
    content = {f"IM{k:06d}.;1": path.read_bytes() for k, path in enumerate(sorted(plain.iterdir()))}
    (tmp_path / "e").mkdir()
    image = iso_of({"DICOM": content, "DOC": {"READ_ME.TXT;1": b"not DICOM", "X.ZIP;1": zip_of(("a", b"b"))}})
    (tmp_path / "e" / "cd").write_bytes(image)
    (of_files,), (of_image,) = scanned(plain), scanned(tmp_path / "e")
    assert reasons(tmp_path / "e.parquet") == {"X.ZIP": Reason.NESTED_ARCHIVE}
    assert min(i.member for i in of_image.instances) == "DICOM/IM000000"
    for file, member in zip(of_files.instances, of_image.instances, strict=True):
        assert np.array_equal(hu(member), hu(file))
    (tmp_path / "e" / "cd").write_bytes(image[: len(image) // 2])
    (cut,) = scanned(tmp_path / "e")
    assert 10 < len(cut.instances) < 50
    assert set(reasons(tmp_path / "e.parquet").values()) >= {Reason.DAMAGED_ARCHIVE}


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


def long_name(size: int) -> bytes:
    """A GNU long name header that claims `size` bytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    return info.tobuf()


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
