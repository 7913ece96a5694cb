"""An open DICOM image: its attributes are read once, its frames are decoded one at a time."""

import io
import math
import struct
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from pydicom.encaps import encapsulate, get_frame, parse_fragments
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.uid import RLELossless

from preprocess.dicom import jpeg_2000, rle
from preprocess.dicom.bounded import Bounded
from preprocess.dicom.codestream import read_whole, require_memory
from preprocess.dicom.deflated_end import read_to_end
from preprocess.dicom.geometry import LARGEST_MATRIX
from preprocess.dicom.pixel_header import NEEDED, read_pixel_header
from preprocess.reasons import Reason, Rejection

_INTERPRETATIONS = [one.value for one in PhotometricInterpretation]
_LONG_VRS = (b"OB", b"OW", b"UN")
"""VRs of pixel data; their length has four bytes after two reserved ones (PS3.5 section 7.1.2)."""

_UNDEFINED_LENGTH = 0xFFFFFFFF
"""Length of encapsulated pixel data only (PS3.5 section A.4)."""
_BLOCK_BYTES = 512
"""Writers that pad pixel data to whole blocks add less; a row or column of 256 pixels is not less."""

MAX_EXPANSION = 2
"""Largest expansion of pixels by a codec: RLE makes 129 bytes of 128 at worst (PS3.5 section G.3.1)."""
_TABLE_BYTES = 2**20
"""Bytes of offsets, fragment heads, and codestream data besides pixels."""
_HEADS = 64
"""Bytes of the heads that pydicom reads to find a single fragment, or more."""


class Stored(NamedTuple):
    """The stored values of one frame, integer (rows, columns)."""

    values: np.ndarray
    """Sign-extended from `bits`, or for JPEG 2000 from the samples' precision, which may exceed `bits`."""
    allocated: np.ndarray
    """The pixels with all their bits, if values start at bit 0; else `values` itself."""
    bits: int
    """Bits Stored (0028,0101), or the precision of a codestream whose signed values are as narrow."""


