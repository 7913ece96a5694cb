"""The manifest: one row for each volume, with what was left out of it, whatever format it is stored in."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from shards import index
from shards.schema import VolumeRecord
from shards.voxels import Extent

_DROPPED = pa.field("dropped", pa.map_(pa.string(), pa.int32()))
SCHEMA = pa.schema([field for field in index.SCHEMA if field.name not in Extent._fields]).append(_DROPPED)
"""The columns of a shard index but for the place in the file, then slices left out, counted by reason."""


def row(record: VolumeRecord, shard: str, dropped: Mapping[str, int]) -> dict[str, Any]:
    """One row, from a volume's record, the name of its shard and its dropped slices."""
    return {**index.to_row(record, shard, Extent(0, 0)), "dropped": list(dropped.items())}


def table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows as a table of `SCHEMA`."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def write(rows: pa.Table, path: Path) -> None:
    """Write a table of `SCHEMA` atomically as Parquet; the same table gives the same bytes."""
    index.write(rows, path)
