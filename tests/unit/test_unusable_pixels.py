"""Pixels that cannot be read as HU have a reason; failures of the machine are none."""

import struct
import tracemalloc
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from decoded_slices import STORED, decode, decoded, hu
from dicom_files import ct_image, save, scanned
from pydicom.uid import JPEG2000Lossless, RLELossless

from preprocess.dicom.decode import Decoder
from preprocess.dicom.image_file import ImageFile
from preprocess.reasons import Reason, Rejection
from shards.errors import FmctError


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


def test_burned_in_text_is_rejected_in_any_case_of_its_letters(tmp_path: Path) -> None:
    path = save(ct_image(STORED, BurnedInAnnotation="YES"), tmp_path / "export" / "file")
    path.write_bytes(path.read_bytes().replace(b"YES ", b"Yes "))
    with pytest.raises(Rejection, match="burned_in_text"):
        decode(scanned(path.parent)[0].instances[0])


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
