"""Objects in archives are found and decoded like files."""

import gzip
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import axial, ct_image, save, scanned, waves
from packed_exports import PACKERS, hu, iso_of, reasons, zip_of

from preprocess.dicom import inflate, sources
from preprocess.dicom.inflate import INDEX_SPACING
from preprocess.dicom.sources import Source, open_source
from preprocess.reasons import Reason, Rejection
from preprocess.tasks.task import require_unchanged
from shards.errors import FmctError


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
    assert reasons(tmp_path / "packed.parquet") == {"broken": Reason.BROKEN_HEADER}
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
