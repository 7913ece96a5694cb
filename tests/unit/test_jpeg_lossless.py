"""Our JPEG Lossless decoder: encoded images, two other decoders, and damage."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_files import ct_image, save
from jpeg_lossless_writer import written
from libjpeg.utils import decode
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLossless

from preprocess.dicom.codestream import read_whole
from preprocess.reasons import Rejection

SHAPE = (23, 31)


def image(precision: int) -> np.ndarray:
    """Noise and flat parts that use all bits, and a step of half the range (a difference of 16 bits)."""
    random = np.random.default_rng(precision)
    pixels = random.normal(0, 2**precision / 6, SHAPE).cumsum(1).astype(np.int64) % 2**precision
    pixels[5:9] = 0
    pixels[7, ::2] = 2 ** (precision - 1)
    return np.asarray(pixels, np.uint16)


@pytest.mark.parametrize("precision", [2, 8, 9, 12, 16])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_every_predictor_precision_and_interval(precision: int, predictor: int) -> None:
    """Images are decoded as by libjpeg, with and without restart markers and point transform."""
    pixels = image(precision)
    for restart_lines in (0, 1, 5):
        for shift in (0, 1):
            encoded = written(pixels, precision, predictor, restart_lines, shift)
            samples = read_whole(encoded, *SHAPE)
            assert samples is not None
            assert samples.precision == precision
            assert samples.values.itemsize == (1 if precision <= 8 else 2)
            assert np.array_equal(samples.values, pixels >> shift << shift)
        assert np.array_equal(decode(written(pixels, precision, predictor, restart_lines)), pixels)


@pytest.mark.parametrize("predictor", range(1, 8))
def test_gdcm_decodes_the_same(predictor: int, tmp_path: Path) -> None:
    pixels = image(16)
    data = ct_image(pixels, RescaleIntercept=0)
    data.file_meta.TransferSyntaxUID = JPEGLossless
    data.PixelData = encapsulate([written(pixels, 16, predictor)])
    data["PixelData"].is_undefined_length = True
    save(data, tmp_path / "file")
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "file", imageIO="GDCMImageIO"))
    assert np.array_equal(theirs[0], pixels)


@pytest.mark.parametrize("restart_lines", [0, 4])
def test_truncated_streams_and_missing_intervals_are_refused(restart_lines: int) -> None:
    whole = written(image(12), 12, 6, restart_lines)
    start = whole.index(b"\xff\xda") + 10
    for at in range(start, len(whole) - 2):
        for end in (b"", b"\xff\xd9"):
            with pytest.raises(Rejection):
                read_whole(whole[:at] + end, *SHAPE)
    if restart_lines:
        first, second, third = (whole.index(bytes([0xFF, 0xD0 + k])) for k in range(3))
        for damaged in (
            whole[:first] + whole[second:],
            whole[:second] + whole[first:],
            whole[:first] + whole[second:third] + whole[first:second] + whole[third:],
        ):
            with pytest.raises(Rejection):
                read_whole(damaged, *SHAPE)


@pytest.mark.parametrize(
    ("marker", "byte", "value"),
    [
        (0xC3, 4, 17),  # a precision of 17 bits
        (0xC3, 9, 3),  # three components
        (0xC3, 11, 0x01),  # no horizontal sampling
        (0xDA, 5, 9),  # of a component that is not in the frame
        (0xDA, 6, 0x10),  # by a missing Huffman table
        (0xDA, 6, 0x04),
        (0xC3, 12, 4),
        (0xDA, 7, 0),  # predictor 0 is of hierarchical frames
        (0xDA, 7, 8),
        (0xDA, 8, 1),
        (0xDA, 9, 0x10),
        (0xDA, 9, 12),  # a point transform by all bits
        (0xC4, 5, 4),  # more codes of one bit than possible
    ],
)
def test_headers_that_no_encoder_writes_are_refused(marker: int, byte: int, value: int) -> None:
    """byte: of the segment, from its marker."""
    damaged = bytearray(written(image(12), 12))
    damaged[damaged.index(bytes([0xFF, marker])) + byte] = value
    with pytest.raises(Rejection):
        read_whole(bytes(damaged), *SHAPE)
