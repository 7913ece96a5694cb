"""A fast header reader for Explicit VR Little Endian (PS3.5 sections 7.1 and 7.5), from tag to tag.

Nearly all images of archives have this encoding, some deflated. It accepts only unambiguous headers and
returns the same elements as pydicom; otherwise it returns nothing, and pydicom reads the file.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from struct import Struct
from typing import Any, BinaryIO, NamedTuple

from pydicom import Dataset
from pydicom.charset import convert_encodings, default_encoding, python_encoding
from pydicom.dataelem import RawDataElement, empty_value_for_VR
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from preprocess.dicom.inflate import MAX_UNPACKED, Inflated

WINDOW = 2**14
"""Bytes of the first read: most headers, with the start of the pixels."""
MAX_ELEMENTS = 2**12
"""Most elements of a header, including those of items; an image has a few hundred."""
MAX_VALUE = 2**12
"""Most bytes of a kept element."""
AHEAD = 2**13
"""Bytes of the window from an element on, before the file's end: room for an element or a sequence."""
MAX_DEPTH = 8
"""Deepest nesting of sequences."""

_HEAD = Struct("<HHHH").unpack_from
"""Group, element, VR and length, of an element whose length has 16 bits."""
_LONG = Struct("<L").unpack_from
_ITEM_HEAD = Struct("<LL").unpack_from
_VRS = {int.from_bytes(vr.encode(), "little"): (str(vr), vr in EXPLICIT_VR_LENGTH_32) for vr in VR}
"""VRs by their two letters, as in `_HEAD`, and whether the length has 32 bits; none is of both kinds."""
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xE000FFFE, 0xE00DFFFE, 0xE0DDFFFE
"""(FFFE,E000), (FFFE,E00D) and (FFFE,E0DD), as in `_ITEM_HEAD`."""
_CHARACTER_SET = BaseTag(0x00080005)
_META = {tag: BaseTag(tag) for tag in (0x00020002, 0x00020003, 0x00020010)}
"""Media Storage SOP Class and Instance UID, Transfer Syntax UID."""
_BEGINNING = b"DICM\x02\0\0\0UL\x04\0"
"""After the preamble: the prefix and the head of File Meta Information Group Length (PS3.10 section 7.1)."""
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_MEDIA_DIRECTORY = b"1.2.840.10008.1.3.10"
_PLAIN_UID = re.compile(rb"[0-9.]{1,64}\0?")
_OTHERWISE = (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
"""Transfer syntaxes with another encoding (PS3.5 annex A)."""
_DEFLATED = DeflatedExplicitVRLittleEndian.encode()
_META_BYTES = 1024
"""Bytes of a file that are searched for `_DEFLATED`: the transfer syntax is near the start."""


Elements = dict[BaseTag, Any]
"""Raw elements by tag."""


class _OddError(Exception):
    """A case that requires pydicom."""


class Walked(NamedTuple):
    """The result of the walk."""

    elements: Elements
    """The wanted elements and the character set's, raw, as pydicom.dcmread with `specific_tags`."""
    sop_uid: str
    """Media Storage SOP Instance UID (0002,0003), empty if missing."""
    transfer_syntax: str
    file: BinaryIO
    """The walked file; if the object is deflated, its inflated data set."""
    pixels: int
    """Offset in `file` of the first element of pixels, or of the end if there are none."""


def wanting(tags: Iterable[BaseTag]) -> Mapping[int, BaseTag]:
    """The argument `wanted` of `walked` for these `tags`, with those that it always reads."""
    return {**_META, _CHARACTER_SET: _CHARACTER_SET, **{int(tag): tag for tag in tags}}


def walked(file: BinaryIO, start: bytes, size: int, wanted: Mapping[int, BaseTag]) -> Walked | None:
    """The `wanted` elements (see `wanting`) before the pixels of a file.

    The file has `size` bytes and starts with `start`. None if it may have another encoding, be damaged, not
    be an image, or be unusual.
    """
    if start[128:140] != _BEGINNING:
        return None
    try:
        if _DEFLATED in start[:_META_BYTES]:
            return _walked_deflated(file, start, size, wanted)
        elements, pixels, _ = _elements(file, start, size, wanted, 132)
        _, sop_uid, syntax = [_uid(elements.pop(tag, None)) for tag in _META.values()]
        if not syntax or syntax in _OTHERWISE:
            return None
        _encoding_of(elements)  # raises for an odd one
        return Walked(elements, sop_uid, syntax, file, pixels)
    except (_OddError, struct.error, zlib.error):  # struct.error: a truncated head
        return None


def _walked_deflated(file: BinaryIO, start: bytes, size: int, wanted: Mapping[int, BaseTag]) -> Walked:
    """As `walked`, for a file whose data set is deflated behind its meta information (PS3.5 section A.5)."""
    end = 144 + _LONG(start, 140)[0]
    if len(start) < end + 2 or start[end : end + 2] in (b"\2\0", b"\0\0"):
        raise _OddError  # pydicom reads all elements of groups 2 and 0, whatever length the group states
    stated, _, last = _elements(file, start[:end], end, _META, 132)
    _, sop_uid, syntax = [_uid(stated.get(tag)) for tag in _META.values()]
    if last >> 16 != 2 or syntax != DeflatedExplicitVRLittleEndian:
        raise _OddError
    inflated: Any = io.BufferedReader(Inflated(file, end, size - end), WINDOW)
    elements, pixels, _ = _elements(inflated, inflated.peek(WINDOW), MAX_UNPACKED, wanted, 0)
    if any(tag in elements for tag in _META.values()):
        raise _OddError
    _encoding_of(elements)
    return Walked(elements, sop_uid, syntax, inflated, pixels)


def dataset(elements: Elements) -> Dataset:
    """The data set of a walked header's elements."""
    data = Dataset(elements)
    data.set_original_encoding(False, True, _encoding_of(elements))
    return data


def _elements(
    file: BinaryIO, window: bytes, size: int, wanted: Mapping[int, BaseTag], at: int
) -> tuple[Elements, int, int]:
    """The wanted elements from `at` on, the offset of the pixels, and the last tag before them.

    Tags ascend (PS3.5 section 7.1), so each occurs once; lengths are checked against the file's size.
    """
    elements: Any = {}
    base, previous, count = 0, -1, 0
    while base + at < size:
        if at > len(window) - AHEAD and base + len(window) < size:
            base, at = base + at, 0
            file.seek(base)
            window = file.read(WINDOW)
        group, element, vr, length = _HEAD(window, at)
        tag = group << 16 | element
        if tag <= previous or vr not in _VRS or (group < 8 and group != 2):
            raise _OddError
        name, long = _VRS[vr]
        at += 8
        if long:
            (length,) = _LONG(window, at)
            at += 4
        if tag >= _PIXELS[0] and tag in _PIXELS:
            return elements, base + at - (12 if long else 8), previous
        previous = tag
        count += 1
        if length == _UNDEFINED:
            if name != "SQ" or tag in wanted:
                raise _OddError
            at, count = _behind_sequence(window, at, 1, count)
        elif tag in wanted:
            if length > MAX_VALUE or at + length > len(window):
                raise _OddError
            value: Any = window[at : at + length] if length else empty_value_for_VR(name, raw=True)
            key = wanted[tag]
            elements[key] = RawDataElement(key, name, length, value, base + at, False, True)
            at += length
        else:
            at += length
        if base + at > size or count > MAX_ELEMENTS:
            raise _OddError
    return elements, base + at, previous


def _behind_sequence(window: bytes, at: int, depth: int, count: int) -> tuple[int, int]:
    """The end of a sequence of undefined length whose items start at `at`, and the elements so far."""
    while True:
        at = _require(window, at, 8)
        tag, length = _ITEM_HEAD(window, at - 8)
        count += 1
        if tag == _SEQUENCE_END and length == 0:
            return at, count
        if tag != _ITEM or count > MAX_ELEMENTS:
            raise _OddError
        at, count = _behind_item(window, at, length, depth, count)


def _behind_item(window: bytes, at: int, length: int, depth: int, count: int) -> tuple[int, int]:
    """The same for an item of this length."""
    end = len(window) + 1 if length == _UNDEFINED else at + length
    while at != end:
        if at > end:
            raise _OddError
        at = _require(window, at, 8)
        group, element, vr, length = _HEAD(window, at - 8)
        count += 1
        if group == 0xFFFE:
            if end <= len(window) or _ITEM_HEAD(window, at - 8) != (_ITEM_END, 0):
                raise _OddError
            return at, count
        known = _VRS.get(vr)
        if known is None or group << 16 | element == _CHARACTER_SET or count > MAX_ELEMENTS:
            raise _OddError
        if known[1]:
            at = _require(window, at, 4)
            length = _LONG(window, at - 4)[0]
        if length != _UNDEFINED:
            at += length
        elif known[0] == "SQ" and depth < MAX_DEPTH:
            at, count = _behind_sequence(window, at, depth + 1, count)
        else:
            raise _OddError
    return at, count


def _require(window: bytes, at: int, size: int) -> int:
    """The position after `size` bytes at `at`, which must be in the window."""
    if at + size > len(window):
        raise _OddError
    return at + size


def _uid(element: RawDataElement | None) -> str:
    """A UID's text, empty if missing."""
    if element is None or not element.value:
        return ""
    if element.VR != "UI" or not _PLAIN_UID.fullmatch(element.value) or element.value == _MEDIA_DIRECTORY:
        raise _OddError
    return element.value.rstrip(b"\0").decode()


def _encoding_of(elements: Elements) -> str | list[str]:
    charset = elements.get(_CHARACTER_SET)
    return _encoding(charset.VR, charset.value or b"") if charset else default_encoding


@cache
def _encoding(vr: str, value: bytes) -> list[str]:
    """Python's names of one of the standard's character sets (PS3.3 C.12.1.1.2)."""
    name = value.decode("latin-1").strip(" ")
    if vr != "CS" or not name or name not in python_encoding:
        raise _OddError
    return convert_encodings(name)
