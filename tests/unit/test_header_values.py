"""The fast path from an element's bytes to its values equals pydicom."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import Acquisition, axial, ct_image, ramp, save, scanned
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from preprocess.dicom import header, values
from preprocess.dicom.decode import Decoder, Slice
from preprocess.dicom.sources import file_source
from preprocess.reasons import Reason, Rejection
from preprocess.select.rules import SelectConfig
from preprocess.select.series import select

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
"""Files of many vendors, syntaxes and character sets in pydicom's package."""


def rows(path: Path) -> list[dict[str, Any]] | Reason:
    with path.open("rb") as file:
        try:
            return header.read_header(file, file_source(path, path.stat()))
        except Rejection as rejection:
            return rejection.reason


def test_values_equal_pydicoms(
    shared_dicom: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [path for path in BUNDLED.rglob("*") if path.is_file()]
    for folder in ("dcm_qa_ct", "dicom2nifti"):
        files += [path for path in shared_dicom(folder).rglob("*") if path.is_file()]
    odd = ct_image(np.zeros((4, 4), np.int16), SpecificCharacterSet="ISO_IR 192", KVP=None)
    odd.SeriesDescription, odd.ProtocolName, odd.StudyDescription = "Schädel nativ", "a\\ b \\c ", ""
    odd.add_new("KVP", "LO", "none")
    files.append(save(odd, tmp_path / "odd"))
    short = {path: rows(path) for path in files}
    assert sum(isinstance(value, list) and len(value) > 0 for value in short.values()) > 150
    monkeypatch.setattr(values, "plain_values", lambda element, vr: None)
    for path in files:
        assert rows(path) == short[path], path.name


def stated(data: Dataset, keyword: str, vr: str, value: str | bytes) -> None:
    """Write an attribute with these bytes and this VR, which our libraries would not do."""
    raw = value.encode() if isinstance(value, str) else value
    raw += b" " * (len(raw) % 2)
    data[Tag(keyword)] = RawDataElement(Tag(keyword), vr, len(raw), raw, 0, False, True)


def read(path: Path) -> list[dict[str, Any]]:
    actual = rows(path)
    assert isinstance(actual, list)
    return actual


def row(data: pydicom.FileDataset, folder: Path) -> dict[str, Any]:
    (actual,) = read(save(data, folder / "file"))
    return actual


@pytest.mark.parametrize("vr", ["DS", "LO", "SH", "CS", "UT", "LT", "ST", "UC", "UN", "OB"])
def test_a_number_with_another_vr_is_read(vr: str, tmp_path: Path) -> None:
    """The bytes have the standard's VR, whatever VR is stated (pydicom issue 828)."""
    whole = row(ct_image(np.zeros((4, 6), np.int16), PixelSpacing=[0.5, 0.25]), tmp_path / "whole")
    data = ct_image(np.zeros((4, 6), np.int16))
    for keyword, value in (
        ("PixelSpacing", "0.5\\0.25"),
        ("ImagePositionPatient", "0\\0\\0"),
        ("ImageOrientationPatient", "1\\0\\0\\0\\1\\0"),
        ("KVP", "120"),
        ("ImageType", "ORIGINAL\\PRIMARY\\AXIAL"),
    ):
        stated(data, keyword, vr, value)
    actual = row(data, tmp_path / "other")
    same = ("pixel_spacing", "position", "orientation", "kvp", "image_type")
    assert {name: actual[name] for name in same} == {name: whole[name] for name in same}
    assert actual["pixel_spacing"] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("0,488", 0.488),
        ("-,5E1", -5.0),
        (" 1,25 ", 1.25),
        *((other, None) for other in ("1,2,3", "1.000,5", "1,000.5", "a,5", "1,", "1, 5")),
    ],
)
def test_a_decimal_comma_is_read_as_a_point(written: str, read: float | None, tmp_path: Path) -> None:
    data = ct_image(np.zeros((4, 6), np.int16))
    stated(data, "SliceThickness", "DS", written)
    stated(data, "PixelSpacing", "DS", f"{written}\\{written}")
    actual = row(data, tmp_path)
    assert actual["thickness"] == read
    assert actual["pixel_spacing"] == ([] if read is None else [read, read])


