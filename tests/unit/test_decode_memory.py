"""Memory limits while an image is decoded."""

import struct
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from dicom_files import ct_image, save, scanned
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1

from preprocess.dicom import pixel_header
from preprocess.dicom.decode import Decoder
from preprocess.reasons import Rejection

STORED = np.zeros((64, 96), np.uint16)

SHORT = """
import pathlib, resource, sys, warnings
warnings.simplefilter("ignore")
from preprocess.dicom.catalog import read_catalog
from preprocess.dicom.decode import Decoder
instance = read_catalog(pathlib.Path(sys.argv[1]))[0].instances[0]
with Decoder() as decoder:
    decoder.decode(instance)  # what is loaded and compiled on the first call
with open("/proc/self/statm") as statm:
    size = int(statm.read().split()[0]) * resource.getpagesize()
for room in range(0, 64, 2):
    resource.setrlimit(resource.RLIMIT_AS, (size + room * 2**20, resource.RLIM_INFINITY))
    try:
        with Decoder() as decoder:
            print(decoder.decode(instance).hu.shape)
    except BaseException as error:
        print(type(error).__name__)
"""
"""Decodes the first image of a catalog with increasing memory limits."""


def test_out_of_memory_within_a_codec_is_not_file_damage(tmp_path: Path) -> None:
    data = ct_image(np.repeat(np.arange(1024, dtype=np.uint16), 1024).reshape(1024, 1024))
    data.compress(JPEG2000Lossless)
    save(data, tmp_path / "export" / "file")
    scanned(tmp_path / "export")
    command = [sys.executable, "-c", SHORT, str(tmp_path / "export.parquet")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    outcomes = result.stdout.splitlines()
    assert set(outcomes) == {"MemoryError", "(1024, 1024)"}
    assert outcomes[-1] == "(1024, 1024)"


def jpeg(*segments: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(segments) + b"\xff\xda\0\x08\1\1\0\0\0\0\xff\xd9"


def frame_header(rows: int, columns: int, components: int = 1, marker: int = 0xC3) -> bytes:
    of_each = b"\1\x11\0" * components
    content = struct.pack(">BHHB", 16, rows, columns, components) + of_each
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


LINES = b"\xff\xdc\0\4" + struct.pack(">H", 60_000)


@pytest.mark.parametrize(
    "codestream",
    [
        b"\xff\xd8\xff\xd9",
        jpeg(b"\xff" * 9 + frame_header(60_000, 60_000)),
        jpeg(frame_header(60_000, 60_000, marker=0xDE), frame_header(64, 96)),
        jpeg(frame_header(64, 96, 255)),
        jpeg(frame_header(0, 96), LINES),
        jpeg(frame_header(0, 96), LINES, LINES[:4] + struct.pack(">H", 64)),
        jpeg(frame_header(0, 60_000), LINES[:4] + struct.pack(">H", 64)),
    ],
)
def test_a_codestream_of_another_image_size_reaches_no_decoder(
    codestream: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoders allocate the declared size: after fill bytes, in a hierarchy, after the lines."""
    # No header of another test.
    monkeypatch.setattr(pixel_header, "shared_header", pixel_header.shared_header.__wrapped__)
    monkeypatch.setattr(pixel_header, "get_decoder", Mock(return_value=Mock(as_array=None)))
    data = ct_image(STORED)
    data.PixelData = encapsulate([codestream])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    save(data, tmp_path / "export" / "file")
    matrix = "the codestream's matrix differs from the header's"
    with pytest.raises(Rejection, match=matrix), Decoder() as decoder:
        decoder.decode(scanned(tmp_path / "export")[0].instances[0])
