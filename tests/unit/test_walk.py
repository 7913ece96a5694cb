"""The fast header reader gives the rows and pixels of pydicom, or leaves the file to it."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import ct_image, save
from dicom_mutations import mutate
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless

from preprocess.dicom import header, pixel_header, walk
from preprocess.dicom.image_file import ImageFile
from preprocess.dicom.sources import Source
from preprocess.reasons import Rejection

DATA = Path(__file__).parents[1] / "data" / "ge_head_tilt18"
SEED = 16
MUTANTS = 1000


class Reader:
    """Reads headers, and counts those that the fast reader accepted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken = 0
        self.walks = True
        for module in (header, pixel_header):
            monkeypatch.setattr(module, "walked", self._walked)

    def _walked(self, *given: Any) -> walk.Walked | None:
        actual = walk.walked(*given) if self.walks else None
        self.taken += actual is not None
        return actual

    def rows(self, data: bytes, walks: bool = True) -> str:
        """The result as text that distinguishes NaN, floats and integers."""
        self.walks = walks
        try:
            return repr(header.read_header(BytesIO(data), Source(Path("file"), len(data), 0)))
        except Rejection as rejection:
            return repr((rejection.reason, rejection.detail))

    def pixels(self, data: bytes, walks: bool = True) -> str:
        """The same for pixels and their conversion attributes."""
        self.walks = walks
        try:
            image = ImageFile(BytesIO(data), len(data))
            stored, allocated, _ = image.stored(0)
            return repr((image.attributes(0), stored.dtype, stored.tobytes(), allocated.tobytes()))
        except Exception as error:  # any of pydicom's
            return repr((type(error), getattr(error, "reason", None), getattr(error, "detail", None)))

    def both(self, data: bytes) -> bool:
        """Whether the fast reader accepted the file; fails if pydicom reads it differently."""
        before = self.taken
        assert self.rows(data) == self.rows(data, walks=False)
        taken = self.taken > before
        with warnings.catch_warnings(), config.disable_value_validation():  # as in the reader
            warnings.simplefilter("ignore")
            assert self.pixels(data) == self.pixels(data, walks=False)
        return taken


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    return Reader(monkeypatch)


def item(**attributes: object) -> Dataset:
    made = Dataset()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def full(**changes: object) -> pydicom.FileDataset:
    """An image with all kinds of elements: sequences of both lengths, private blocks, another charset."""
    inner = item(CodeValue="1", CodeMeaning="Kopf", ContrastBolusAgentSequence=[item(CodeMeaning="none")])
    attributes = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SeriesDescription": "Schädel nativ",
        "ReferencedImageSequence": [item(ReferencedSOPInstanceUID="1.2"), inner, item()],
        "RequestAttributesSequence": [],
        "AnatomicRegionSequence": [item(CodeMeaning="Head")],
        "StudyDescription": "",
    }
    data = ct_image(np.zeros((4, 4), np.int16), **(attributes | changes))
    for name in ("ReferencedImageSequence", "RequestAttributesSequence"):
        if name in data:
            data[name].is_undefined_length = True
            for number, one in enumerate(data[name].value):
                one.is_undefined_length_sequence_item = number != 1
    block = data.private_block(0x0029, "FMCT", create=True)
    block.add_new(1, "OB", bytes(3 * walk.WINDOW))
    block.add_new(2, "SQ", [item(CodeMeaning="private")])
    return data


def written(data: pydicom.FileDataset, folder: Path) -> bytes:
    return save(data, folder / "file").read_bytes()


def test_a_common_header_is_walked(reader: Reader, tmp_path: Path) -> None:
    assert reader.both(written(full(), tmp_path))
    for path in sorted(DATA.glob("*.dcm")):
        assert reader.both(path.read_bytes()), path.name


def test_a_deflated_header_is_walked(reader: Reader, tmp_path: Path) -> None:
    """The fast reader accepts an undamaged header, and agrees with pydicom on damaged ones."""
    data = full()
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    whole = written(data, tmp_path)
    assert reader.both(whole)
    length = whole[140:144]
    assert not reader.both(whole[:140] + bytes([length[0] + 2]) + whole[141:])
    for number in range(200):
        mutant, way = mutate(whole, SEED, number)
        try:
            reader.both(mutant)
        except AssertionError:
            pytest.fail(f"mutant {number} ({way})")


def test_ambiguous_headers_are_left_to_pydicom(reader: Reader, tmp_path: Path) -> None:
    deep = item(CodeMeaning="end")
    for _ in range(walk.MAX_DEPTH + 1):
        deep = item(ReferencedImageSequence=[deep])
        deep["ReferencedImageSequence"].is_undefined_length = True
    long = full(SeriesDescription=None)
    long.add_new(0x0008103E, "UT", "x" * (walk.MAX_VALUE + 2))
    implicit = full()
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    implicit.set_original_encoding(True, True)
    named = full()
    named["AnatomicRegionSequence"].is_undefined_length = True
    many = full(ReferencedImageSequence=[item(CodeValue=str(n)) for n in range(walk.MAX_ELEMENTS // 2)])
    odd = [full(ReferencedImageSequence=[deep]), long, implicit, named, many]
    for data in odd:
        assert not reader.both(written(data, tmp_path))
    compressed = full()
    compressed.file_meta.TransferSyntaxUID = JPEGLSLossless
    whole = written(full(), tmp_path)
    # All but Implicit, Big Endian and Deflated are explicit little endian (PS3.5 annex A).
    assert reader.both(whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4\0"))
    for cut in (200, 700, len(whole) - 3 * walk.WINDOW):
        assert not reader.both(whole[:cut])


def test_damaged_headers_give_the_same_rows_or_refusals(reader: Reader, tmp_path: Path) -> None:
    small = full()
    del small[0x00291001]
    bases = [written(small, tmp_path), (DATA / "01.dcm").read_bytes()[:6000], written(full(), tmp_path)]
    for number in range(MUTANTS):
        data, way = mutate(bases[number % len(bases)], SEED, number)
        try:
            reader.both(data)
        except AssertionError:
            pytest.fail(f"mutant {number} ({way})")
    assert reader.taken > MUTANTS // 4


def test_flipped_bits_in_sequences_give_the_same_rows(reader: Reader, tmp_path: Path) -> None:
    """Each bit that the fast reader skips: heads, lengths and delimiters of items."""
    small = full()
    del small[0x00291001]
    data = written(small, tmp_path)
    first = data.index(b"\x08\0\x40\x11SQ")
    last = data.index(b"\x18\0", first + 8)
    random = np.random.Generator(np.random.Philox(key=[SEED, 0]))
    for bit in random.permutation(8 * (last - first))[:1200]:
        mutant = bytearray(data)
        mutant[first + bit // 8] ^= 1 << int(bit % 8)
        reader.both(bytes(mutant))
    assert reader.taken > 100