def test_decoding_attributes_with_another_vr_are_read(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=np.int16).reshape(4, 6)
    data = ct_image(stored)
    for keyword, vr, value in (
        ("RescaleSlope", "UT", "0,5"),
        ("RescaleIntercept", "LO", "-1000"),
        ("RescaleType", "UN", "HU"),
        ("Rows", "IS", "4"),
        ("Columns", "UN", b"\6\0"),
        ("BitsStored", "DS", "16"),
        ("HighBit", "OB", b"\x0f\0"),
    ):
        stated(data, keyword, vr, value)
    path = save(data, tmp_path / "export" / "file")
    assert np.array_equal(decoded(path).hu, np.rint(stored * 0.5 - 1000))


def test_functional_groups_with_another_vr_are_read(tmp_path: Path) -> None:
    """As written by an anonymiser that does not know the copied attributes."""
    whole, other = tmp_path / "whole" / "file", tmp_path / "other" / "file"
    slices = Acquisition(axial(slices=3).positions, matrix=(4, 6))
    data = slices.write_frames(whole, ramp, enhanced=True)
    for group in (*data.SharedFunctionalGroupsSequence, *data.PerFrameFunctionalGroupsSequence):
        for macro in (sequence.value[0] for sequence in group):
            for element in [one for one in macro if one.VR in ("DS", "IS")]:
                text = str(element.value) if element.VM < 2 else "\\".join(map(str, element.value))
                stated(macro, element.keyword, "LT", text.replace(".", ","))
    save(data, other)
    place = ("path", "size", "mtime_ns")
    actual, expected = (
        [{k: v for k, v in r.items() if k not in place} for r in read(p)] for p in (other, whole)
    )
    assert actual == expected
    assert np.array_equal(decoded(other, 2).hu, decoded(whole, 2).hu)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(
    ("keyword", "tag"),
    [
        ("ImagePositionPatient", "(0020,0032)"),
        ("ImageOrientationPatient", "(0020,0037)"),
        ("PixelSpacing", "(0028,0030)"),
    ],
)
@pytest.mark.parametrize(
    ("value", "detail"),
    [(None, "missing"), (b"", "missing"), (b"1\\x", "malformed"), (b"\xff\xfe", "malformed")],
)
def test_invalid_position_attributes_are_named(
    value: bytes | None, detail: str, keyword: str, tag: str, frames: int, tmp_path: Path
) -> None:
    images = []
    for k in range(1 if frames > 1 else 2):
        place = {keyword: None} if value is None else {}
        data = ct_image(np.zeros((4 * frames, 6), np.int16), Rows=4, **place)
        if frames > 1:
            data.NumberOfFrames, data.SpacingBetweenSlices = frames, 5
        if value is not None:
            stated(data, keyword, "DS", value)
        images.append(save(data, tmp_path / "e" / str(k)))
    (series,) = scanned(tmp_path / "e")
    with pytest.raises(Rejection) as caught:
        select(series, SelectConfig())
    assert caught.value.reason == Reason.MISSING_GEOMETRY
    named = tag if frames == 1 or keyword != "ImageOrientationPatient" else "(0020,00"
    assert named in caught.value.detail
    assert detail in caught.value.detail or frames > 1


@pytest.mark.parametrize(
    ("value", "named"),
    [(None, "0028,1052) is missing"), (b"", "0028,1052) is missing"), (b"-10 24", "0028,1052) is malformed")],
)
def test_an_invalid_rescale_is_named(value: bytes | None, named: str, tmp_path: Path) -> None:
    data = ct_image(np.zeros((4, 6), np.int16), RescaleIntercept=None)
    if value is not None:
        stated(data, "RescaleIntercept", "DS", value)
    with pytest.raises(Rejection) as caught:
        decoded(save(data, tmp_path / "e" / "file"))
    assert caught.value.reason == Reason.NOT_HOUNSFIELD
    assert named in caught.value.detail


@pytest.mark.parametrize(
    ("keyword", "tag"), [("StudyInstanceUID", "(0020,000D)"), ("SeriesInstanceUID", "(0020,000E)")]
)
def test_an_absent_uid_is_named(keyword: str, tag: str, tmp_path: Path) -> None:
    path = save(ct_image(np.zeros((4, 6), np.int16), **{keyword: None}), tmp_path / "file")
    with path.open("rb") as file, pytest.raises(Rejection) as caught:
        header.read_header(file, file_source(path, path.stat()))
    assert caught.value.reason == Reason.MISSING_UID
    assert caught.value.detail.count("UID (") == 1
    assert tag in caught.value.detail


