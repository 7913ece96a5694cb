import os
import shutil
import stat
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from dicom_files import axial, ct_image, save, waves
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from preprocess.dicom import bounded
from preprocess.dicom.catalog import read_catalog, read_rows
from preprocess.dicom.header import read_header
from preprocess.dicom.sources import HEADER_BUFFER, file_source
from preprocess.reasons import Reason, Rejection
from preprocess.scan.duplicates import Repeated
from preprocess.scan.run import rejected_path, scan
from shards.errors import FmctError

PIXELS = np.zeros((8, 8), np.int16)


def export(folder: Path) -> Path:
    """A small tree: two CT series, an MR, other files, and every kind of broken file."""
    axial(slices=5).write(folder / "a", waves, names=["z", "00.txt", "m.jpg", "b", "q"])
    save(ct_image(PIXELS, SeriesInstanceUID="1.2.3.9", PatientID="other"), folder / "a" / "deep" / "x")
    save(ct_image(PIXELS, SeriesInstanceUID="1.2.3.8", Modality="MR"), folder / "mr.dcm")
    save(ct_image(PIXELS, SeriesInstanceUID=None), folder / "no-uid.dcm")
    (folder / "empty.dcm").touch()
    (folder / "notes.txt").write_text("not DICOM")
    (folder / "prefix-only.dcm").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "garbage.dcm").write_bytes(b"\0" * 128 + b"DICM" + bytes(range(256)) * 4)
    shutil.copy(folder / "a" / "b", folder / os.fsdecode(b"M\xfcller"))
    return folder


def test_catalog_holds_every_series_and_names_every_broken_file(tmp_path: Path) -> None:
    catalog = tmp_path / "out" / "catalog.parquet"
    calls: list[tuple[int, int]] = []
    summary = scan(export(tmp_path / "export"), catalog, progress=lambda *call: calls.append(call))
    assert (summary.files, summary.objects, summary.series) == (13, 8, 3)
    assert summary.skipped == 1
    assert summary.repeated == Repeated(same_bytes=1, other_bytes=0)
    assert summary.modalities == {"CT": 7, "MR": 1}
    assert calls[-1] == (13, 13)
    rejected = pq.read_table(rejected_path(catalog)).to_pylist()
    assert [row["path"] for row in rejected if row["reason"] == Reason.NOT_DICOM] == [
        os.fsencode(tmp_path / "export" / "notes.txt")
    ]
    rejected = [row for row in rejected if row["reason"] != Reason.NOT_DICOM]
    reasons = {os.path.basename(os.fsdecode(row["path"])): row["reason"] for row in rejected}
    assert reasons["empty.dcm"] == Reason.EMPTY_FILE
    assert reasons["no-uid.dcm"] == Reason.MISSING_UID
    assert set(reasons) == {"empty.dcm", "no-uid.dcm", "prefix-only.dcm", "garbage.dcm"}
    assert sum(summary.rejected.values()) == 4
    for path in (catalog, rejected_path(catalog)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    series = {s.series_uid: s for s in read_catalog(catalog)}
    head = series["1.2.3.2"]
    assert head.repeated_sop_uids == 1
    assert any("M" in i.path.name and i.path.exists() for i in head.instances)
    instance = head.instances[0]
    assert instance.pixel_spacing == (3.0, 3.0)
    assert instance.orientation == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert (instance.rows, instance.columns, instance.frames) == (48, 48, 1)
    assert (head.kernel, head.kvp, head.image_type) == ("H30s", 120.0, ("ORIGINAL", "PRIMARY", "AXIAL"))
    assert read_rows(catalog, [2, 0]) == [read_catalog(catalog)[2], read_catalog(catalog)[0]]


def test_catalog_does_not_depend_on_workers_or_names(tmp_path: Path) -> None:
    folder = export(tmp_path / "export")
    for workers in (1, 3):
        scan(folder, tmp_path / f"{workers}.parquet", workers)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "3.parquet").read_bytes()
    (folder / "a" / "z").rename(folder / "0")
    scan(folder, tmp_path / "renamed.parquet")
    order = [
        [[i.sop_uid for i in s.instances] for s in read_catalog(tmp_path / name)]
        for name in ("1.parquet", "renamed.parquet")
    ]
    assert order[0] == order[1]


