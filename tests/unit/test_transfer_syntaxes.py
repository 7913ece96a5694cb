"""Every transfer syntax and encoder's codestream gives the same slice."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from decoded_slices import STORED, decode, decoded
from dicom_files import ct_image, save, scanned
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
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

from preprocess.reasons import Reason, Rejection


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


def test_an_explicit_data_set_under_the_implicit_syntax_is_read(tmp_path: Path) -> None:
    path = save(ct_image(STORED), tmp_path / "export" / "file")
    explicit = path.read_bytes()
    assert explicit.count(b"1.2.840.10008.1.2.1\0") == 1
    path.write_bytes(explicit.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"))
    assert np.array_equal(decode(scanned(path.parent)[0].instances[0]).hu, STORED)


def test_ges_private_syntax_has_big_endian_pixels(tmp_path: Path) -> None:
    data = ct_image(STORED)
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data.PixelData = STORED.astype(">u2").tobytes()
    path = save(data, tmp_path / "export" / "file")
    stated = b"\x10\0UI\x12\x001.2.840.10008.1.2\0", b"\x10\0UI\x12\x001.2.840.113619.5.2"
    assert stated[0] in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(*stated))
    assert np.array_equal(decode(scanned(path.parent)[0].instances[0]).hu, STORED)
