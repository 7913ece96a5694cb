"""The index: an Arrow table of one row per volume; stored as Parquet beside each shard and per dataset."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shards.atomic import atomic_path
from shards.errors import FmctError, raise_refusal
from shards.format_names import ShardFormat
from shards.info import ShardInfo
from shards.names import all_keys, inside
from shards.schema import FORMAT_VERSION, OF_STUDY, DecodeFacts, VolumeRecord
from shards.table_file import read_table
from shards.voxels import Extent

SIDECAR_SUFFIX = ".index.parquet"

_SHARD, _FORMAT = b"fmct.shard", b"fmct.format"
_ROW_GROUP = 65_536
"""Rows per row group: reading a large index takes a sixth less memory than with one group."""
_AT_A_TIME = 1024
KEYS = ("key", "patient_key", "study_key")
"""Columns of pseudonyms."""
_REPEATED = pa.dictionary(pa.int32(), pa.string())

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("patient_key", pa.string()),
        ("study_key", pa.string()),
        ("shape", pa.list_(pa.int32(), 3)),
        ("dtype", _REPEATED),
        ("spacing_mm", pa.list_(pa.float64(), 3)),
        ("affine", pa.list_(pa.float64(), 16)),
        ("crc32", pa.uint32()),
        ("source_digest", pa.string()),
        ("config_digest", _REPEATED),
        ("kernel_class", _REPEATED),
        ("kvp", pa.float64()),
        ("slice_thickness_mm", pa.float64()),
        ("gantry_tilt_deg", pa.float64()),
        ("slices", pa.int32()),
        ("slice_gap_mm", pa.list_(pa.float64(), 2)),
        ("matrix", pa.list_(pa.int32(), 2)),
        ("pixel_spacing_mm", pa.list_(pa.float64(), 2)),
        ("manufacturer", _REPEATED),
        ("transfer_syntax", _REPEATED),
        ("defaced", pa.bool_()),
        ("shard", _REPEATED),
        ("offset", pa.int64()),
        ("length", pa.int64()),
    ]
)
"""VolumeRecord and its DecodeFacts, flattened, then the shard's name and the Extent of the voxels in it."""
STUDY_SCHEMA = pa.schema([*SCHEMA, ("role", _REPEATED), ("rank", pa.int32())])
"""`SCHEMA` for datasets that keep several volumes per study; null in rows of earlier versions."""
_REQUIRED = tuple(name for name in SCHEMA.names if name not in ("kvp", "slice_thickness_mm"))
"""Columns that hold a value for every volume."""
_LISTS = tuple(field.name for field in SCHEMA if pa.types.is_fixed_size_list(field.type))


def to_row(record: VolumeRecord, shard: str, extent: Extent) -> dict[str, Any]:
    """One row of the index."""
    row = record.model_dump()
    return {**row.pop("facts"), **row, "shard": shard, **extent._asdict()}


def to_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a table of `SCHEMA`, or of `STUDY_SCHEMA` if any row has a role within its study."""
    of_study = any(name in row for row in rows for name in OF_STUDY)
    return pa.Table.from_pylist(rows, schema=STUDY_SCHEMA if of_study else SCHEMA)


def to_record(row: dict[str, Any]) -> VolumeRecord:
    """The record in a row of the index."""
    fields: dict[str, Any] = {name: row.get(name) for name in VolumeRecord.model_fields if name != "facts"}
    facts = {name: row[name] for name in DecodeFacts.model_fields}
    return VolumeRecord(**fields, facts=DecodeFacts(**facts))


def merge(tables: Iterable[pa.Table]) -> pa.Table:
    """Concatenate tables; columns that a table lacks are null in its rows."""
    joined = pa.concat_tables(tables, promote_options="default")
    return joined.unify_dictionaries().combine_chunks()


def write(table: pa.Table, path: Path) -> None:
    """Write Parquet atomically; the same table gives the same bytes."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=_ROW_GROUP)


def read(path: Path) -> pa.Table:
    """Read what `write` wrote; raises OSError or pyarrow.ArrowException on anything else."""
    table = read_table(path)
    if not (table.schema.equals(SCHEMA) or table.schema.equals(STUDY_SCHEMA)):
        raise pa.ArrowInvalid("its columns are not those of a shard index")
    incomplete = any(table[name].null_count for name in _REQUIRED)
    if incomplete or any(pc.list_flatten(table[name]).null_count for name in _LISTS):
        raise pa.ArrowInvalid("a required value is missing")
    if not all(all_keys(table[name]) for name in KEYS):
        raise pa.ArrowInvalid("a key is not 32 hexadecimal digits")
    return table


def rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows as Python values, few at a time: those of a large table do not fit in a processor's cache."""
    for batch in table.to_batches(max_chunksize=_AT_A_TIME):
        yield from batch.to_pylist()


def numbers(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A numeric column without nulls as NumPy, of the same type; read-only if it is one chunk.

    Arrow's own `to_numpy` imports pandas if installed, which takes longer than opening a dataset.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    assert not array.null_count, "a column with nulls"
    dtype = np.dtype(array.type.to_pandas_dtype())
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def sidecar_path(directory: Path, shard: str) -> Path:
    """The path of the index of shard `shard`; FmctError if that is not a plain file name."""
    return inside(directory, shard + SIDECAR_SUFFIX)


def write_sidecar(table: pa.Table, shard: ShardInfo, format: ShardFormat, path: Path) -> None:
    """Write the rows of one shard, with its ShardInfo in the Parquet metadata."""
    metadata = {_SHARD: shard.model_dump_json(), _FORMAT: f"{format} {FORMAT_VERSION}"}
    write(table.replace_schema_metadata(metadata), path)


def read_sidecar(path: Path, format: ShardFormat) -> tuple[pa.Table, ShardInfo]:
    """The rows and the ShardInfo of one shard; FmctError if missing, damaged or of another format.

    RefusedError if the system cannot read the file.
    """
    remedy = "rerun `fmct preprocess` for this shard"
    try:
        table = read(path)
        metadata = table.schema.metadata
        shard = ShardInfo.model_validate_json(metadata[_SHARD])
        version, expected = metadata[_FORMAT].decode(), f"{format} {FORMAT_VERSION}"
    except FileNotFoundError:
        raise FmctError(f"{path}: missing, so its shard is unfinished; {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise_refusal(error, path)
        raise FmctError(f"{path}: damaged; {remedy}") from None
    if path.name != shard.name + SIDECAR_SUFFIX or pc.any(pc.not_equal(table["shard"], shard.name)).as_py():
        raise FmctError(f"{path} describes another shard, {shard.name}; {remedy}")
    if version != expected:
        raise FmctError(f"{path}: has format {version}, expected {expected}; {remedy}")
    return table.replace_schema_metadata(), shard
