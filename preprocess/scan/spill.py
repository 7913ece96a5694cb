"""Grouping more rows than fit into memory, through files."""

import io
import os
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

FINGERPRINT = np.dtype("S16")
"""128 bits: two of 10^8 are equal by chance in one of 10^22 archives."""
BUCKETS = 256
BUFFERED_RECORDS = 2**18
"""Records (of about 40 bytes) in memory before they are written to the buckets' files."""
BUFFERED_ROWS = 2**15
"""Table rows (of about 500 bytes) in memory before they are written to the partitions' files."""
PARTITION_ROWS, MAX_PARTITIONS = 2**14, 2**10
"""Rows per partition, which is held in memory; more only above 2^24 rows in all, or if one key has more."""
SAMPLED_ROWS = 256
"""One of this many keys is sampled to choose the partitions' bounds."""


def fingerprints(values: Iterable[bytes]) -> np.ndarray:
    """`FINGERPRINT` of each value, (n,)."""
    return np.frombuffer(b"".join(blake2b(value, digest_size=16).digest() for value in values), FINGERPRINT)


def find(ordered: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Position of each of `wanted` in the ascending `ordered`, -1 if absent; int64 (n,)."""
    if not len(ordered):
        return np.full(len(wanted), -1)
    places = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.where(ordered[places] == wanted, places, -1)


class Buckets:
    """Records distributed over files by the first byte of their fingerprint, the field named `by`.

    Equal fingerprints are in the same bucket, buckets ascend, and each has 1/256 of the records.
    """

    def __init__(self, folder: Path, dtype: np.dtype, by: str) -> None:
        self._folder, self._dtype, self._by = folder, dtype, by
        self._buffer: list[np.ndarray] = []
        self._buffered = 0
        folder.mkdir(mode=0o700)

    def add(self, records: np.ndarray) -> None:
        """Append records of the buckets' dtype."""
        self._buffer.append(records)
        self._buffered += len(records)
        if self._buffered >= BUFFERED_RECORDS:
            self._flush()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each bucket's records, unordered."""
        self._flush()
        for name in sorted(os.listdir(self._folder)):
            yield np.fromfile(self._folder / name, self._dtype)

    def _flush(self) -> None:
        if not self._buffer:
            return
        records = np.concatenate(self._buffer)
        heads = np.frombuffer(np.ascontiguousarray(records[self._by]), np.uint8)[:: FINGERPRINT.itemsize]
        order = np.argsort(heads, kind="stable")
        ends = np.searchsorted(heads[order], np.arange(BUCKETS), "right")
        for number, part in enumerate(np.split(records[order], ends[:-1])):
            if len(part):
                append(self._folder / f"{number:02x}", part.tobytes())
        self._buffer, self._buffered = [], 0


class Partitions:
    """Table rows distributed to files by ranges of a key; the partitions are in key order."""

    def __init__(self, folder: Path, key: Callable[[pa.Table], pa.ChunkedArray], splitters: pa.Array) -> None:
        """splitters: ascending values of `key` at which the second and later partitions start."""
        self._folder, self._key, self._splitters = folder, key, splitters
        self._buffer: list[pa.Table] = []
        self._buffered = 0
        folder.mkdir(mode=0o700)

    def add(self, table: pa.Table) -> None:
        """Distribute a table's rows; all tables have the same schema."""
        self._buffer.append(table)
        self._buffered += len(table)
        if self._buffered >= BUFFERED_ROWS:
            self._flush()

    def __iter__(self) -> Iterator[pa.Table]:
        """Each partition's rows, unordered."""
        self._flush()
        for number in range(len(self._splitters) + 1):
            path = self._folder / str(number)
            if path.exists():
                yield self._read(path)
                path.unlink()

    def _flush(self) -> None:
        if not self._buffered:
            return
        table = pa.concat_tables(self._buffer)
        numbers = pc.search_sorted(self._splitters, self._key(table), side="right").to_numpy()
        order = np.argsort(numbers, kind="stable")
        present, starts = np.unique(numbers[order], return_index=True)
        for number, rows in zip(present, np.split(order, starts[1:]), strict=True):
            sink = io.BytesIO()
            options = pyarrow.ipc.IpcWriteOptions(compression="lz4")
            with pyarrow.ipc.new_stream(sink, table.schema, options=options) as writer:
                writer.write_table(table.take(pa.array(rows)))
            append(self._folder / str(number), sink.getvalue())
        self._buffer, self._buffered = [], 0

    def _read(self, path: Path) -> pa.Table:
        """The streams in the file, one after the other."""
        tables = []
        with pa.OSFile(str(path)) as file:
            while file.tell() < file.size():
                with pyarrow.ipc.open_stream(file) as reader:
                    tables.append(reader.read_all())
        return pa.concat_tables(tables)


def splitters(keys: Iterable[pa.ChunkedArray]) -> pa.Array:
    """Keys that divide rows with these keys into partitions of about `PARTITION_ROWS` rows."""
    samples, rows = [], 0
    for part in keys:
        samples.append(part.take(pc.sort_indices(part)[::SAMPLED_ROWS]))
        rows += len(part)
    if not samples:
        return pa.array([], pa.binary())
    sample = pa.chunked_array(samples).combine_chunks()
    sample = sample.take(pc.sort_indices(sample))
    count = min(-(-rows // PARTITION_ROWS), MAX_PARTITIONS)
    return sample.take(pa.array(np.arange(1, count) * len(sample) // count)).unique()


def append(path: Path, data: bytes) -> None:
    """Append to a file that only its owner can read."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        file.write(data)
