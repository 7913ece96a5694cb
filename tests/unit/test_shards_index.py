"""The index is flat, complete and deterministic."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from shard_samples import FACTS, make_key, make_record, noise, write_dataset

from shards import Dataset, DecodeFacts, ShardWriter, VolumeRecord, finish_dataset, index
from shards import info as infos
from shards.errors import FmctError
from shards.roles import study_roles
from shards.verification import verify
from shards.voxels import Extent

VOXELS = noise((3, 4, 5), 0)


def test_each_field_of_a_record_is_a_column() -> None:
    fields = {*VolumeRecord.model_fields, *DecodeFacts.model_fields} - {"facts"}
    assert set(index.STUDY_SCHEMA.names) == fields | {"shard", "offset", "length"}
    assert len(index.STUDY_SCHEMA.names) == len(set(index.STUDY_SCHEMA.names))


def test_a_record_survives_the_round_trip_through_its_row() -> None:
    voxels = noise((3, 4, 5), 0)
    for changes in ({}, {"spacing_mm": (0.1, 1 / 3, 1e-9)}, {"crc32": 2**32 - 1}):
        record = make_record(voxels, make_key(1), **changes)
        row = index.to_row(record, "s", Extent(2**40, 2**33))
        table = pa.Table.from_pylist([row], schema=index.SCHEMA)
        assert index.to_record(table.to_pylist()[0]) == record
        assert (table["offset"][0].as_py(), table["length"][0].as_py()) == (2**40, 2**33)


def test_extents_point_at_the_stored_bytes(tmp_path: Path) -> None:
    """Another program can extract a tar member's data by the index alone."""
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


def test_the_content_of_a_study_is_from_the_record_or_the_facts(tmp_path: Path) -> None:
    """As in an archive that an earlier version started and this one continued."""
    voxels = noise((3, 4, 5), 0)
    facts = {
        1: FACTS.model_copy(update={"slice_thickness_mm": 5.0, "slice_gap_mm": (5.0, 5.0)}),
        2: FACTS.model_copy(update={"slice_thickness_mm": 1.0, "slice_gap_mm": (1.0, 1.0)}),
        3: FACTS.model_copy(update={"kernel_class": "bone", "slice_gap_mm": (0.6, 0.6)}),
        4: FACTS.model_copy(update={"slice_thickness_mm": 1.0, "slice_gap_mm": (5.0, 5.0)}),
    }
    with ShardWriter(tmp_path, "a", "zarr") as writer:
        for number in (3, 1, 4, 2):
            record = make_record(voxels, make_key(number), patient_key=make_key(9), facts=facts[number])
            assert not {"role", "rank"} & set(record.model_dump())
            writer.add(record, voxels)
    with ShardWriter(tmp_path, "b", "zarr") as writer:
        for number, rank, role in ((5, 1, "soft_thin"), (6, 0, "bone_thick")):
            place = {"study_key": "6" * 32, "patient_key": make_key(9), "role": role, "rank": rank}
            writer.add(make_record(voxels, make_key(number), **place), voxels)
    assert index.read(tmp_path / "a.index.parquet").schema.equals(index.SCHEMA)
    finish_dataset(tmp_path, "zarr", ["a", "b"])
    dataset = Dataset.open(tmp_path)
    assert verify(tmp_path) == []
    assert [dataset.record(n).rank for n in range(6)] == [None] * 4 + [1, 0]
    actual = study_roles(dataset.index)
    assert actual.roles.tolist() == [
        *("bone_thin", "soft_thick", "soft_thick", "soft_thin"),
        *("soft_thin", "bone_thick"),
    ]
    assert actual.ranks.tolist() == [3, 1, 2, 0, 1, 0]


def test_verify_reports_where_another_writers_volumes_would_be_misplaced(tmp_path: Path) -> None:
    plain = np.reshape(make_record(VOXELS, make_key(0)).affine, (4, 4))
    mirrored, scaled, unknown, fine = (plain.copy() for _ in range(4))
    mirrored[0] *= -1
    scaled[:3] *= 2
    unknown[1, 3] = np.nan
    fine[:3, 3] = (3, -400, 1e4)
    affines = [plain, mirrored, plain[:, [0, 2, 1, 3]], scaled, unknown, fine]
    with ShardWriter(tmp_path, "a", "zarr") as shard:
        for number, affine in enumerate(affines):
            shard.add(make_record(VOXELS, make_key(number), affine=tuple(affine.ravel())), VOXELS)
    finish_dataset(tmp_path, "zarr", ["a"])
    assert [problem.key for problem in verify(tmp_path)] == [make_key(number) for number in (1, 2, 3, 4)]


def rewrite(directory: Path, column: str, values: list[Any]) -> None:
    """Replace a column of the first volume, as a program without our validation could write it."""
    info = infos.read(directory)
    sidecar = index.sidecar_path(directory, info.shards[0].name)
    table, shard = index.read_sidecar(sidecar, info.format)
    place, rows = table.schema.get_field_index(column), [values, *table[column].to_pylist()[1:]]
    table = table.set_column(
        place, table.schema.field(column), pa.array(rows, table.schema.field(column).type)
    )
    index.write_sidecar(table, shard, info.format, sidecar)
    index.write(table, directory / infos.INDEX_NAME)
    digests = {
        "sidecar_sha256": (infos.sha256(sidecar),),
        "index_sha256": infos.sha256(directory / infos.INDEX_NAME),
    }
    infos.write(info.model_copy(update=digests), directory)


def test_verify_reports_a_row_of_another_spacing_than_the_dataset(tmp_path: Path) -> None:
    """A mirrored affine would agree with a negative spacing."""
    volumes = {make_key(0): VOXELS, make_key(1): VOXELS}
    spacing = write_dataset(tmp_path, "zarr", {"a": volumes}).spacing_mm
    mirrored = np.reshape(Dataset.open(tmp_path).record(0).affine, (4, 4)) * [1, 1, -1, 1]
    rewrite(tmp_path, "spacing_mm", [*spacing[:2], -spacing[2]])
    assert [problem.key for problem in verify(tmp_path)] == [make_key(0)]
    rewrite(tmp_path, "affine", mirrored.ravel().tolist())
    assert [problem.key for problem in verify(tmp_path)] == [make_key(0)] * 2


@pytest.mark.parametrize("column", ["shape", "spacing_mm", "affine", "matrix"])
def test_a_list_with_a_missing_number_is_no_index(column: str, tmp_path: Path) -> None:
    write_dataset(tmp_path, "zarr", {"a": {make_key(0): VOXELS, make_key(1): VOXELS}})
    size = index.SCHEMA.field(column).type.list_size
    rewrite(tmp_path, column, [1] * (size - 1) + [None])
    sidecar = index.sidecar_path(tmp_path, "a")
    assert [problem.file for problem in verify(tmp_path)] == [infos.INDEX_NAME, sidecar.name]
    with pytest.raises(FmctError, match="not an index"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize("edge", [0.0, -1.0, np.inf, np.nan])
def test_a_voxel_has_an_extent(edge: float) -> None:
    with pytest.raises(ValueError, match="spacing_mm"):
        make_record(VOXELS, make_key(0), spacing_mm=(1.0, edge, 1.0))
