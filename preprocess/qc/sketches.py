"""Storage of the volumes' sketches (preprocess.qc.similar) by tasks, and the similar volumes of an export."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocess.csv_file import write_csv
from preprocess.qc.similar import NUMBERS, similar_pairs
from shards.atomic import atomic_path

SCHEMA = pa.schema([("key", pa.string()), ("sketch", pa.list_(pa.float32(), NUMBERS))])
PAIRS = pa.schema([("key", pa.string()), ("other_key", pa.string()), ("correlation", pa.float64())])


def write(sketches: dict[str, np.ndarray], path: Path) -> None:
    """Write sketches by volume key, atomically as Parquet."""
    numbers = pa.FixedSizeListArray.from_arrays(
        pa.array(np.concatenate([*sketches.values(), np.empty(0, np.float32)])), NUMBERS
    )
    with atomic_path(path) as temporary:
        pq.write_table(pa.table([pa.array(list(sketches), pa.string()), numbers], SCHEMA), temporary)


def pairs_of(paths: Iterable[Path], volumes: pa.Table) -> pa.Table:
    """Pairs (`PAIRS`) of volumes of different patients that show the same head, most similar first.

    paths: files of `write`; a missing one, of an earlier version's task, is ignored. volumes: the manifest.
    Volumes with equal source digests are not paired: they are known to be one scan (`same_scan`).
    """
    tables = [pq.read_table(path, schema=SCHEMA) for path in paths if path.exists()]
    table = pa.concat_tables([SCHEMA.empty_table(), *tables])
    sketches = table["sketch"].combine_chunks().flatten().to_numpy().reshape(-1, NUMBERS)
    order = pc.index_in(table["key"], volumes["key"])
    keys, patients, digests = (
        volumes[name].take(order).combine_chunks() for name in ("key", "patient_key", "source_digest")
    )
    rows = [
        (*sorted((keys[one].as_py(), keys[other].as_py())), correlation)
        for one, other, correlation in similar_pairs(sketches, patients.to_pylist())
        if digests[one].as_py() != digests[other].as_py()
    ]
    rows.sort(key=lambda row: (-row[2], row))
    return pa.table([list(column) for column in zip(*rows, strict=True)] or [[], [], []], PAIRS)


def write_pairs(pairs: pa.Table, path: Path) -> None:
    """Write `pairs_of` as CSV, atomically."""
    with atomic_path(path) as temporary:
        write_csv(pairs, temporary)
