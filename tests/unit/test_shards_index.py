"""The index is flat, complete and the same for the same volumes."""

import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from shard_samples import make_key, make_record, noise, write_dataset

from shards import Dataset, DecodeFacts, VolumeRecord, index
from shards.voxels import Extent


def test_each_field_of_a_record_is_a_column() -> None:
    fields = {*VolumeRecord.model_fields, *DecodeFacts.model_fields} - {"facts"}
    assert set(index.SCHEMA.names) == fields | {"shard", "offset", "length"}
    assert len(index.SCHEMA.names) == len(set(index.SCHEMA.names))


def test_a_record_survives_its_row_exactly() -> None:
    voxels = noise((3, 4, 5), 0)
    for changes in ({}, {"spacing_mm": (0.1, 1 / 3, 1e-9)}, {"crc32": 2**32 - 1}):
        record = make_record(voxels, make_key(1), **changes)
        row = index.to_row(record, "s", Extent(2**40, 2**33))
        table = pa.Table.from_pylist([row], schema=index.SCHEMA)
        assert index.to_record(table.to_pylist()[0]) == record
        assert (table["offset"][0].as_py(), table["length"][0].as_py()) == (2**40, 2**33)


def test_extents_point_at_the_stored_bytes(tmp_path: Path) -> None:
    """Another program may cut a tar member's data out of the file by the index alone."""
    volumes = {make_key(n): noise((5, 6, 7 + n), n) for n in range(3)}
    write_dataset(tmp_path, "webdataset", {"s": volumes})
    dataset = Dataset.open(tmp_path)
    whole = (tmp_path / "s.tar").read_bytes()
    with tarfile.open(tmp_path / "s.tar") as file:
        for i, key in enumerate(volumes):
            member = file.extractfile(f"{key}.vol.blosc")
            assert member is not None
            row = dataset.index.slice(i, 1).to_pylist()[0]
            assert member.read() == whole[row["offset"] : row["offset"] + row["length"]]


def test_the_index_joins_many_shards_in_order(tmp_path: Path) -> None:
    shards = {f"{n:02}": {make_key(n): np.full((1, 1, 1 + n), n, np.int16)} for n in range(20)}
    write_dataset(tmp_path, "zarr", shards)
    dataset = Dataset.open(tmp_path)
    assert dataset.index["shard"].to_pylist() == list(shards)
    for n in range(20):
        np.testing.assert_array_equal(dataset.read(n), shards[f"{n:02}"][make_key(n)])