class ImageFile:
    """The images in one DICOM file, which the caller keeps open while this is used.

    A damaged file raises one of the many exceptions of pydicom, its decoders or struct, or Rejection if the
    reason is known.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        """size: bytes of the file."""
        header, file = read_pixel_header(file, size)
        self._decoder = header.decoder
        self._vr, self._length = _enter_pixel_data(file, *header.encoding)
        self._header, self._file, self._start, self._size = header, file, file.tell(), size
        self._frames = header.frames(size)
        self._numbers = header.numbers
        self._unread_end = header.is_deflated
        self._fragment = _require_fragments(file, size) if header.is_encapsulated else None

    def attributes(self, frame: int) -> dict[str, Any]:
        """See `PixelHeader.attributes`."""
        return self._header.attributes(frame)

    def stored(self, frame: int) -> Stored:
        """The stored values of frame `frame`."""
        header, numbers = self._header, self._numbers
        rows, columns, allocated, bits, representation = (numbers[name] for name in NEEDED)
        if numbers.get("SamplesPerPixel", 1) != 1:
            raise Rejection(Reason.NOT_GRAYSCALE, "not one sample per pixel")
        if header.interpretation.upper() == "PALETTE COLOR":
            raise Rejection(Reason.NOT_GRAYSCALE, "pixels are colours of a palette")
        if header.burned_in.upper() == "YES":  # (0028,0301), enough to identify the patient
            raise Rejection(Reason.BURNED_IN_TEXT, "Burned In Annotation: its pixels may name the patient")
        if max(rows, columns) > LARGEST_MATRIX:
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, f"a matrix of {rows} by {columns}")
        if allocated not in (8, 16, 32):
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, f"Bits Allocated is {allocated}")
        if not 0 < bits <= allocated or representation not in (0, 1):
            detail = f"Bits Stored is {bits} of {allocated}, Pixel Representation {representation}"
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, detail)
        encoded = self._encoded(frame)
        if not header.is_encapsulated and allocated == 16:
            kind = f"{'>' if header.big_endian else '<'}{'ui'[representation]}2"
            values = np.frombuffer(encoded, kind).reshape(rows, columns)
        elif not header.is_encapsulated:
            options = self._options | {"correct_unused_bits": False}
            values, _ = self._decoder.as_array(encoded, index=0, raw=True, **options)
        elif header.syntax == RLELossless:
            values = rle.decode(encoded, rows, columns, allocated)
            values = values.view(f"<{'ui'[representation]}{values.itemsize}")
        else:
            return self._decoded(encoded)
        if bits == allocated:
            return Stored(values, values, bits)
        # In old equipment they start above it (PS3.5 section 8.1.1); other bits may be an overlay.
        high = numbers.get("HighBit", bits - 1)
        above = allocated - 1 - high if bits <= high < allocated else allocated - bits
        if above == allocated - bits and _fits(values, bits):
            return Stored(values, values, bits)
        stored = (values << above) >> (allocated - bits)
        return Stored(stored, values if above == allocated - bits else stored, bits)

    def _decoded(self, encoded: bytes) -> Stored:
        """As `stored`, of a codestream, whose values start at bit 0."""
        rows, columns, allocated, bits, representation = (self._numbers[name] for name in NEEDED)
        if self._header.interpretation not in _INTERPRETATIONS:
            detail = "Photometric Interpretation (0028,0004) is missing or not in the standard"
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, detail)
        if self._header.is_jpeg_2000:
            return self._jpeg_2000(encoded)
        samples = read_whole(encoded, rows, columns)
        if samples is not None:
            # Samples of JPEG-LS may be narrower than pixels and give the width of a signed value.
            exact = self._header.is_jpeg_ls
            width = 8 * samples.values.itemsize
            if width != allocated and not (exact and width < allocated):
                detail = f"samples of {samples.precision} bits in pixels of {allocated}"
                raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, detail)
            unsigned = samples.values.astype(f"u{allocated // 8}", copy=False)
            values = unsigned.view(f"{'ui'[representation]}{allocated // 8}")
            width = samples.precision if exact and representation else bits
            unused = allocated - width
            fits = _fits(values, width)
            return Stored(values if fits else (values << unused) >> unused, values, width)
        options = self._options | {"correct_unused_bits": True}
        try:
            # The decoder receives the width of the values.
            values, _ = self._decoder.as_array(
                encapsulate([encoded], has_bot=False), index=0, raw=True, **options
            )
        except RuntimeError:  # pydicom's error for any exception of its plugins, also MemoryError
            require_memory(rows * columns)
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the decoder rejects the codestream") from None
        # The codestream has zeros above the values' bits.
        is_plain = not representation or bits == allocated
        return Stored(values, values if is_plain else values & (2**bits - 1), bits)

    def _jpeg_2000(self, encoded: bytes) -> Stored:
        """As `stored`, of a JPEG 2000 codestream."""
        rows, columns, allocated, bits, representation = (self._numbers[name] for name in NEEDED)
        values, precision, signed = jpeg_2000.decode(encoded, rows, columns, allocated, representation)
        if signed and not representation and (values >> (precision - 1)).any():
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "signed values under an unsigned header")
        if representation and not signed:
            bits = min(bits, precision)
        # Without its own sign, the codestream has zeros above the values' bits.
        is_plain = signed or not representation or bits == allocated
        return Stored(values, values if is_plain else values & (2**bits - 1), bits)

    @property
    def _options(self) -> dict[str, Any]:
        return self._header.options | {"pixel_vr": self._vr, "number_of_frames": 1}

    def _encoded(self, frame: int) -> bytes:
        """The bytes of one frame, uncompressed or a codestream."""
        self._file.seek(self._start)
        count = math.prod(self._numbers[name] for name in ("Rows", "Columns", "BitsAllocated")) // 8
        if self._header.is_encapsulated:
            limit = MAX_EXPANSION * count + _TABLE_BYTES
            if self._fragment and frame == 0 and self._frames == 1 and not self._header.offsets:
                start, length = self._fragment
                if length < limit - _HEADS:
                    self._file.seek(start)
                    return self._file.read(length)
            bounded: Any = Bounded(self._file, self._size, limit)
            return get_frame(
                bounded, frame, extended_offsets=self._header.offsets, number_of_frames=self._frames
            )
        self._require_plain(count)
        if self._unread_end:
            encoded = read_to_end(self._file, self._length, frame * count, count)
            self._unread_end = False
        else:
            self._file.seek(frame * count, io.SEEK_CUR)
            encoded = self._file.read(min(count, max(self._length - frame * count, 0)))
        if len(encoded) < count:
            raise Rejection(Reason.TRUNCATED_PIXEL_DATA, f"{len(encoded)} bytes of {count}")
        return encoded

    def _require_plain(self, count: int) -> None:
        """Raise Rejection(undecodable_pixel_data) unless the pixel data are plain frames of `count` bytes.

        A header whose matrix, depth or number of frames is too small would cut out part of an image.
        """
        if self._length == _UNDEFINED_LENGTH:
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "fragments under an uncompressed transfer syntax")
        expected = count * self._frames
        if self._length - expected >= _BLOCK_BYTES:
            detail = f"{self._length} bytes of pixel data, but the header declares {expected}"
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, detail)


def _fits(values: np.ndarray, bits: int) -> bool:
    """Whether integers equal the value of their lower `bits` bits; ten times as fast as shifting."""
    if values.dtype.kind == "u":
        return bool(values.max() < 2**bits)
    return bool(-(2 ** (bits - 1)) <= values.min() and values.max() < 2 ** (bits - 1))


def _enter_pixel_data(file: BinaryIO, implicit: bool, little: bool) -> tuple[str, int]:
    """Seek to the value of the next element, Pixel Data (7FE0,0010); return VR and length."""
    endian = "<" if little else ">"
    head = file.read(8)
    if len(head) < 8:
        raise Rejection(Reason.TRUNCATED_PIXEL_DATA, "the file ends before its pixel data")
    if struct.unpack(endian + "HH", head[:4]) != (0x7FE0, 0x0010):
        raise Rejection(Reason.NOT_HOUNSFIELD, "floating-point pixel data")
    # Some writers state Implicit VR for a data set with VRs. As a length they would be odd (PS3.5 7.1.1).
    if head[4:6] not in _LONG_VRS or (implicit and head[6:] != b"\0\0"):
        return "OW", struct.unpack(endian + "L", head[4:])[0]
    return head[4:6].decode(), struct.unpack(endian + "L", file.read(4))[0]


def _require_fragments(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """Raise Rejection(truncated_pixel_data) unless all fragments of encapsulated pixel data are complete.

    Decoders fill in missing data of truncated streams. A missing sequence delimiter loses no pixels. Returns
    offset and length of a single fragment, which is the frame if there is one; None if there are several, or
    if an offset table places the frame elsewhere.
    """
    start = file.tell()
    # The first item is the offset table (PS3.5 section A.4).
    bounded: Any = Bounded(file, size)
    count, offsets = parse_fragments(bounded)
    if count < 2:
        raise Rejection(Reason.TRUNCATED_PIXEL_DATA, "no fragment of encapsulated pixel data")
    file.seek(offsets[-1] + 4)
    length = struct.unpack("<L", file.read(4))[0]
    end = offsets[-1] + 8 + length
    if end > size:
        raise Rejection(Reason.TRUNCATED_PIXEL_DATA, f"{end - size} bytes of the last fragment are missing")
    file.seek(start + 8)
    table = file.read(min(offsets[1] - start - 8, 8))
    file.seek(start)
    return (offsets[1] + 8, length) if count == 2 and table in (b"", bytes(4)) else None
