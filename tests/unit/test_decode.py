import struct
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pydicom
import pytest
from dicom_files import ct_image, save, scanned
from jpeg_lossless_writer import written
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from preprocess.dicom import decode as decode_module
from preprocess.dicom.catalog import Instance
from preprocess.dicom.decode import AIR_HU, MIN_HU, Decoder, Slice
from preprocess.dicom.image_file import ImageFile
from preprocess.reasons import Reason, Rejection
from shards.errors import FmctError

STORED = np.random.default_rng(0).integers(0, 3000, (64, 96)).astype(np.uint16)


def decode(instance: Instance) -> Slice:
    with Decoder() as decoder:
        return decoder.decode(instance)


def decoded(data: FileDataset, folder: Path) -> Slice:
    save(data, folder / "file")
    return decode(scanned(folder)[0].instances[0])


def hu(tmp_path: Path, stored: np.ndarray = STORED, **attributes: Any) -> np.ndarray:
    return decoded(ct_image(stored, **attributes), tmp_path / "export").hu


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
    ],
)
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_every_transfer_syntax_gives_the_same_slice(
    syntax: str, kind: type[np.integer], tmp_path: Path
) -> None:
    stored = STORED.astype(kind) - (1000 if kind is np.int16 else 0)
    plain = decoded(ct_image(stored, RescaleIntercept=-1024), tmp_path / "plain")
    data = ct_image(stored, RescaleIntercept=-1024)
    if syntax in (RLELossless, JPEG2000Lossless):
        data.compress(syntax, generate_instance_uid=False)
    else:
        data.file_meta.TransferSyntaxUID = UID(syntax)
        if syntax == ExplicitVRBigEndian:
            data.set_original_encoding(is_implicit_vr=False, is_little_endian=False)
            data.PixelData = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
    other = decoded(data, tmp_path / "other")
    assert np.array_equal(plain.hu, other.hu)
    assert plain.digest == other.digest
    assert plain.hu.dtype == np.int16


CODESTREAMS = Path(__file__).parents[1] / "data" / "codestreams"


def pattern() -> np.ndarray:
    """The image in the codestreams (see their README)."""
    i, j = np.indices((48, 64))
    return ((20 * i + 13 * j + (i * j) % 97) % 4096).astype(np.uint16)


@pytest.mark.parametrize(
    ("name", "syntax", "tolerance"),
    [
        ("jpeg-lossless-predictor-1.jpg", JPEGLosslessSV1, 0),
        ("jpeg-lossless-predictor-4.jpg", JPEGLossless, 0),
        ("jpeg-lossless-predictor-6.jpg", JPEGLossless, 0),
        ("jpeg-ls.jls", JPEGLSLossless, 0),
        ("jpeg-ls-near-2.jls", JPEGLSNearLossless, 2),
        ("htj2k.jph", HTJ2KLossless, 0),
        ("htj2k.jph", HTJ2K, 0),
        ("jpeg2000-lossy.j2k", JPEG2000, 100),
        ("jpeg-extended-12-bit.jpg", JPEGExtended12Bit, 100),
    ],
)
@pytest.mark.parametrize("fragments", [1, 3])
def test_other_encoders_codestreams_are_decoded(
    name: str, syntax: str, tolerance: int, fragments: int, tmp_path: Path
) -> None:
    """Encoded outside of pydicom and its plugins, whole or in several fragments."""
    data = ct_image(pattern(), BitsStored=12, HighBit=11, RescaleIntercept=-1024)
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.PixelData = encapsulate([(CODESTREAMS / name).read_bytes()], fragments)
    data["PixelData"].is_undefined_length = True
    hu = decoded(data, tmp_path / "export").hu
    assert np.abs(hu - (pattern().astype(int) - 1024)).max() <= tolerance


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("jpeg2000-lossy.j2k", JPEG2000),
        ("jpeg-ls.jls", JPEGLSLossless),
        ("jpeg-lossless-predictor-1.jpg", JPEGLossless),
    ],
)
def test_a_codestream_of_another_size_is_not_decoded(name: str, syntax: str, tmp_path: Path) -> None:
    """A decoder would allocate gigabytes for one damaged byte."""
    whole = (CODESTREAMS / name).read_bytes()
    size = struct.pack(">LL", 64, 48) if syntax == JPEG2000 else struct.pack(">HH", 48, 64)
    assert size in whole
    data = ct_image(pattern(), BitsStored=12, HighBit=11)
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.PixelData = encapsulate([whole.replace(size, size.replace(b"\0@", b"\xff@"))])
    data["PixelData"].is_undefined_length = True
    with pytest.raises(Rejection, match="matrix differs from the header's"):
        decoded(data, tmp_path / "export")


