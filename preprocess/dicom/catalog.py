"""The catalog: the result of a scan, with header facts in one row per series.

It holds raw identifiers and paths, so only its owner can read the file (mode 0600).
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preprocess.dicom.sources import Source
from shards.errors import FmctError

T = TypeVar("T")

SeriesKey = tuple[str, str, str]
"""Patient ID, Study and Series Instance UID."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Text attributes of an image; most images of a series have the same."""

    manufacturer: str = ""  # (0008,0070)
    model: str = ""  # (0008,1090)
    study_date: str = ""  # (0008,0020)
    study_description: str = ""  # (0008,1030)
    series_description: str = ""  # (0008,103E)
    protocol: str = ""  # Protocol Name (0018,1030)
    body_part: str = ""  # (0018,0015)
    patient_position: str = ""  # (0018,5100)
    contrast: str = ""  # Contrast/Bolus Agent (0018,0010)
    contrast_ingredient: str = ""  # (0018,1048)
    contrast_route: str = ""  # (0018,1040)
    contrast_volume: float | None = None  # (0018,1041), ml


@dataclass(frozen=True, slots=True)
class Instance:
    """One image, a DICOM object or a frame of one: the header facts for selection and geometry.

    DICOM tags are in brackets; the facts of a frame are from its functional groups.
    """

    path: Path  # of the file, or of the archive that holds it
    size: int  # bytes of the object, unpacked
    mtime_ns: int  # of the file at `path`
    sop_uid: str  # SOP Instance UID (0008,0018)
    sop_class: str  # SOP Class UID (0008,0016)
    modality: str  # (0008,0060)
    frame_of_reference_uid: str  # (0020,0052)
    transfer_syntax: str  # Transfer Syntax UID (0002,0010)
    image_type: tuple[str, ...]  # (0008,0008)
    acquisition_number: int | None  # (0020,0012)
    instance_number: int | None  # (0020,0013)
    kernel: str  # Convolution Kernel (0018,1210)
    kvp: float | None  # (0018,0060), kV
    frames: int  # Number of Frames (0028,0008), 1 where absent
    samples: int | None  # Samples per Pixel (0028,0002); absent without pixels
    rows: int | None  # (0028,0010)
    columns: int | None  # (0028,0011)
    # In the next three, None is missing and () malformed.
    position: tuple[float, ...] | None  # Image Position (Patient) (0020,0032), LPS mm
    orientation: tuple[float, ...] | None  # Image Orientation (Patient) (0020,0037)
    pixel_spacing: tuple[float, ...] | None  # (0028,0030), row then column distance, mm
    thickness: float | None  # Slice Thickness (0018,0050), mm
    tilt: float | None  # Gantry/Detector Tilt (0018,1120), degrees; the sign differs by vendor
    texts: Texts
    frame: int = 0  # its number in the file, from 0; a file whose frames have no position is one instance
    member: str = ""  # name in the archive; this and the next two as in `Source`
    offset: int = 0
    archive_size: int = 0
    sha256: str = ""  # of its bytes if another object has its SOP Instance UID, else empty

    @property
    def source(self) -> Source:
        """The location of its bytes."""
        return Source(self.path, self.size, self.mtime_ns, self.member, self.offset, self.archive_size)


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a patient's study."""

    patient_id: str  # (0010,0020)
    study_uid: str  # (0020,000D)
    series_uid: str  # (0020,000E)
    instances: tuple[Instance, ...]

    @property
    def key(self) -> SeriesKey:
        """Its unique key within a catalog."""
        return self.patient_id, self.study_uid, self.series_uid

    @property
    def texts(self) -> Texts:
        """The most frequent texts of the instances, or of the CT images if there are any."""
        images = [i for i in self.instances if i.modality == "CT"]
        return commonest(i.texts for i in images or self.instances)

    @property
    def modality(self) -> str:
        """The most frequent Modality of the instances: careless exports mix modalities under one UID."""
        return str(commonest(i.modality for i in self.instances))

    @property
    def frame_of_reference_uid(self) -> str:
        """The most frequent Frame of Reference UID of the instances."""
        return str(commonest(i.frame_of_reference_uid for i in self.instances))

    @property
    def kernel(self) -> str:
        """The most frequent Convolution Kernel of the instances."""
        return str(commonest(i.kernel for i in self.instances))

    @property
    def kvp(self) -> float | None:
        """The most frequent KVP of the instances, kV."""
        return commonest(i.kvp for i in self.instances)

    @property
    def image_type(self) -> tuple[str, ...]:
        """The most frequent Image Type of the instances."""
        return tuple(commonest(i.image_type for i in self.instances))

    @property
    def bytes(self) -> int:
        """Size of the series' objects."""
        return sum(source.size for source in {i.source for i in self.instances})

    @property
    def repeated_sop_uids(self) -> int:
        """Number of images whose SOP Instance UID (and frame) another image of the series already has."""
        return len(self.instances) - len({(i.sop_uid, i.frame) for i in self.instances})


