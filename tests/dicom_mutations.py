"""Damage of DICOM files as by disks, transfers and faulty software, chosen by a seed."""

import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO

Mutation = Callable[[bytearray, np.random.Generator], bytearray]

_PREAMBLE = 132
_LONG_VRS = {b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN", b"OD", b"OL", b"UC", b"UR", b"OV", b"SV", b"UV"}
"""Explicit VRs with two reserved bytes and a length of four (PS3.5 table 7.1-1)."""


class Element(NamedTuple):
    """The location of a top-level data element in an explicit little-endian file."""

    start: int
    length_at: int
    length_bytes: int
    value: int
    end: int


def elements(data: bytes | bytearray) -> list[Element]:
    """The elements from the preamble to the pixel data, as far as they can be parsed."""
    collected = []
    at = _PREAMBLE
    while at + 8 <= len(data):
        long = bytes(data[at + 4 : at + 6]) in _LONG_VRS
        length_at, length_bytes = (at + 8, 4) if long else (at + 6, 2)
        length = int.from_bytes(data[length_at : length_at + length_bytes], "little")
        value = length_at + length_bytes
        end = value + length
        if end > len(data):
            break
        collected.append(Element(at, length_at, length_bytes, value, end))
        at = end
    return collected


def flip_bits(data: bytearray, random: np.random.Generator) -> bytearray:
    """Flip a few bits anywhere."""
    for place in random.integers(len(data), size=random.integers(1, 20)):
        data[place] ^= 1 << int(random.integers(8))
    return data


def flip_header_bits(data: bytearray, random: np.random.Generator) -> bytearray:
    """Flip a few bits before the pixel data."""
    for place in random.integers(min(len(data), 1500), size=random.integers(1, 8)):
        data[place] ^= 1 << int(random.integers(8))
    return data


def truncate(data: bytearray, random: np.random.Generator) -> bytearray:
    """Truncate the file."""
    return data[: random.integers(len(data))]


def overwrite(data: bytearray, random: np.random.Generator) -> bytearray:
    """Overwrite a block with zeros or noise, as a bad sector or a lost packet does."""
    start = int(random.integers(len(data)))
    stop = min(len(data), start + int(random.integers(1, 4096)))
    data[start:stop] = bytes(stop - start) if random.random() < 0.5 else random.bytes(stop - start)
    return data


def swap_tags(data: bytearray, random: np.random.Generator) -> bytearray:
    """Swap the tags of two elements."""
    places = elements(data)
    if len(places) > 1:
        a, b = (places[i].start for i in random.choice(len(places), 2, replace=False))
        data[a : a + 4], data[b : b + 4] = data[b : b + 4], data[a : a + 4]
    return data


def declare_huge_length(data: bytearray, random: np.random.Generator) -> bytearray:
    """Give an element a length beyond the file, or an undefined length."""
    places = elements(data)
    if places:
        element = places[random.integers(len(places))]
        size = element.length_bytes
        length = int(random.choice([2 ** (8 * size) - 1, 2 ** (8 * size) - 16, 2 ** (8 * size - 1)]))
        data[element.length_at : element.value] = length.to_bytes(size, "little")
    return data


def change_vr(data: bytearray, random: np.random.Generator) -> bytearray:
    """Give an element another VR."""
    places = elements(data)
    if places:
        start = places[random.integers(len(places))].start
        kinds = [b"SQ", b"UN", b"DS", b"IS", b"US", b"FD", b"OB", b"LO", b"\0\0", b"AT"]
        data[start + 4 : start + 6] = kinds[random.integers(len(kinds))]
    return data


_ABSURD: dict[str, list[object]] = {
    "Rows": [0, 1, 65535],
    "Columns": [0, 1, 65535],
    "NumberOfFrames": ["0", "-3", "2147483647", "100000000000"],
    "BitsAllocated": [0, 1, 7, 32, 64, 65535],
    "BitsStored": [0, 99],
    "HighBit": [255],
    "SamplesPerPixel": [0, 3, 65535],
    "PixelRepresentation": [2, 65535],
    "RescaleSlope": ["0", "-1", "1E300", "1e-300"],
    "RescaleIntercept": ["1E300", "-99999999999999"],
    "PixelSpacing": [["0", "0"], ["1E-12", "1E-12"], ["1E12", "1E12"], ["-1", "1"]],
    "ImagePositionPatient": [["1E300", "0", "0"], ["0", "0", "1E15"], ["0", "0"]],
    "ImageOrientationPatient": [["0"] * 6, ["1E9"] * 6, ["1", "0", "0", "1", "0", "0"]],
    "SliceThickness": ["-5", "1E30"],
    "GantryDetectorTilt": ["90", "1E30"],
    "PhotometricInterpretation": ["RGB", "PALETTE COLOR", "YBR_FULL", ""],
}


def absurd_value(data: bytearray, random: np.random.Generator) -> bytearray:
    """Set a number to a value that no scanner writes."""
    read = dcmread(DicomBytesIO(bytes(data)), force=True)
    names = [name for name in sorted(_ABSURD)]
    name = names[random.integers(len(names))]
    values = _ABSURD[name]
    value = values[random.integers(len(values))]
    if value == "" or name not in read:
        read.pop(name, None)
    else:
        read[name].value = value
    return _written(read)


def garble_text(data: bytearray, random: np.random.Generator) -> bytearray:
    """Replace a number by text, or a text by bytes of no character set."""
    read = dcmread(DicomBytesIO(bytes(data)), force=True)
    names = ["PixelSpacing", "ImagePositionPatient", "KVP", "RescaleSlope", "ConvolutionKernel", "PatientID"]
    names += ["Modality", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "ImageType"]
    element = read[names[random.integers(len(names))]]
    texts = [b"ABC", b"nan", b"inf", b"1,5", b"\xff\xfe\x80", b"\\\\\\", b"1" * 300, b"\x1b$B", b"\0\0"]
    value = texts[random.integers(len(texts))]
    read[element.tag] = RawDataElement(element.tag, element.VR, len(value), value, 0, False, True)
    return _written(read)


def nest_sequences(data: bytearray, random: np.random.Generator) -> bytearray:
    """Insert sequences nested thousands deep."""
    depth = int(random.integers(100, 20_000))
    header = b"\x08\x00\x40\x11SQ\0\0" + struct.pack("<I", 0xFFFFFFFF)
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", 0xFFFFFFFF)
    ends = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    places = elements(data)
    at = next((e.start for e in places if bytes(data[e.start : e.start + 2]) > b"\x08\x00"), len(data))
    closing = ends * depth if random.random() < 0.5 else b""
    return data[:at] + (header + item) * depth + closing + data[at:]


def _written(read: Dataset) -> bytearray:
    buffer = DicomBytesIO()
    read.save_as(buffer)
    return bytearray(buffer.getvalue())


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bits, flip_header_bits, truncate, overwrite, swap_tags, declare_huge_length, change_vr),
    *(absurd_value, garble_text, nest_sequences),
)


def mutate(data: bytes, seed: int, number: int) -> tuple[bytes, str]:
    """File number `number` of a run: the damaged bytes and the name of the mutation."""
    random = np.random.Generator(np.random.Philox(key=[seed, number]))
    mutation = MUTATIONS[random.integers(len(MUTATIONS))]
    try:
        return bytes(mutation(bytearray(data), random)), mutation.__name__
    except Exception:  # pydicom refuses to write some absurdities: damage the bytes instead
        return bytes(flip_header_bits(bytearray(data), random)), f"{mutation.__name__}, bits"
