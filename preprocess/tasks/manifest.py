"""The manifest: one row per volume, with its measures, left-out slices and joined series."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from preprocess.anatomy.profile import VOXELS_SHOW, Anatomy
from preprocess.config import CheckConfig
from preprocess.qc.check import findings
from preprocess.reasons import Reason
from preprocess.volume.measure import Measures
from shards import index
from shards.schema import OF_STUDY, VolumeRecord
from shards.voxels import Extent


class JoinedPart(NamedTuple):
    """One of the joined series of a volume (preprocess.select.join), with the range of its slices."""

    key: str
    """The series' pseudonym; that of the first part is the volume's."""
    slices: int
    low_mm: float
    """Projection of its first slice's position on the slice normal, LPS mm."""
    high_mm: float
    """The same for its last slice."""


_PART = pa.struct(
    [("key", pa.string()), ("slices", pa.int32()), ("low_mm", pa.float64()), ("high_mm", pa.float64())]
)
MEASURES = tuple(Measures.model_fields)
SCHEMA = pa.schema(
    [
        *(field for field in index.SCHEMA if field.name not in Extent._fields),
        pa.field("scanner", pa.string()),
        pa.field("shifted_study_date", pa.date32()),
        pa.field("dropped", pa.map_(pa.string(), pa.int32())),
        pa.field("joined", pa.list_(_PART)),
        pa.field("flags", pa.list_(pa.string())),
        *(pa.field(name, pa.float64()) for name in MEASURES),
    ]
)
"""The columns of a shard index except the place in the file; vendor and product line; the study date moved by
the patient's shift (null unless configured); left-out slices by reason; the parts of a joined volume along
the slice normal; findings of the checks; and `preprocess.volume.measure.Measures`."""
STUDY_SCHEMA = pa.schema([*SCHEMA, *(index.STUDY_SCHEMA.field(name) for name in OF_STUDY)])
"""`SCHEMA` if several volumes of a study are kept (`keep: all`)."""


def row(
    record: VolumeRecord,
    shard: str,
    scanner: str,
    shifted_study_date: date | None,
    dropped: Mapping[Reason, int],
    joined: Sequence[JoinedPart],
    flags: Sequence[str],
    measures: Measures,
) -> dict[str, Any]:
    """One row, from a volume's record, the name of its shard and the columns that only the manifest has."""
    return {
        **index.to_row(record, shard, Extent(0, 0)),
        "scanner": scanner,
        "shifted_study_date": shifted_study_date,
        "dropped": [(reason, dropped[reason]) for reason in Reason if dropped.get(reason)],
        "joined": [part._asdict() for part in joined],
        "flags": list(flags),
        **measures.model_dump(),
    }


def marked(volumes: pa.Table, config: CheckConfig, anatomy: Anatomy) -> pa.Table:
    """`volumes` with flags recomputed from the measures by the limits of `config`.

    So a changed limit does not require making the volumes again. Findings from voxels are kept, and a measure
    that an earlier version did not store is null.
    """
    for number, field in enumerate(SCHEMA):
        if field.name in MEASURES and field.name not in volumes.column_names:  # of an earlier version's tasks
            volumes = volumes.add_column(number, field, pa.nulls(len(volumes), field.type))
    columns = volumes.select(["affine", "flags", *MEASURES])
    flags = [_flags(row, config, anatomy) for row in index.rows(columns)]
    field = volumes.schema.field("flags")
    return volumes.set_column(SCHEMA.get_field_index("flags"), field, pa.array(flags, field.type))


def _flags(row: dict[str, Any], config: CheckConfig, anatomy: Anatomy) -> list[str]:
    measures = Measures(**{name: row[name] for name in MEASURES})
    seen = {reason: "" for reason in VOXELS_SHOW if reason in row["flags"]}
    problems = findings(measures, np.reshape(row["affine"], (4, 4)), config, anatomy, seen)
    return [finding.reason for finding in problems]


def table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows as a table of `SCHEMA`, or of `STUDY_SCHEMA` if any row has a role within its study."""
    table_rows = list(rows)
    of_study = any(name in row for row in table_rows for name in OF_STUDY)
    return pa.Table.from_pylist(table_rows, schema=STUDY_SCHEMA if of_study else SCHEMA)


def write(rows: pa.Table, path: Path) -> None:
    """Write a table of `SCHEMA` atomically as Parquet; the same table gives the same bytes."""
    index.write(rows, path)