def test_two_patients_with_one_series_uid_stay_two_series(tmp_path: Path) -> None:
    for patient in ("a", "b"):
        save(ct_image(PIXELS, PatientID=patient), tmp_path / "export" / patient)
    assert scan(tmp_path / "export", tmp_path / "c.parquet").series == 2


def test_a_non_image_object_does_not_describe_the_series(tmp_path: Path) -> None:
    """Presentation states and reports with their images' series UID, as in careless exports."""
    axial(slices=5).write(tmp_path / "export", waves)
    report = ct_image(PIXELS, SOPInstanceUID="0.1", Modality="SR", SeriesDescription="Report")
    save(report, tmp_path / "export" / "report")
    scan(tmp_path / "export", tmp_path / "c.parquet")
    (series,) = read_catalog(tmp_path / "c.parquet")
    assert (series.instances[0].modality, series.modality, series.texts.series_description) == (
        "SR",
        "CT",
        "",
    )


def test_a_missing_sop_instance_uid_is_taken_from_the_file_meta(tmp_path: Path) -> None:
    data = ct_image(PIXELS, SOPInstanceUID="")
    stated = data.file_meta.MediaStorageSOPInstanceUID
    save(data, tmp_path / "export" / "a")
    scan(tmp_path / "export", tmp_path / "c.parquet")
    assert read_catalog(tmp_path / "c.parquet")[0].instances[0].sop_uid == stated


def test_a_ct_whose_modality_was_removed_is_known_by_its_class(tmp_path: Path) -> None:
    for modality in (None, ""):
        save(ct_image(PIXELS, Modality=modality), tmp_path / "export" / f"ct{modality}")
    save(ct_image(PIXELS, Modality=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), tmp_path / "export" / "mr")
    assert scan(tmp_path / "export", tmp_path / "c.parquet").modalities == {"CT": 2, "": 1}


def test_a_header_truncated_in_a_sequence_is_broken_not_unreadable(tmp_path: Path) -> None:
    """pydicom raises an OSError, as if the disk had failed."""
    whole = save(ct_image(PIXELS), tmp_path / "export" / "whole").read_bytes()
    at = whole.index(b"\x08\x00\x60\x00CS")
    sequence = b"\x08\x00\x40\x00SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end_of_item = b"\xfe\xff\x0d\xe0\0\0\0\0"
    (tmp_path / "export" / "cut").write_bytes(whole[:at] + sequence + end_of_item)
    assert scan(tmp_path / "export", tmp_path / "c.parquet").rejected == {Reason.BROKEN_HEADER: 1}


