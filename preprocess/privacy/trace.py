"""Tracing a pseudonym to its source, which requires catalog and key."""

from pathlib import Path

import pyarrow.parquet as pq

from preprocess.dicom.catalog import Series, read_rows
from preprocess.privacy.deidentify import Pseudonymizer
from shards.errors import FmctError


def trace(catalog: Path, key_file: Path, key: str) -> Series:
    """The series of `catalog` whose pseudonym is `key`.

    Raises FmctError if there is none, or if the catalog or key file cannot be used.
    """
    names = Pseudonymizer(key_file)
    read_rows(catalog, [])  # raises if it is not a catalog
    table = pq.read_table(catalog, columns=["patient_id", "study_uid", "series_uid"])
    for row, identity in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True)):
        if names.series(*identity) == key.strip().lower():
            return read_rows(catalog, [row])[0]
    raise FmctError(f"{catalog}: no series has the key {key}; is it of this catalog and {key_file}?")
