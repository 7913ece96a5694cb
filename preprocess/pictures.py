"""Thumbnails that only a task can make, kept for the QC report: of what is not stored."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preprocess.thumbnail import SHAPE
from shards.atomic import atomic_path

SCHEMA = pa.schema(
    [("key", pa.string()), ("kind", pa.string()), ("note", pa.string()), ("pixels", pa.binary())]
)
PER_TASK = 12
"""Pictures of a kind that a task keeps: enough to see what went wrong, some hundred KiB."""

Kind = Literal["rejected"]


@dataclass(frozen=True)
class Picture:
    """One thumbnail."""

    key: str
    """The series' pseudonym."""
    kind: Kind
    """`rejected`: built, and sent to the quarantine by the checks."""
    note: str
    """What to say of it: a reason."""
    pixels: bytes
    """uint8 `thumbnail.SHAPE` in C order."""

    @property
    def array(self) -> np.ndarray:
        """uint8 `thumbnail.SHAPE`."""
        return np.frombuffer(self.pixels, np.uint8).reshape(SHAPE)


def write(pictures: Iterable[Picture], path: Path) -> None:
    """Write pictures atomically as Parquet, the first `PER_TASK` of a kind; same input, same bytes."""
    kept: list[Picture] = []
    for picture in pictures:
        if sum(one.kind == picture.kind for one in kept) < PER_TASK:
            kept.append(picture)
    table = pa.Table.from_pylist([asdict(picture) for picture in kept], schema=SCHEMA)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read(path: Path) -> list[Picture]:
    """The pictures of a task."""
    return [Picture(**row) for row in pq.read_table(path).to_pylist()]