def test_baseline_jpeg_of_eight_bits_is_decoded(tmp_path: Path) -> None:
    expected = (pattern() >> 4).astype(np.uint8)
    data = ct_image(expected, RescaleSlope=16, RescaleIntercept=-1000)
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.PixelData = encapsulate([(CODESTREAMS / "jpeg-baseline.jpg").read_bytes()])
    data["PixelData"].is_undefined_length = True
    hu = decoded(data, tmp_path / "export").hu
    assert np.abs((hu + 1000) / 16 - expected).max() <= 10


def test_real_compressed_files_decode_to_the_same_slices(
    shared_dicom: Callable[[str], Path], tmp_path: Path
) -> None:
    """RLE, JPEG lossless, JPEG-LS and JPEG 2000 encodings of one series by another writer."""
    folder = shared_dicom("dicom2nifti/generic")
    digests = []
    for encoding in sorted(folder.glob("compressed*")):
        for path in encoding.rglob("*"):
            if path.is_file():
                data = pydicom.dcmread(path)
                data.Modality, data.RescaleSlope, data.RescaleIntercept = "CT", 1, 0
                save(data, tmp_path / encoding.name / path.name)
        instances = scanned(tmp_path / encoding.name)[0].instances
        digests.append({i.position: decode(i).digest for i in instances})
    assert len(digests) == 5
    assert len({i for d in digests for i in d.values()}) == len(digests[0])
    assert all(d == digests[0] for d in digests)


def test_each_slice_has_its_own_rescaling(tmp_path: Path) -> None:
    assert np.array_equal(hu(tmp_path / "a", RescaleIntercept=-500), STORED.astype(int) - 500)
    scaled = hu(tmp_path / "b", RescaleSlope=0.5, RescaleIntercept=-99.75)
    assert np.array_equal(scaled, np.rint(STORED * 0.5 - 99.75))
    assert hu(tmp_path / "c", np.full((4, 4), 60000, np.uint16)).max() == 32767


def test_bits_above_bits_stored_are_ignored(tmp_path: Path) -> None:
    twelve = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": -1000}
    overlay = (STORED & 0xFFF) | 0x8000
    assert np.array_equal(hu(tmp_path / "a", overlay, **twelve), (STORED & 0xFFF).astype(int) - 1000)
    negative = np.full((4, 4), 0x0FFF, np.uint16).view(np.int16)
    assert np.all(hu(tmp_path / "b", negative, **{**twelve, "RescaleIntercept": 0}) == -1)


def head_and_air() -> np.ndarray:
    """HU of a bright disc in air, some metal, and a scanner's code outside the circle."""
    rows, columns = np.indices((64, 96)) - np.array([32, 48])[:, None, None]
    distance = np.hypot(rows, columns)
    hu = np.where(distance < 26, 40, -1000) + np.random.default_rng(1).integers(-30, 30, (64, 96))
    hu[30:32, 40:44] = 2047
    return np.where(distance > 46, -2000, hu).astype(np.int16)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize(("bits", "intercept"), [(12, 0), (13, 1), (16, 0)])
def test_twos_complement_under_an_unsigned_header_is_read(
    bits: int, intercept: int, syntax: str, tmp_path: Path
) -> None:
    """As in public slices of the RSNA 2019 challenge, where air is 3096."""
    hu = head_and_air()
    header = {"BitsStored": bits, "HighBit": bits - 1, "RescaleIntercept": intercept}
    wrapped = (hu.astype(int) & (2**bits - 1)).astype(np.uint16)
    data, honest = ct_image(wrapped, **header), ct_image(hu, **header)
    if syntax != ExplicitVRLittleEndian:
        data.compress(syntax, generate_instance_uid=False)
    actual, expected = decoded(data, tmp_path / "wrapped"), decoded(honest, tmp_path / "honest")
    assert np.array_equal(actual.hu, expected.hu)
    assert actual.digest == expected.digest


def test_unsigned_values_are_not_read_as_twos_complement(tmp_path: Path) -> None:
    """Not for metal, for a missing intercept, or if the header's scale has a value for air."""
    twelve = {"BitsStored": 12, "HighBit": 11}
    shifted = (head_and_air().astype(int) + 1024).clip(0, 4095).astype(np.uint16)
    metal = shifted.copy()
    metal[:3] = 3200  # 4.7 % of the pixels
    for folder, stored in (("forgotten", shifted), ("metal", metal)):
        assert np.array_equal(hu(tmp_path / folder, stored, **twelve), stored)
    offset = hu(tmp_path / "offset", np.full((64, 96), 4095, np.uint16), RescaleIntercept=-1024, **twelve)
    assert (offset == 4095 - 1024).all()


