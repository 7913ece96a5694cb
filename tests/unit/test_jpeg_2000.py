"""JPEG 2000 codestreams whose samples differ from the header in width or sign."""

import io
from itertools import product

import numpy as np
import pytest
from dicom_files import ct_image
from openjpeg.utils import encode
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from preprocess.dicom.image_file import ImageFile, Stored
from preprocess.reasons import Reason, Rejection

SHAPE = (48, 64)
MONOCHROME = 2
"""OpenJPEG's name of grey samples, `openjpeg.utils.encode`."""


def samples(precision: int, low: int) -> np.ndarray:
    """Random samples from `low` to the highest of the precision, signed if `low` is not 0."""
    high = 2**precision if low == 0 else 2 ** (precision - 1)
    random = np.random.default_rng(precision).integers(low, high, SHAPE)
    random.flat[:2] = low, high - 1
    return random.astype(f"{'i' if low else 'u'}{1 if precision <= 8 else 2 if precision <= 16 else 4}")


def stored(
    values: np.ndarray, precision: int, allocated: int, bits: int, representation: int, codec: int = 0
) -> Stored:
    """The stored values of a file with this header, whose codestream has samples of this precision.

    codec: 0 for a codestream, 1 for a JP2 file.
    """
    codestream = encode(
        values, bits_stored=precision, photometric_interpretation=MONOCHROME, codec_format=codec
    )
    data = ct_image(np.zeros(SHAPE, np.uint16))
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.BitsAllocated, data.BitsStored, data.HighBit = allocated, bits, bits - 1
    data.PixelRepresentation = representation
    data.PixelData = encapsulate([codestream])
    data["PixelData"].is_undefined_length = True
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    size = file.tell()
    file.seek(0)
    return ImageFile(file, size).stored(0)


HEADERS = [(a, b, r) for a, b, r in product((8, 16, 32), (8, 12, 16, 24), (0, 1)) if b <= a]
"""Bits Allocated, Bits Stored, Pixel Representation."""


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("precision", [5, 8, 12, 16, 20])
def test_values_are_the_codestreams_or_there_is_a_reason(
    precision: int, header: tuple[int, int, int]
) -> None:
    allocated, bits, representation = header
    for low in (0, 1, -(2 ** (precision - 1))):
        truth = samples(precision, low)
        if precision > allocated or (low < 0 and not representation):
            # It is unknown whether a negative sample or the unsigned header is right.
            with pytest.raises(Rejection) as caught:
                stored(truth, precision, *header)
            assert caught.value.reason == Reason.UNDECODABLE_PIXEL_DATA
            continue
        expected, width, every_bit = truth.astype(np.int64), bits, truth.astype(np.int64)
        if representation and low == 0:  # two's complement of the samples' bits
            expected -= (expected >= 2 ** (precision - 1)) * 2**precision
            width = min(bits, precision)
            every_bit = expected & (2**width - 1) if width < allocated else expected
        for codec in (0, 1):
            read = stored(truth, precision, *header, codec=codec)
            assert np.array_equal(read.values, expected)
            assert read.values.dtype == f"{'ui'[representation]}{allocated // 8}"
            assert np.array_equal(read.allocated, every_bit)
            assert read.bits == width
