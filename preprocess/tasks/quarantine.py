"""The quarantine: one row per series that did not become a volume, with the typed reason."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from preprocess.reasons import Reason, Stage
from shards.atomic import atomic_path

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("patient_key", pa.string()),
        ("study_key", pa.string()),
        ("scanner", pa.string()),
        ("reason", pa.string()),
        ("stage", pa.string()),
        ("detail", pa.string()),
    ]
)
"""The fields of `Entry`."""


@dataclass(frozen=True)
class Entry:
    """Why a series did not become a volume; contains pseudonyms and numbers, no text of the source."""

    key: str
    patient_key: str
    study_key: str
    scanner: str
    """Vendor and product line (preprocess.dicom.equipment)."""
    reason: Reason
    stage: Stage
    """Rejected by its headers, or when its pixels were read."""
    detail: str
    """One line: the numbers of the reason, or the exception's class for internal_error."""


def table(entries: Iterable[Entry]) -> pa.Table:
    """The entries as a table of `SCHEMA`."""
    return pa.Table.from_pylist([asdict(entry) for entry in entries], schema=SCHEMA)


def write(rows: pa.Table, path: Path) -> None:
    """Write a table of `SCHEMA` atomically as Parquet; the same table gives the same bytes."""
    with atomic_path(path) as temporary:
        pq.write_table(rows, temporary, compression="zstd")