@pytest.mark.parametrize(("code", "kind"), [(-2000, np.uint16), (-3024, np.int16), (-32768, np.int16)])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_a_padding_value_beyond_bits_stored_is_air(
    syntax: str, code: int, kind: type[np.integer], tmp_path: Path
) -> None:
    """-2000 in 16 bits, 63536, would be 1072 HU by its lower twelve."""
    offset = 1024 if kind is np.uint16 else 0
    truth = head_and_air()
    values = (truth.astype(int) + offset).clip(offset - 1024, 2047 + offset)
    stored = np.where(truth == -2000, code, values).astype(np.int16).view(kind)
    header = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": -offset}
    data = ct_image(stored, **header)
    if syntax == RLELossless:
        data.BitsStored, data.HighBit = 16, 15  # the encoder refuses the quirk
        data.compress(syntax, generate_instance_uid=False)
        data.BitsStored, data.HighBit = 12, 11
    elif syntax == ExplicitVRBigEndian:
        data.file_meta.TransferSyntaxUID = UID(syntax)
        data.set_original_encoding(is_implicit_vr=False, is_little_endian=False)
        data.PixelData = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
    assert np.array_equal(decoded(data, tmp_path / "x").hu, np.where(truth == -2000, AIR_HU, values - offset))


@pytest.mark.parametrize(
    "syntax",
    [
        *(ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless),
        *(JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless),
    ],
)
def test_unsigned_values_under_a_signed_header_keep_their_bone(syntax: str, tmp_path: Path) -> None:
    """Of 12 bits, air at 24: as signed numbers, bone above 1023 HU would be below every measured value."""
    truth = head_and_air()
    truth[20:26, 30:40] = np.arange(900, 1800, 15).reshape(6, 10)
    values = (truth.astype(int) + 1024).clip(0, 4095).astype(np.uint16)
    header = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": -1024}
    honest, wrong = ct_image(values, **header), ct_image(values, **header)
    if syntax == ExplicitVRBigEndian:
        wrong.file_meta.TransferSyntaxUID = UID(syntax)
        wrong.set_original_encoding(is_implicit_vr=False, is_little_endian=False)
        wrong.PixelData = values.astype(">u2").tobytes()
    elif syntax == JPEGLosslessSV1:
        wrong.file_meta.TransferSyntaxUID = UID(syntax)
        wrong.PixelData = encapsulate([written(values, 12)])
    elif syntax != ExplicitVRLittleEndian:
        wrong.compress(syntax, generate_instance_uid=False)
    wrong.PixelRepresentation = 1
    found, expected = decoded(wrong, tmp_path / "wrong"), decoded(honest, tmp_path / "honest")
    assert np.array_equal(found.hu, expected.hu)
    assert found.hu[20:26, 30:40].max() > 1700
    assert found.digest == expected.digest
    if syntax in (JPEGLSLossless, JPEG2000Lossless):  # the codestream of 12 bits, declared as 16
        wrong.BitsStored, wrong.HighBit = 16, 15
        assert np.array_equal(decoded(wrong, tmp_path / "declared").hu, expected.hu)
    if syntax == ExplicitVRLittleEndian:  # with a code beyond the bits as well
        coded = np.where(truth == -2000, -2000, values.astype(int)).astype(np.int16)
        both = decoded(ct_image(coded, **header), tmp_path / "both").hu
        assert np.array_equal(both, np.where(truth == -2000, AIR_HU, expected.hu))


def test_signed_values_below_the_scale_are_no_bone(tmp_path: Path) -> None:
    """Codes for outside the circle, noise below air, and values whose sign fills their pixels."""
    header = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": -1024}
    signed = np.random.default_rng(3).integers(-200, 1200, (64, 96)).astype(np.int16)
    signed[:4], signed[-4:] = -2048, -1000
    clear = (signed.view(np.uint16) & 0xFFF).view(np.int16)
    expected = np.where(signed < 0, AIR_HU, signed.astype(int) - 1024)
    assert np.array_equal(hu(tmp_path / "clear", clear, **header), expected)
    streaks = signed.copy()
    streaks[10:20, :50] = np.arange(-1000, -500).reshape(10, 50)
    filled = hu(tmp_path / "filled", streaks, **header)
    assert np.array_equal(filled, np.where(streaks < 0, AIR_HU, streaks.astype(int) - 1024))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize(("intercept", "code"), [(-1024, -2000), (-1000, -1500), (0, -3024)])