@pytest.mark.parametrize("length", ["undefined", "explicit"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_header_of_endless_items_is_broken(
    syntax: str, length: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 8 bytes becomes an object of more than a kilobyte."""
    monkeypatch.setattr(bounded, "MAX_READS", 2_000)
    monkeypatch.setattr(bounded, "MAX_ITEMS", 2_000)
    data = ct_image(np.zeros((8, 8), np.int16))
    data.ContrastBolusAgentSequence = [Dataset() for _ in range(10_000)]
    data["ContrastBolusAgentSequence"].is_undefined_length = length == "undefined"
    data.file_meta.TransferSyntaxUID = UID(syntax)
    save(data, tmp_path / "export" / "endless")
    save(ct_image(np.zeros((8, 8), np.int16)), tmp_path / "export" / "good")
    summary = scan(tmp_path / "export", tmp_path / "catalog.parquet")
    assert (summary.objects, summary.rejected) == (1, {Reason.BROKEN_HEADER: 1})


def test_a_length_beyond_the_file_allocates_no_memory(tmp_path: Path) -> None:
    whole = save(ct_image(PIXELS), tmp_path / "export" / "whole").read_bytes()
    at = whole.index(b"\x10\x00\x20\x00LO")
    damaged = b"\x10\x00\x20\x00UN\0\0" + (2**32 - 16).to_bytes(4, "little") + whole[at + 8 :]
    (tmp_path / "export" / "damaged").write_bytes(whole[:at] + damaged)
    tracemalloc.start()
    assert scan(tmp_path / "export", tmp_path / "c.parquet").rejected == {Reason.BROKEN_HEADER: 1}
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()


@pytest.mark.parametrize("length", [b"LO\x60\xea", b"??\x08\0"])
def test_an_element_longer_than_the_file_is_a_broken_header(length: bytes, tmp_path: Path) -> None:
    """pydicom skips it and finds no UIDs behind it, although the exporter wrote them."""
    whole = save(ct_image(PIXELS), tmp_path / "export" / "whole").read_bytes()
    at = whole.index(b"\x10\x00\x20\x00LO")
    (tmp_path / "export" / "damaged").write_bytes(
        whole[:at] + b"\x09\0\x10\0" + length + b"ACME 1.1" + whole[at:]
    )
    assert scan(tmp_path / "export", tmp_path / "c.parquet").rejected == {Reason.BROKEN_HEADER: 1}


def test_a_header_cut_before_its_uids_is_broken_wherever_it_is_cut(tmp_path: Path) -> None:
    """A copy was interrupted: the exporter wrote the UIDs."""
    whole = save(ct_image(PIXELS), tmp_path / "whole").read_bytes()
    for end in range(132, whole.index(b"\x20\x00\x0e\x00UI") + 12, 5):
        (tmp_path / "cut").write_bytes(whole[:end])
        with (tmp_path / "cut").open("rb") as file, pytest.raises(Rejection) as caught:
            read_header(file, file_source(tmp_path / "cut", (tmp_path / "cut").stat()))
        assert caught.value.reason is Reason.BROKEN_HEADER, end


def test_an_object_of_no_series_is_whole(tmp_path: Path) -> None:
    protocol = ct_image(PIXELS)
    protocol.SOPClassUID = protocol.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.38.1")
    for element in list(protocol)[1:]:
        if element.keyword not in ("SOPClassUID", "SOPInstanceUID"):
            del protocol[element.tag]
    protocol.HangingProtocolName = "heads"
    save(protocol, tmp_path / "export" / "protocol")
    save(ct_image(PIXELS), tmp_path / "export" / "image")
    assert scan(tmp_path / "export", tmp_path / "c.parquet").rejected == {Reason.MISSING_UID: 1}


def test_the_log_has_no_line_about_a_single_header(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """pydicom logs anomalies with the value or the file's name."""
    folder = tmp_path / "Doe^Jane"
    latin = ct_image(PIXELS, SpecificCharacterSet="ISO_IR 100", StudyDescription="J\xfcrgen")
    text = save(latin, folder / "a").read_bytes().replace(b"ISO_IR 100", b"DOE^JANE  ")
    (folder / "a").write_bytes(text)
    (folder / "b").write_bytes(text[: text.index(b"\x28\x00\x10\x00")])
    (folder / "c").write_bytes(text.replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00\1\1"))
    modality = b"\x08\x00\x60\x00CS\x02\x00CT", b"\x08\x00\x60\x00CS\x04\x00DOE "
    (folder / "e").write_bytes(text.replace(*modality))
    (folder / "d").write_bytes(text[: text.index(b"\x08\x00\x60\x00CS") + 7])
    summary = scan(folder, tmp_path / "c.parquet")
    assert summary.modalities["other"] == 1
    assert "doe" not in caplog.text.lower().replace(str(folder).lower(), "")
    assert not [record for record in caplog.records if record.name.startswith("pydicom")]


@pytest.mark.parametrize("encoding", ["implicit", "explicit"])
def test_files_without_the_dicm_prefix_are_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "export" / "bare"
    path.parent.mkdir()
    pydicom.dcmwrite(
        path, pydicom.Dataset(ct_image(PIXELS)), implicit_vr=encoding == "implicit", little_endian=True
    )
    assert path.read_bytes()[128:132] != b"DICM"
    scan(tmp_path / "export", tmp_path / "c.parquet")
    instance = read_catalog(tmp_path / "c.parquet")[0].instances[0]
    assert (
        instance.transfer_syntax
        == {"implicit": "1.2.840.10008.1.2", "explicit": "1.2.840.10008.1.2.1"}[encoding]
    )


def test_nothing_to_scan_is_reported_with_a_remedy(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.parquet"
    with pytest.raises(FmctError, match="no such folder; give the folder"):
        scan(tmp_path / "absent", catalog)
    (tmp_path / "export").mkdir()
    with pytest.raises(FmctError, match="is empty; give the folder"):
        scan(tmp_path / "export", catalog)
    (tmp_path / "export" / "report.pdf").write_bytes(b"%PDF")
    with pytest.raises(FmctError, match=r"no readable DICOM .found 1 other files.; give"):
        scan(tmp_path / "export", catalog)
    save(ct_image(PIXELS, Modality="MR"), tmp_path / "export" / "mr")
    with pytest.raises(FmctError, match=r"no CT among the DICOM files .found 1 of MR.; export CT"):
        scan(tmp_path / "export", catalog)
    assert not catalog.exists()
    with pytest.raises(FmctError, match="no such catalog; make it with `fmct scan"):
        read_catalog(catalog)


def test_a_dicomdir_is_ignored(tmp_path: Path) -> None:
    """Neither its content nor its path is used: objects are found by reading the tree."""
    save(ct_image(PIXELS), tmp_path / "export" / "IM1")
    shutil.copy(str(get_testdata_file("DICOMDIR")), tmp_path / "export" / "DICOMDIR")
    summary = scan(tmp_path / "export", tmp_path / "c.parquet")
    assert (summary.objects, summary.skipped) == (1, 1)


@pytest.mark.parametrize("packed", ["no", "zip", "tar"])
def test_headers_only_are_read(packed: str, tmp_path: Path) -> None:
    """By the kernel's count of the bytes that this process reads (rchar, proc(5))."""
    count, header = 20, 2 * HEADER_BUFFER  # a header, and an archive's entry of a member
    pixels = np.random.default_rng(0).integers(0, 4000, (512, 512)).astype(np.uint16)
    for number in range(count):
        save(ct_image(pixels, SOPInstanceUID=f"1.2.{number}"), tmp_path / "export" / str(number))
    if packed != "no":
        (tmp_path / "packed").mkdir()
        shutil.make_archive(str(tmp_path / "packed" / "a"), packed, tmp_path / "export")
    folder = tmp_path / ("export" if packed == "no" else "packed")
    scan(folder, tmp_path / "first.parquet")  # all imports and mappings are done by now

    def read_by(catalog: Path) -> int:
        before = bytes_read()
        scan(folder, catalog)
        return bytes_read() - before

    # The rest are the tables that the scan writes and reads again, without pixels.
    tables = 40 * (tmp_path / "first.parquet").stat().st_size
    assert read_by(tmp_path / "second.parquet") < count * header + tables < count * pixels.nbytes / 4


def bytes_read() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def test_a_scan_replaces_only_output_of_a_scan(tmp_path: Path) -> None:
    folder, catalog = export(tmp_path / "export"), tmp_path / "catalog.parquet"
    pq.write_table(pa.table({"study_uid": ["1"], "bleed": [1]}), tmp_path / "labels.parquet")
    for name in ("labels.csv", "empty.parquet", "other.rejected.parquet"):
        (tmp_path / name).write_text("mine" * (name != "empty.parquet"))
    scan(folder, catalog)
    rejected = "catalog.rejected.parquet"  # not a catalog
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for name in ("labels.parquet", "labels.csv", "empty.parquet", "other.parquet", rejected):
        with pytest.raises(FmctError, match=r"was not written by `fmct scan`"):
            scan(folder, tmp_path / name)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["catalog.parquet", "catalog.rejected.parquet"])
def test_a_folder_at_an_output_path_is_reported_before_the_scan(tmp_path: Path, name: str) -> None:
    folder = export(tmp_path / "export")
    (tmp_path / name).mkdir()
    with pytest.raises(FmctError, match=rf"{name}: is a folder; "):
        scan(folder, tmp_path / "catalog.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "export"]
