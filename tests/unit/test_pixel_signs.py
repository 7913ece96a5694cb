"""Signs and codes that contradict the header: pixels are read as their values prove, or are air."""

from pathlib import Path

import numpy as np
import pytest
from decoded_slices import decoded, hu
from dicom_files import ct_image
from jpeg_lossless_writer import written
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from preprocess.dicom.decode import AIR_HU, MIN_HU


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
