"""The catalog as Parquet: conversion between rows of images and rows of series."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocess.dicom.catalog import SERIES_KEY, TEXT_COLUMNS
from shards.atomic import atomic_path

SCAN_VERSION = 4
"""Increase this when other data are read from the same file; all files are then read again."""
ROW_GROUP_SERIES, ROW_GROUP_INSTANCES = 512, 2**15
"""Most series and instances of a Parquet row group, which bounds the decoding for one row."""

# Lists' values are named as Parquet names them, so that a schema read back is equal.
_STRINGS, _FLOATS = (pa.list_(pa.field("element", kind)) for kind in (pa.string(), pa.float64()))

_KEY_TYPES = [(name, pa.string()) for name in SERIES_KEY]
_TEXT_TYPES = [(name, pa.float64() if name == "contrast_volume" else pa.string()) for name in TEXT_COLUMNS]
INSTANCE_TYPES: dict[str, pa.DataType] = {
    # A file name is bytes: archives contain names that are not UTF-8.
    "path": pa.binary(),
    "size": pa.int64(),
    "mtime_ns": pa.int64(),
    "sop_uid": pa.string(),
    "sop_class": pa.string(),
    "modality": pa.string(),
    "frame_of_reference_uid": pa.string(),
    "transfer_syntax": pa.string(),
    "image_type": _STRINGS,
    "acquisition_number": pa.int64(),
    "instance_number": pa.int64(),
    "kernel": pa.string(),
    "kvp": pa.float64(),
    "frames": pa.int64(),
    "samples": pa.int64(),
    "rows": pa.int64(),
    "columns": pa.int64(),
    "position": _FLOATS,
    "orientation": _FLOATS,
    "pixel_spacing": _FLOATS,
    "thickness": pa.float64(),
    "tilt": pa.float64(),
    "frame": pa.int64(),
    "member": pa.binary(),
    "offset": pa.int64(),
    "archive_size": pa.int64(),
    "sha256": pa.string(),
}
INSTANCE_TABLE = pa.schema(
    [*_KEY_TYPES, *_TEXT_TYPES, *INSTANCE_TYPES.items()],
    metadata={"fmct_scan_version": str(SCAN_VERSION)},
)
"""Rows collected by the scan: one flat row per image."""
SERIES_TABLE = pa.schema(
    [
        *_KEY_TYPES,
        ("texts", pa.list_(pa.field("element", pa.struct(_TEXT_TYPES)))),
        (
            "instances",
            pa.large_list(pa.field("element", pa.struct([*INSTANCE_TYPES.items(), ("text", pa.int64())]))),
        ),
    ],
    metadata=INSTANCE_TABLE.metadata,
)
"""The catalog: one row per series. `texts`: distinct texts of its images; `text`: the index of an image's."""


def series_table(instances: pa.Table) -> pa.Table:
    """Group `INSTANCE_TABLE` rows into the rows of `SERIES_TABLE`.

    Rows are sorted by (patient, study, series) and instances by (SOP Instance UID, path, offset, frame), so
    the result does not depend on the order of files. Patient and study are part of the group's key: a series
    UID shared by two patients (careless anonymisation) gives two series.
    """
    order = [(name, "ascending") for name in (*SERIES_KEY, "sop_uid", "path", "offset", "frame")]
    flat = instances.sort_by(order).combine_chunks()
    starts = _group_starts(flat)
    first, numbers = _distinct_texts(flat, starts)
    own_texts = np.searchsorted(first, starts)  # the first row of a series is the first with its texts
    numbers -= np.repeat(own_texts, np.diff(np.append(starts, len(flat))))
    texts = _struct(flat.take(pa.array(first)), SERIES_TABLE.field("texts").type.value_type)
    images = _struct(
        flat.append_column("text", pa.array(numbers)), SERIES_TABLE.field("instances").type.value_type
    )
    columns = [flat[name].take(pa.array(starts)) for name in SERIES_KEY]
    columns.append(
        pa.ListArray.from_arrays(
            pa.array(np.append(own_texts, len(first)), pa.int32()), texts, SERIES_TABLE.field("texts").type
        )
    )
    columns.append(
        pa.LargeListArray.from_arrays(
            pa.array(np.append(starts, len(flat)), pa.int64()), images, SERIES_TABLE.field("instances").type
        )
    )
    return pa.table(columns, schema=SERIES_TABLE)


def _struct(table: pa.Table, kind: pa.StructType) -> pa.StructArray:
    names = [field.name for field in kind]
    return pa.StructArray.from_arrays([table[name].combine_chunks() for name in names], names=names)