def test_a_negative_code_in_unsigned_pixels_is_air(
    syntax: str, intercept: int, code: int, tmp_path: Path
) -> None:
    """-2000 as 63536 of 16 bits would be 62512 HU, which no scanner's scale has; so would noise below 0."""
    truth = head_and_air()
    values = truth.astype(int) - intercept
    values[:3, 40:50] = -7
    values[truth == -2000] = code
    if intercept == 0:  # all of it inside the head, so that no air proves the sign
        values[truth < -500] = 30
        values[truth == -2000] = code
    data = ct_image(values.astype(np.int16).view(np.uint16), RescaleIntercept=intercept)
    if syntax != ExplicitVRLittleEndian:
        data.compress(syntax, generate_instance_uid=False)
    found = decoded(data, tmp_path / "x").hu
    expected = values + intercept
    assert np.array_equal(found, np.where(expected < MIN_HU, AIR_HU, expected))


@pytest.mark.parametrize(("intercept", "expected"), [(0, 32767), (-1024, AIR_HU), (-2000, AIR_HU)])
def test_the_highest_unsigned_number_alone_is_metal_or_air(
    intercept: int, expected: int, tmp_path: Path
) -> None:
    """-1 would be tissue at intercept 0; below it, no scale reaches 63,535 HU, and -1 is noise in air."""
    stored = (head_and_air().astype(int) - intercept).clip(0).astype(np.uint16)
    stored[stored < 5] = 40 - intercept
    stored[30:32, 40:44] = 65535
    found = hu(tmp_path / "a", stored, RescaleIntercept=intercept)
    assert (found[30:32, 40:44] == expected).all()


def test_a_fine_scale_keeps_its_highest_number(tmp_path: Path) -> None:
    fine = (head_and_air().astype(int) + 3024).astype(float) / 0.05
    narrow = hu(
        tmp_path / "b", fine.clip(0, 65535).astype(np.uint16), RescaleSlope=0.05, RescaleIntercept=-3024
    )
    assert narrow.max() == np.rint(65535 * 0.05 - 3024)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_pixels_that_start_above_bit_0_are_shifted(
    kind: type[np.integer], syntax: str, tmp_path: Path
) -> None:
    """Bits Stored 12, High Bit 15: the value is in the upper bits (PS3.5 section 8.1.1)."""
    values = ((STORED & 0xFFF).astype(int) - (2048 if kind is np.int16 else 0)).astype(kind)
    raised = (values << 4) | kind(0xB)  # the lower bits are not part of the value
    data = ct_image(raised, BitsStored=12, HighBit=15)
    if syntax == RLELossless:
        data.BitsStored = 16  # the encoder refuses the quirk
        data.compress(syntax, generate_instance_uid=False)
        data.BitsStored = 12
    actual = decoded(data, tmp_path / "export").hu
    assert np.array_equal(actual, np.where(values < MIN_HU, AIR_HU, values.astype(int)))


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint32, np.int32])
def test_other_widths_of_pixels_are_read(kind: type[np.integer], tmp_path: Path) -> None:
    stored = (STORED % 128).astype(kind)
    assert np.array_equal(hu(tmp_path, stored, RescaleIntercept=-5), stored.astype(int) - 5)


def test_values_beyond_16_bits_saturate(tmp_path: Path) -> None:
    """Metal on an extended scale; the sign does not change."""
    stored = np.array([[32767, 32768, 65535], [0, 1024, 8191]], np.uint16)
    assert np.array_equal(hu(tmp_path / "a", stored), [[32767, 32767, 32767], [0, 1024, 8191]])
    scaled = hu(tmp_path / "b", stored, RescaleSlope=10, RescaleIntercept=-10240)
    assert np.array_equal(scaled, [[32767, 32767, 32767], [AIR_HU, 0, 32767]])


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1), (3, 5)])
def test_odd_matrices_are_read(shape: tuple[int, int], tmp_path: Path) -> None:
    stored = STORED.ravel()[: shape[0] * shape[1]].reshape(shape)
    assert np.array_equal(hu(tmp_path, stored), stored)