def texts_of(images: Iterable[Instance]) -> list[Texts]:
    """The distinct texts of images, in order of first occurrence."""
    return list(dict.fromkeys(image.texts for image in images))


def commonest(values: Iterable[T]) -> T:
    """The most frequent value; of several, the one whose text sorts last."""
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    return max(counts, key=lambda value: (counts[value], str(value)))


SERIES_KEY = tuple(f.name for f in fields(Series) if f.name != "instances")
TEXT_COLUMNS = tuple(f.name for f in fields(Texts))


def read_catalog(path: Path) -> list[Series]:
    """All series of a catalog, in its order.

    Raises FmctError if the file is missing or is not a catalog.
    """
    return _series(_open(path).read())


def read_rows(path: Path, rows: Sequence[int]) -> list[Series]:
    """The series at the given row numbers, in that order; decodes only their row groups.

    Raises FmctError as `read_catalog` does, and if a row is beyond the catalog's end.
    """
    file = _open(path)
    sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    if any(not 0 <= row < starts[-1] for row in rows):
        raise FmctError(f"{path}: the catalog has only {starts[-1]} series; scan again")
    series: dict[int, Series] = {}
    for group in sorted({int(np.searchsorted(starts, row, "right")) - 1 for row in rows}):
        table = file.read_row_group(group)
        wanted = [row for row in rows if starts[group] <= row < starts[group + 1]]
        series_read = _series(table.take([row - int(starts[group]) for row in wanted]))
        series.update(zip(wanted, series_read, strict=True))
    return [series[row] for row in rows]


def read_groups(path: Path) -> Iterator[list[Series]]:
    """All series of a catalog, sorted by (patient, study, series), one row group at a time.

    Raises FmctError as `read_catalog` does.
    """
    file = _open(path)
    return (_series(file.read_row_group(group)) for group in range(file.num_row_groups))


def read_images(path: Path) -> Iterator[tuple[str, pa.Array]]:
    """Study Instance UID and the images' SOP Instance UIDs of each series; reads only these columns.

    Raises FmctError as `read_catalog` does.
    """
    file = _open(path)
    sop_uids = [column.path for column in file.schema if column.path.endswith(".sop_uid")]
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=["study_uid", *sop_uids])
        for study, images in zip(table["study_uid"].to_pylist(), table["instances"], strict=True):
            yield study, images.values.field("sop_uid")


def read_studies(path: Path) -> set[tuple[str, str]]:
    """Patient ID and Study Instance UID of each study; FmctError as `read_catalog` does."""
    table = _open(path).read(columns=["patient_id", "study_uid"])
    return set(zip(table["patient_id"].to_pylist(), table["study_uid"].to_pylist(), strict=True))


def _open(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise FmctError(f"{path}: no such catalog; make it with `fmct scan EXPORT --catalog {path}`")
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid:
        raise FmctError(f"{path}: not a Parquet file; make the catalog again with `fmct scan`") from None
    if not _is_catalog(file.schema_arrow):
        raise FmctError(f"{path}: not a catalog of this version; make it again with `fmct scan`")
    return file


_INSTANCE_COLUMNS = {field.name for field in fields(Instance)} - {"texts"}
_FIRST_TEXTS = frozenset(
    (
        *("manufacturer", "model", "study_date", "study_description", "series_description", "protocol"),
        *("body_part", "patient_position", "contrast"),
    )
)
"""Columns that catalogs of 0.1.0 have for one image of each series."""


def _is_catalog(schema: pa.Schema) -> bool:
    names = {*schema.names} - {*SERIES_KEY}
    if len(names) + len(SERIES_KEY) != len(schema.names) or "instances" not in names:
        return False
    instance = {field.name for field in schema.field("instances").type.value_type}
    if names == _FIRST_TEXTS | {"instances"}:
        return instance == _INSTANCE_COLUMNS
    return names == {"texts", "instances"} and instance == {*_INSTANCE_COLUMNS, "text"}


def _series(table: pa.Table) -> list[Series]:
    return list(map(_one_series, table.to_pylist()))


def _one_series(row: dict[str, Any]) -> Series:
    key = {name: row.pop(name) for name in SERIES_KEY}
    instances, stored_texts = row.pop("instances"), row.pop("texts", None) or [row]
    texts = [Texts(**one) for one in stored_texts]
    return Series(**key, instances=tuple(_instance(one, texts) for one in instances))


_TUPLES = ("image_type", "position", "orientation", "pixel_spacing")


def _instance(row: dict[str, Any], texts: Sequence[Texts]) -> Instance:
    row["path"] = Path(os.fsdecode(row["path"]))
    row["member"] = os.fsdecode(row["member"]) if row["member"] else ""
    for name in _TUPLES:
        if row[name] is not None:
            row[name] = tuple(row[name])
    row["texts"] = texts[row.pop("text", 0)]
    return Instance(**row)
