"""A partial head that headers do not reveal is replaced by its study's head when it is built."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from dicom_files import axial
from preprocess_export import KEY, Export, run_inline, write_series

from preprocess.config import GridConfig, OutputConfig, PreprocessConfig
from preprocess.select.rules import SelectConfig
from shards import Dataset
from shards.roles import study_roles

THIN_PART = axial(slices=34, gap=3.0, start=(-70, -60, -2))
"""A part, up to 97, of a head from z = -2 to 122."""
HEAD = axial(slices=22, gap=6.0, start=(-70, -60, 0))


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """A study of a thin part and a thick head without related headers, and one of the part alone."""
    folder = tmp_path / "dicom"
    write_series(folder, 0, 1, THIN_PART, FrameOfReferenceUID="1.2.3.1", SliceThickness=3)
    write_series(folder, 0, 2, HEAD, FrameOfReferenceUID="1.2.3.2", SliceThickness=6)
    write_series(folder, 1, 1, THIN_PART, FrameOfReferenceUID="1.2.3.1", SliceThickness=3)
    key_file = tmp_path / "hmac.key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    export = Export(folder, tmp_path / "catalog.parquet", key_file)
    export.rescan()
    return export


def test_the_whole_head_is_selected_and_the_part_has_a_row(export: Export, tmp_path: Path) -> None:
    config = PreprocessConfig(
        key_file=export.key_file,
        grid=GridConfig(spacing_mm=(4, 4, 4)),
        output=OutputConfig(formats=("zarr",)),
    )
    run_inline(export, tmp_path / "out", config)
    volumes = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert sorted((row["slices"], tuple(row["flags"])) for row in volumes) == [
        (22, ()),
        (34, ("vertex_missing",)),
    ]
    (row,) = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert (row["reason"], row["stage"]) == ("vertex_missing", "build")
    head = next(volume for volume in volumes if volume["slices"] == 22)
    assert row["study_key"] == head["study_key"]
    assert row["detail"].startswith(f"{head['key']} was chosen: ")


def test_with_all_series_kept_the_best_has_rank_0_and_all_have_roles(export: Export, tmp_path: Path) -> None:
    config = PreprocessConfig(
        key_file=export.key_file,
        select=SelectConfig(keep="all"),
        grid=GridConfig(spacing_mm=(4, 4, 4)),
        output=OutputConfig(formats=("zarr", "webdataset")),
    )
    run_inline(export, tmp_path / "out", config)
    volumes = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    actual = sorted((row["slices"], row["rank"], row["role"]) for row in volumes)
    # The head is preferred to the part although its slices are thicker: keep: best selects it.
    assert actual == [(22, 0, "soft_thick"), (34, 0, "soft_thick"), (34, 1, "soft_thick")]
    by_key = {row["key"]: (row["role"], row["rank"]) for row in volumes}
    for name in ("zarr", "webdataset"):
        dataset = Dataset.open(tmp_path / "out" / name)
        records = [dataset.record(number) for number in range(3)]
        assert {record.key: (record.role, record.rank) for record in records} == by_key
        assert study_roles(dataset.index).ranks.tolist() == [record.rank for record in records]
