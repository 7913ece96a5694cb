"""Reading a Parquet file that may come from elsewhere."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(path: Path) -> pa.Table:
    """The table in a Parquet file each of whose rows has a key of its own, of bytes at least.

    Parquet repeats a row at no cost, so a few bytes can hold any number of equal ones. Raises OSError or
    pyarrow.ArrowInvalid for anything else.
    """
    if pq.read_metadata(path).num_rows > path.stat().st_size:
        raise pa.ArrowInvalid("more rows than bytes")
    return pq.read_table(path, partitioning=None)
