"""Reading a Parquet file that may come from elsewhere."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(path: Path) -> pa.Table:
    """The table in a Parquet file each of whose rows has a key of its own, of bytes at least.

    Parquet repeats a row at no cost, so a few bytes can hold any number of equal ones.
    pyarrow.parquet.read_table would import pyarrow.dataset, and that pandas where it is installed.
    Raises OSError or pyarrow.ArrowInvalid for anything else.
    """
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows > path.stat().st_size:
            raise pa.ArrowInvalid("more rows than bytes")
        return file.read()