def _group_starts(flat: pa.Table, names: Iterable[str] = SERIES_KEY) -> np.ndarray:
    """Rows that differ from the previous row in one of these columns; int64."""
    changed = np.zeros(len(flat), bool)
    changed[:1] = True
    for name in names:
        column = pc.fill_null(pc.cast(flat[name], pa.string()), "")
        changed[1:] |= pc.not_equal(column[1:], column[:-1]).to_numpy()
    return np.flatnonzero(changed)


def _distinct_texts(flat: pa.Table, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first rows with distinct texts within a series, and for each row the index of its texts there."""
    runs = _group_starts(flat, (*SERIES_KEY, *TEXT_COLUMNS))
    distinct = flat.select(TEXT_COLUMNS).take(pa.array(runs))
    codes = np.searchsorted(starts, runs, "right")
    for name in TEXT_COLUMNS:
        column = distinct[name].combine_chunks().dictionary_encode("encode")
        if len(column.dictionary) > 1:
            both = codes * len(column.dictionary) + column.indices.to_numpy()
            codes = np.unique(both, return_inverse=True)[1]
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return runs[first[order]], np.repeat(rank[which], np.diff(np.append(runs, len(flat))))


def instance_table(series: pa.Table) -> pa.Table:
    """The `INSTANCE_TABLE` rows grouped by `series_table`, with those columns that are present."""
    nested = series["instances"].combine_chunks()
    instances, parents = pc.list_flatten(nested), pc.list_parent_indices(nested)
    keys = series.drop_columns([name for name in ("texts", "instances") if name in series.column_names])
    rows = keys.take(parents)
    arrays = dict(zip(rows.column_names, rows.columns, strict=True))
    if "texts" in series.column_names:
        texts = series["texts"].combine_chunks()
        sizes = pc.list_value_length(texts).to_numpy()
        places = (np.cumsum(sizes) - sizes)[parents.to_numpy()] + instances.field("text").to_numpy()
        own_texts = pc.list_flatten(texts).take(pa.array(places))
        arrays |= {field.name: own_texts.field(field.name) for field in own_texts.type}
    arrays |= {field.name: instances.field(field.name) for field in instances.type if field.name != "text"}
    return pa.table(
        arrays, pa.schema([INSTANCE_TABLE.field(name) for name in arrays], INSTANCE_TABLE.metadata)
    )


def parquet_columns(names: Iterable[str]) -> list[str]:
    """The Parquet columns of a catalog that hold these columns of `INSTANCE_TABLE`."""
    places: set[str] = set()
    for name in names:
        if name in TEXT_COLUMNS:
            places |= {f"texts.list.element.{name}", "instances.list.element.text"}
        else:
            places.add(name if name in SERIES_KEY else f"instances.list.element.{name}")
    return sorted(places)


class PrivateParquet:
    """Writes one Parquet file that only its owner can read (mode 0600), in fixed row groups.

    Its bytes depend only on the rows, not on how they are passed to `add`. Used as a context manager; the
    complete file appears when the context ends without an exception.
    """

    def __init__(self, path: Path, schema: pa.Schema, group_rows: int = ROW_GROUP_INSTANCES) -> None:
        self._path, self._pending, self._rows = path, schema.empty_table(), group_rows
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        temporary = self._stack.enter_context(atomic_path(self._path, 0o600))
        writer = pq.ParquetWriter(temporary, self._pending.schema, compression="zstd")
        self._writer = self._stack.enter_context(writer)
        self._stack.push(self._finish)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, table: pa.Table) -> None:
        """Append rows of the file's schema."""
        self._pending = pa.concat_tables([self._pending, table]).combine_chunks()
        while (rows := self._group_rows(self._pending)) < len(self._pending):
            self._write(rows)

    def _group_rows(self, pending: pa.Table) -> int:
        """The number of pending rows for the next row group; at least one."""
        return self._rows

    def _finish(self, kind: object, error: object, trace: object) -> None:
        if not error and len(self._pending):
            self._write(len(self._pending))

    def _write(self, rows: int) -> None:
        # Copied, so that the written bytes do not depend on the rows' offset in their table.
        group = self._pending.take(pa.array(np.arange(rows))).combine_chunks()
        self._writer.write_table(group, row_group_size=rows)
        self._pending = self._pending.slice(rows)


class CatalogWriter(PrivateParquet):
    """Writes a catalog."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, SERIES_TABLE)

    def add(self, table: pa.Table) -> None:
        """Append complete series of `INSTANCE_TABLE` rows that sort after those added before."""
        super().add(series_table(table))

    def _group_rows(self, pending: pa.Table) -> int:
        sizes = pc.list_value_length(pending["instances"]).to_numpy()
        within = int(np.searchsorted(np.cumsum(sizes), ROW_GROUP_INSTANCES, "right"))
        return min(max(within, 1), ROW_GROUP_SERIES)
