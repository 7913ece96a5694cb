"""The text header of a NRRD or MetaImage file, checked against the file's contents.

NRRD: teem.sourceforge.net/nrrd/format.html, version 5; MetaImage: itk.org/Wiki/ITK/MetaIO/Documentation.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

from preprocess.reasons import Reason, Rejection
from preprocess.volume.given_file import file_status
from shards.errors import raise_refusal

_MAX_BYTES = 2**16
_PIECE = 2**20
_EITHER_CONTAINER = 32 + zlib.MAX_WBITS
"""For zlib: detect gzip (NRRD) or zlib (MetaImage) by the start of the stream."""


@dataclass(frozen=True)
class TextHeader:
    """The fields of a header, and the location of the values."""

    fields: dict[str, str]
    """By lower-case name without blanks."""
    data: Path
    """The file of the values: the file itself, or one beside it."""
    offset: int
    """Offset of the values in `data`."""
    packed: bool
    """Whether they are one gzip or zlib stream."""

    @property
    def data_bytes(self) -> int:
        """Number of bytes of the stored values."""
        return self.data.stat().st_size - self.offset

    def require_whole(self, needed: int) -> None:
        """Raise Rejection(truncated_pixel_data) unless the values are `needed` bytes and pass their checksum.

        Raises zlib.error for an invalid stream.
        """
        if not self.packed:
            if self.data_bytes < needed:
                raise _truncated(f"{self.data_bytes} bytes of values, {needed} declared")
            return
        inflating, size = zlib.decompressobj(_EITHER_CONTAINER), 0
        with self.data.open("rb") as file:
            file.seek(self.offset)
            while not inflating.eof and (piece := file.read(_PIECE)):
                while piece and size <= needed:
                    size += len(inflating.decompress(piece, _PIECE))
                    piece = inflating.unconsumed_tail
        if not inflating.eof or size != needed:
            raise _truncated(f"{size} bytes of values before the stream ends or breaks, {needed} declared")


def _truncated(detail: str) -> Rejection:
    return Rejection(Reason.TRUNCATED_PIXEL_DATA, f"{detail}; copy it again")


def read_nrrd(path: Path) -> TextHeader:
    """The header of a NRRD file; raises Rejection if it is not NRRD or uses unsupported features."""
    text = _start(path)
    if not text.startswith(b"NRRD000"):
        raise Rejection(Reason.BROKEN_HEADER, "does not start like NRRD")
    head, blank, _ = text.replace(b"\r\n", b"\n").partition(b"\n\n")
    fields = _fields(head, b":")
    name = fields.get("datafile", "")
    if not name and not blank:
        raise Rejection(Reason.BROKEN_HEADER, "no end of the header")
    encoding = fields.get("encoding", "").lower()
    skips = {fields.get("lineskip", "0"), fields.get("byteskip", "0")} - {"0"}
    if encoding not in ("raw", "gzip", "gz") or skips:
        raise Rejection(
            Reason.UNSUPPORTED_FORMAT,
            "encoding: neither raw nor gzip, or lines or bytes skipped; save it again",
        )
    place = text.find(b"\n\n") + 2 if b"\n\n" in text else text.find(b"\r\n\r\n") + 4
    return TextHeader(fields, _values_path(path, name), 0 if name else place, encoding != "raw")


def read_metaimage(path: Path) -> TextHeader:
    """The header of a MetaImage file; raises Rejection if it is invalid or uses unsupported features."""
    text = _start(path)
    begin = text.find(b"ElementDataFile")
    end = text.find(b"\n", begin)
    if begin < 0 or (end < 0 and len(text) == _MAX_BYTES):
        raise Rejection(Reason.BROKEN_HEADER, "no ElementDataFile at the end of the MetaImage header")
    end = len(text) if end < 0 else end + 1
    fields = _fields(text[:end], b"=")
    if fields.get("binarydata", "true").lower() != "true" or fields.get("headersize", "0") != "0":
        raise Rejection(
            Reason.UNSUPPORTED_FORMAT, "BinaryData or HeaderSize: values as text, or bytes skipped"
        )
    name = fields["elementdatafile"]
    local = name.upper() == "LOCAL"
    packed = fields.get("compresseddata", "false").lower() == "true"
    return TextHeader(fields, path if local else _values_path(path, name), end if local else 0, packed)


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise_refusal(error, path)
        raise Rejection(Reason.MISSING_FILE, "no such file") from None


def _fields(text: bytes, between: bytes) -> dict[str, str]:
    lines = (line.partition(between) for line in text.splitlines() if not line.startswith(b"#"))
    return {
        name.decode("latin-1").replace(" ", "").lower(): value.decode("latin-1").strip()
        for name, there, value in lines
        if there
    }


def _values_path(path: Path, name: str) -> Path:
    """The file of the values: this one, or one in the same folder; a header cannot point elsewhere."""
    if not name:
        return path
    name = name.removeprefix("./")
    data = path.with_name(name) if "/" not in name and name not in (".", "..") and "\0" not in name else None
    if data is None or "%" in name or " " in name or name.upper() == "LIST":
        raise Rejection(
            Reason.UNSUPPORTED_FORMAT,
            "its values are not in a single file of the same folder; save it as one file",
        )
    try:
        file_status(data)
    except Rejection as rejection:
        raise Rejection(rejection.reason, f"the file with its values: {rejection.detail}") from None
    return data