@pytest.mark.parametrize("keyword", ["Rows", "BitsStored", "PixelRepresentation"])
def test_missing_decoding_attributes_are_named(keyword: str, tmp_path: Path) -> None:
    stored = np.zeros((4, 6), np.int16)
    for folder, value in (("malformed", b"ABCD"), ("absent", None)):
        data = ct_image(stored, **{keyword: None} if value is None else {})
        if value:
            stated(data, keyword, "LO", value)
        with pytest.raises(Rejection, match=keyword) as caught:
            decoded(save(data, tmp_path / folder / "file"))
        assert caught.value.reason == Reason.UNDECODABLE_PIXEL_DATA


@pytest.mark.parametrize(
    "claimed",
    [
        b"\t\0\x0c\0\r\0\x0b\0\t ",  # pydicom issue 1166
        b"ISO_IR\0 100",
        *(b"ISO_IR 10X", b"", b"\x1b$B", b"\xff\xfe", b"\\\\", b"ISO_IR 100\\\0", b" ISO_IR 100"),
        *(b"hex", b"undefined", b"idna", b"zlib", b"utf_16", b"ISO 2022 IR 87\\\x07"),
    ],
)
@pytest.mark.parametrize("kind", ["explicit", "implicit", "big", "nested"])
def test_no_file_is_lost_because_of_its_character_set(claimed: bytes, kind: str, tmp_path: Path) -> None:
    """ASCII characters of a text are read, whatever its other bytes are."""
    names, description = ["ISO 2022 IR 100", "ISO 2022 IR 101"], "Schädel mit KM"
    data = ct_image(np.zeros((4, 6), np.int16), SpecificCharacterSet=names, SeriesDescription=description)
    if kind == "nested":
        item = Dataset()
        item.SpecificCharacterSet, item.CodeMeaning = names, description
        data.AnatomicRegionSequence = [item]
        data["AnatomicRegionSequence"].is_undefined_length = True
    if kind in ("implicit", "big"):
        implicit = kind == "implicit"
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRBigEndian
        data.set_original_encoding(implicit, implicit)
    path = save(data, tmp_path / "file")
    whole, stated = path.read_bytes(), "\\".join(names).encode() + b" "
    assert whole.count(stated) == 1 + (kind == "nested")
    path.write_bytes(whole.replace(stated, claimed.ljust(len(stated))))
    (actual,) = read(path)
    texts = [actual["series_description"]] + [actual["body_part"]] * (kind == "nested")
    assert all(text.startswith("Sch") and text.endswith("del mit KM") for text in texts), texts
    assert actual["pixel_spacing"] == [1.0, 1.0]


def test_an_empty_character_set_counts_as_absent(tmp_path: Path) -> None:
    data = ct_image(np.zeros((4, 6), np.int16), SpecificCharacterSet="")
    stated(data, "SeriesDescription", "LO", "Schädel".encode("latin-1"))
    assert row(data, tmp_path)["series_description"] == "Schädel"


def test_codes_supplement_missing_attributes(tmp_path: Path) -> None:
    region, agent = Dataset(), Dataset()
    region.CodeMeaning, agent.CodeMeaning = "Head", "Iohexol"
    codes = {"AnatomicRegionSequence": [region], "ContrastBolusAgentSequence": [agent]}
    actual = row(ct_image(np.zeros((4, 6), np.int16), **codes), tmp_path / "codes")
    assert (actual["body_part"], actual["contrast"]) == ("Head", "Iohexol")
    stated = {"BodyPartExamined": "SKULL", "ContrastBolusAgent": "Omnipaque"}
    actual = row(ct_image(np.zeros((4, 6), np.int16), **codes, **stated), tmp_path / "both")
    assert (actual["body_part"], actual["contrast"]) == ("SKULL", "Omnipaque")


@pytest.mark.parametrize("vr", ["LO", "OB", "UN", "UT"])
def test_a_text_with_another_vr_is_read(vr: str, tmp_path: Path) -> None:
    data = ct_image(np.zeros((4, 6), np.int16))
    stated(data, "SeriesDescription", vr, "Schädel mit KM".encode("latin-1"))
    assert row(data, tmp_path)["series_description"] == "Schädel mit KM"


def decoded(path: Path, frame: int = 0) -> Slice:
    (series,) = scanned(path.parent)
    with Decoder() as decoder:
        return decoder.decode(series.instances[frame])