def test_padding_and_outside_the_circle_become_air(tmp_path: Path) -> None:
    stored = np.array([[-2000, -1025, MIN_HU, -1000], [-990, -3, 0, 40]], np.int16)
    expected = np.array([[AIR_HU, AIR_HU, MIN_HU, -1000], [-990, -3, 0, 40]])
    assert np.array_equal(hu(tmp_path / "a", stored), expected)
    # A padding range reaches to its limit.
    assert np.array_equal(hu(tmp_path / "b", stored, PixelPaddingValue=-2000), expected)
    ranged = hu(tmp_path / "c", stored, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-995)
    assert np.array_equal(ranged[0], [AIR_HU] * 4)
    # A padding value in the range of tissue would remove parts of the brain.
    assert np.array_equal(hu(tmp_path / "d", stored, PixelPaddingValue=0), expected)
    unsigned = hu(tmp_path / "e", STORED, PixelPaddingValue=5, RescaleIntercept=-1020)
    assert np.all(unsigned[STORED == 5] == AIR_HU)


def test_padding_above_every_scale_is_air_and_saturated_metal_is_not(tmp_path: Path) -> None:
    stored = np.array([[0, 1024, 4095], [4096, 60000, 65535]], np.uint16)

    def padded(folder: str, least: int, limit: int) -> np.ndarray:
        padding = {"PixelPaddingValue": least, "PixelPaddingRangeLimit": limit}
        return hu(tmp_path / folder, stored, RescaleIntercept=-1024, **padding)

    whole = [[-1024, 0, 3071], [3072, 32767, 32767]]
    assert np.array_equal(padded("a", 65535, 65535), [whole[0], [3072, 32767, AIR_HU]])
    assert np.array_equal(padded("b", 65535, 4096), [whole[0], [AIR_HU] * 3])
    for folder, least, limit in (("c", 4095, 4095), ("d", 4095, 65535), ("e", 524, 524), ("f", 0, 65535)):
        assert np.array_equal(padded(folder, least, limit), whole)


def test_monochrome1_changes_the_display_not_the_units(tmp_path: Path) -> None:
    assert np.array_equal(hu(tmp_path, PhotometricInterpretation="MONOCHROME1"), STORED)


@pytest.mark.parametrize(
    ("reason", "attributes"),
    [
        (Reason.NOT_HOUNSFIELD, {"RescaleIntercept": None}),
        (Reason.NOT_HOUNSFIELD, {"RescaleSlope": 0}),
        (Reason.NOT_HOUNSFIELD, {"RescaleType": "Z_EFF"}),
        (Reason.NOT_GRAYSCALE, {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}),
        (Reason.NOT_GRAYSCALE, {"PhotometricInterpretation": "PALETTE COLOR"}),
        (Reason.BURNED_IN_TEXT, {"BurnedInAnnotation": "YES"}),
        (Reason.TRUNCATED_PIXEL_DATA, {"Rows": 128}),
        (Reason.UNDECODABLE_PIXEL_DATA, {"BitsAllocated": 13}),
        (Reason.UNDECODABLE_PIXEL_DATA, {"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11}),
        # Half an image, or half of each value.
        (Reason.UNDECODABLE_PIXEL_DATA, {"Rows": 32}),
        (Reason.UNDECODABLE_PIXEL_DATA, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}),
    ],
)
def test_unusable_pixels_have_a_reason(reason: Reason, attributes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Rejection) as caught:
        hu(tmp_path, **attributes)
    assert caught.value.reason == reason


def test_a_fragment_under_an_uncompressed_syntax_is_not_read_as_pixels(tmp_path: Path) -> None:
    """Eight bytes of an item header would shift every pixel by four."""
    path = save(ct_image(STORED), tmp_path / "export" / "file")
    head, pixels = path.read_bytes()[: -STORED.nbytes - 4], STORED.tobytes()
    item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(pixels)) + pixels
    path.write_bytes(head + b"\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0")
    with pytest.raises(Rejection, match="undecodable_pixel_data: fragments under an uncompressed"):
        decode(scanned(path.parent)[0].instances[0])


def test_a_few_bytes_after_the_pixels_are_padding(tmp_path: Path) -> None:
    data = ct_image(STORED)
    data.PixelData += bytes(200)
    assert np.array_equal(decoded(data, tmp_path / "export").hu, STORED)


