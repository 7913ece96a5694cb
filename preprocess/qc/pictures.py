"""Thumbnails of data that is not stored, made by tasks for the QC report."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preprocess.anatomy.objects import DENSE_HU
from preprocess.qc.thumbnail import SHAPE, thumbnail
from shards.atomic import atomic_path

SCHEMA = pa.schema(
    [("key", pa.string()), ("kind", pa.string()), ("note", pa.string()), ("pixels", pa.binary())]
)
PER_TASK = 12
"""Images of a kind that a task keeps: enough to see what went wrong, a few hundred KiB."""

Kind = Literal["rejected", "before", "after"]


@dataclass(frozen=True)
class Picture:
    """One thumbnail."""

    key: str
    """The series' pseudonym."""
    kind: Kind
    """`rejected`: built, and sent to the quarantine by the checks; `before` and `after` defacing."""
    note: str
    """Its caption: a reason."""
    pixels: bytes
    """uint8 `thumbnail.SHAPE` in C order."""

    @property
    def array(self) -> np.ndarray:
        """uint8 `thumbnail.SHAPE`."""
        return np.frombuffer(self.pixels, np.uint8).reshape(SHAPE)


def of(
    key: str,
    kind: Kind,
    note: str,
    voxels: np.ndarray,
    spacing_mm: tuple[float, float, float],
    window_hu: tuple[float, float],
) -> Picture:
    """The image of a volume, int16 HU (D, H, W), in a window of that level and width."""
    return Picture(key, kind, note, thumbnail(voxels, spacing_mm, window_hu=window_hu).tobytes())


def before_and_after(
    key: str,
    before: np.ndarray,
    after: np.ndarray,
    spacing_mm: tuple[float, float, float],
    window_hu: tuple[float, float],
) -> list[Picture]:
    """Two images through the position where most was blanked, of int16 HU (D, H, W)."""
    blanked = (before != after) & (before > DENSE_HU)
    counts = [blanked.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    at = (int(counts[0].argmax()), int(counts[1].argmax()), int(counts[2].argmax()))
    note = f"{int(blanked.sum() * np.prod(spacing_mm) / 1000)} ml blanked"
    kinds: list[tuple[Kind, np.ndarray]] = [("before", before), ("after", after)]
    return [
        Picture(key, kind, note, thumbnail(voxels, spacing_mm, at, window_hu).tobytes())
        for kind, voxels in kinds
    ]


def write(pictures: Iterable[Picture], path: Path) -> None:
    """Write images atomically as Parquet, the first `PER_TASK` of each kind; same input, same bytes."""
    kept: list[Picture] = []
    for picture in pictures:
        if sum(one.kind == picture.kind for one in kept) < PER_TASK:
            kept.append(picture)
    table = pa.Table.from_pylist([asdict(picture) for picture in kept], schema=SCHEMA)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read(path: Path) -> list[Picture]:
    """The images of a task."""
    return [Picture(**row) for row in pq.read_table(path).to_pylist()]
