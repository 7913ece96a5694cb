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
from shards.index import numbers

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
    vectors = numbers(table["sketch"].combine_chunks().flatten()).reshape(-1, NUMBERS)
    order = pc.index_in(table["key"], volumes["key"])
    patients, digests = (_numbered(volumes[name].take(order)) for name in ("patient_key", "source_digest"))
    pairs = similar_pairs(vectors, patients)
    pairs = pairs[digests[pairs["row"]] != digests[pairs["later"]]]
    keys = table["key"].combine_chunks()
    rank = np.argsort(numbers(pc.sort_indices(keys)))
    both = np.stack([pairs["row"], pairs["later"]])
    low, high = np.take_along_axis(both, np.argsort(rank[both], axis=0), axis=0)
    best = np.lexsort((rank[high], rank[low], -pairs["correlation"]))
    found = (keys.take(pa.array(rows[best])) for rows in (low, high))
    return pa.table([*found, pa.array(pairs["correlation"][best].astype(np.float64))], PAIRS)


def _numbered(column: pa.ChunkedArray) -> np.ndarray:
    """Equal numbers for equal values, (rows,)."""
    return numbers(column.combine_chunks().dictionary_encode().indices)


def write_pairs(pairs: pa.Table, path: Path) -> None:
    """Write `pairs_of` as CSV, atomically."""
    with atomic_path(path) as temporary:
        write_csv(pairs, temporary)