@pytest.mark.parametrize(
    ("syntax", "named"),
    [("1.2.840.10008.1.2.4.110", "transfer syntax 1.2.840.10008.1.2.4.110"), ("Doe^Jane", "outside DICOM")],
)
def test_an_unknown_transfer_syntax_is_named_only_if_its_uid_is_dicoms(
    syntax: str, named: str, tmp_path: Path
) -> None:
    path = save(ct_image(STORED), tmp_path / "export" / "file")
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    stated = b"\x10\x00UI" + struct.pack("<H", len(value)) + value
    path.write_bytes(path.read_bytes().replace(b"\x10\x00UI\x14\x001.2.840.10008.1.2.1\0", stated))
    with pytest.raises(Rejection, match=named) as caught:
        decode(scanned(path.parent)[0].instances[0])
    assert caught.value.reason == Reason.UNDECODABLE_PIXEL_DATA
    assert "Doe" not in str(caught.value)


def test_ges_private_syntax_has_big_endian_pixels(tmp_path: Path) -> None:
    data = ct_image(STORED)
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data.PixelData = STORED.astype(">u2").tobytes()
    path = save(data, tmp_path / "export" / "file")
    stated = b"\x10\0UI\x12\x001.2.840.10008.1.2\0", b"\x10\0UI\x12\x001.2.840.113619.5.2"
    assert stated[0] in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(*stated))
    assert np.array_equal(decode(scanned(path.parent)[0].instances[0]).hu, STORED)


@pytest.mark.parametrize("syntax", ["native", RLELossless, JPEG2000Lossless])
def test_truncated_files_have_a_reason(syntax: str, tmp_path: Path) -> None:
    data = ct_image(STORED)
    if syntax != "native":
        data.compress(syntax)
    whole = save(data, tmp_path / "whole").read_bytes()
    pixels = len(STORED.tobytes()) if syntax == "native" else len(data.PixelData)
    for lost in (pixels // 3, pixels - 20, pixels + 8):
        path = tmp_path / f"export{lost}" / "file"
        path.parent.mkdir()
        path.write_bytes(whole[:-lost])
        with pytest.raises(Rejection) as caught, warnings.catch_warnings():
            decode(scanned(path.parent)[0].instances[0])
        assert caught.value.reason in (Reason.TRUNCATED_PIXEL_DATA, Reason.UNDECODABLE_PIXEL_DATA)


def test_a_length_beyond_the_file_allocates_no_memory(tmp_path: Path) -> None:
    """An element that decoding reads and the scan does not: the Extended Offset Table (7FE0,0001)."""
    path = save(ct_image(STORED), tmp_path / "export" / "file")
    head, pixels = path.read_bytes().split(b"\xe0\x7f\x10\x00OW")
    table = b"\xe0\x7f\x01\x00OV\0\0" + struct.pack("<L", 2**32 - 16)
    path.write_bytes(head + table + b"\xe0\x7f\x10\x00OW" + pixels)
    instance = scanned(path.parent)[0].instances[0]
    tracemalloc.start()
    with pytest.raises(Rejection, match="truncated_pixel_data"):
        decode(instance)
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["__init__", "attributes", "stored"])
def test_out_of_memory_is_not_file_damage(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(ct_image(STORED), tmp_path / "export" / "file")
    instance = scanned(tmp_path / "export")[0].instances[0]
    with Decoder() as decoder:
        with monkeypatch.context() as patch:
            patch.setattr(ImageFile, name, Mock(side_effect=MemoryError))
            with pytest.raises(MemoryError):
                decoder.decode(instance)
        assert np.array_equal(decoder.decode(instance).hu, STORED)


def test_a_missing_file_is_an_error_for_the_user(tmp_path: Path) -> None:
    path = save(ct_image(STORED), tmp_path / "export" / "Doe^Jane")
    instance = scanned(tmp_path / "export")[0].instances[0]
    path.unlink()
    with pytest.raises(FmctError, match="mount the export or scan again") as caught:
        decode(instance)
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_integer_rescaling_equals_float_rescaling(kind: type[np.uint16] | type[np.int16]) -> None:
    """Every 16-bit value, in integer and in floating-point arithmetic."""
    every = np.arange(2**16, dtype=np.uint16).view(kind).reshape(256, 256)
    for intercept in (-1024.0, 0.0, -32768.0, 65535.0):
        for padding in (None, (-2000, -1900), (63536, 65535), (5000, 5000)):
            bounds = padding or (1, 0)
            expected, place = np.empty((2, *every.shape), np.int16)
            decode_module.rescaled(every, 1.0, intercept, *bounds, expected)
            assert np.array_equal(decode_module.to_hu(every, 1.0, intercept, padding), expected)
            assert decode_module.to_hu(every, 1.0, intercept, padding, place) is place
            assert np.array_equal(place, expected)
