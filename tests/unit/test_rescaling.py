"""Stored bits become HU: bits of a pixel, rescaling, saturation, padding."""

from pathlib import Path

import numpy as np
import pytest
from decoded_slices import STORED, decoded, hu
from dicom_files import ct_image
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from preprocess.dicom import decode as decode_module
from preprocess.dicom.decode import AIR_HU, MIN_HU


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
