"""The division of a catalog into tasks, on synthetic catalogs without DICOM files."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from preprocess.config import GridConfig, OutputConfig, PreprocessConfig
from preprocess.dicom.catalog import read_catalog
from preprocess.dicom.catalog_table import INSTANCE_TABLE, CatalogWriter
from preprocess.privacy.deidentify import Pseudonymizer, new_key
from preprocess.privacy.trace import trace
from preprocess.tasks.plan import Plan, input_digest, plan, read_plan, settings_records, task_digest
from shards.errors import FmctError

SLICES = 4


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "hmac.key"  # a fixed key, so that studies fall into the same tasks in every run
    path.write_text("0123456789abcdef" * 4)
    path.chmod(0o600)
    return path


def make_catalog(
    path: Path, studies: range, changed: int | None = None, rest: dict[int, str | None] | None = None
) -> Path:
    """Two series per study of 4 slices of 512 × 512: 4 MiB of pixels; a file of study `changed` is newer.

    rest: studies, the second half of whose first series is in another study, or missing (None).
    """
    empty = dict.fromkeys(INSTANCE_TABLE.names)

    def study_of(study: int, series: int, number: int) -> str | None:
        second_half = series == 0 and number >= SLICES // 2
        return (rest or {}).get(study, f"1.2.{study}") if second_half else f"1.2.{study}"

    rows = [
        empty
        | {name: "" for name in INSTANCE_TABLE.names if INSTANCE_TABLE.field(name).type == pa.string()}
        | {
            "patient_id": f"patient {study // 3}",
            "study_uid": study_uid,
            "series_uid": f"1.2.{study}.{series}",
            "sop_uid": f"1.2.{study}.{series}.{number}",
            "path": f"{study}/{series}/{number}".encode(),
            "member": b"",
            "offset": 0,
            "archive_size": 0,
            "size": 1000 + number,
            "mtime_ns": 10**18 + number + (study == changed and series == number == 0),
            "image_type": ["ORIGINAL"],
            "frames": 1,
            "rows": 512,
            "columns": 512,
        }
        for study in studies
        for series in range(2)
        for number in range(SLICES)
        if (study_uid := study_of(study, series, number))
    ]
    with CatalogWriter(path) as writer:
        writer.add(pa.Table.from_pylist(rows, schema=INSTANCE_TABLE))
    return path


def make_plan(catalog: Path, key_file: Path, **output: Any) -> Plan:
    out = catalog.with_suffix(".out")
    count = plan(catalog, out, PreprocessConfig(key_file=key_file, output=OutputConfig(**output)))
    made = read_plan(out)
    assert count == len(made.tasks)
    return made


def studies_by_task(catalog: Path, made: Plan) -> dict[str, set[str]]:
    series = read_catalog(catalog)
    return {task.digest: {series[row].study_uid for row in task.rows} for task in made.tasks}


def test_every_series_is_in_one_task_and_studies_stay_together(tmp_path: Path, key_file: Path) -> None:
    catalog = make_catalog(tmp_path / "c", range(600))  # more than one row group of the catalog
    made = make_plan(catalog, key_file, shard_mib=150)
    assert sorted(row for task in made.tasks for row in task.rows) == list(range(1200))
    assert len(made.tasks) == 16  # 2400 MiB of pixels
    assert all(50 <= 2 * len(task.rows) <= 300 for task in made.tasks), "MiB a task"
    parts = list(studies_by_task(catalog, made).values())
    assert sum(map(len, parts)) == len(set().union(*parts)) == 600


def test_digests_from_columns_equal_digests_from_series(tmp_path: Path, key_file: Path) -> None:
    catalog = make_catalog(tmp_path / "c", range(5))
    made = make_plan(catalog, key_file)
    names, series = Pseudonymizer(key_file), read_catalog(catalog)
    (settings,) = settings_records(PreprocessConfig(key_file=key_file))
    (task,) = made.tasks
    assert made.settings == settings
    assert task.digest == task_digest(
        settings, [input_digest(names, series[row], False) for row in task.rows]
    )


def test_an_added_removed_or_changed_study_alters_its_own_task_only(tmp_path: Path, key_file: Path) -> None:
    base = make_catalog(tmp_path / "base", range(1, 60))
    before = studies_by_task(base, make_plan(base, key_file, shard_mib=30))
    assert len(before) == 8
    for name, studies, changed in (
        ("more", range(60), None),
        ("less", range(1, 59), None),
        ("new", range(1, 60), 7),
    ):
        catalog = make_catalog(tmp_path / name, studies, changed)
        after = studies_by_task(catalog, make_plan(catalog, key_file, shard_mib=30))
        assert len(after) == 8
        assert len(before.keys() & after.keys()) == 7


def test_images_of_a_series_in_another_study_alter_the_tasks_of_both(tmp_path: Path, key_file: Path) -> None:
    """They may be exported later, and another task has the other study."""
    half = make_catalog(tmp_path / "half", range(60), rest={7: None})
    both = make_catalog(tmp_path / "both", range(60), rest={7: "1.2.777"})
    before, made = make_plan(half, key_file, shard_mib=30), make_plan(both, key_file, shard_mib=30)
    assert not any(task.in_several_studies for task in before.tasks)
    series = read_catalog(both)
    refused = [(task.digest, series[row].study_uid) for task in made.tasks for row in task.in_several_studies]
    assert sorted(study for _, study in refused) == ["1.2.7", "1.2.777"]
    assert len({digest for digest, _ in refused}) == 2
    new = {task.digest for task in made.tasks} - {task.digest for task in before.tasks}
    assert new == {digest for digest, _ in refused}


def test_digests_depend_on_configuration_formats_and_key_but_not_workers(
    tmp_path: Path, key_file: Path
) -> None:
    catalog = make_catalog(tmp_path / "c", range(2))
    new_key(tmp_path / "other.key")
    base = PreprocessConfig(key_file=key_file)
    same = base.model_copy(update={"workers": 7})
    others = [
        base.model_copy(update={"grid": GridConfig(spacing_mm=(2, 2, 2))}),
        base.model_copy(update={"output": OutputConfig(formats=("zarr",))}),
        base.model_copy(update={"key_file": tmp_path / "other.key"}),
    ]
    digests = []
    for number, config in enumerate([base, same, *others]):
        plan(catalog, tmp_path / str(number), config)
        digests.append(read_plan(tmp_path / str(number)).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_an_output_of_another_key_is_refused(tmp_path: Path, key_file: Path) -> None:
    catalog = make_catalog(tmp_path / "c", range(2))
    config = PreprocessConfig(key_file=key_file)
    plan(catalog, tmp_path / "out", config)
    before = read_plan(tmp_path / "out")
    shutil.copy2(key_file, tmp_path / "copy.key")
    plan(catalog, tmp_path / "out", config.model_copy(update={"key_file": tmp_path / "copy.key"}))
    new_key(tmp_path / "other.key")
    with pytest.raises(FmctError, match="made with another key than"):
        plan(catalog, tmp_path / "out", config.model_copy(update={"key_file": tmp_path / "other.key"}))
    assert read_plan(tmp_path / "out") == before
    assert before.key_fingerprint not in (key_file.read_text(), "")


def test_the_plan_holds_no_identifier_and_is_private(tmp_path: Path, key_file: Path) -> None:
    catalog = make_catalog(tmp_path / "c", range(3))
    make_plan(catalog, key_file)
    path = tmp_path / "c.out" / "tasks" / "plan.json"
    assert path.stat().st_mode & 0o077 == 0
    text = path.read_text()
    assert "patient" not in text
    assert "1.2." not in text
    assert str(tmp_path) not in text


def test_trace_finds_the_series_of_every_key(tmp_path: Path, key_file: Path) -> None:
    catalog = make_catalog(tmp_path / "c", range(300))
    names = Pseudonymizer(key_file)
    for series in read_catalog(catalog)[::97]:
        key = names.series(series.patient_id, series.study_uid, series.series_uid)
        assert trace(catalog, key_file, key) == series
    with pytest.raises(FmctError, match="no series has the key"):
        trace(catalog, key_file, "0" * 32)


def test_missing_and_foreign_plans_are_named(tmp_path: Path) -> None:
    with pytest.raises(FmctError, match="no plan yet"):
        read_plan(tmp_path)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "plan.json").write_text("{}")
    with pytest.raises(FmctError, match="not a plan of this version"):
        read_plan(tmp_path)


@pytest.mark.parametrize("name", ["manifest.parquet", "quarantine.parquet"])
def test_a_catalog_at_an_output_path_is_refused(tmp_path: Path, key_file: Path, name: str) -> None:
    catalog = make_catalog(tmp_path / "out" / name, range(2))
    with pytest.raises(FmctError, match=f"{name}: is the input .* which it would replace"):
        plan(catalog, tmp_path / "out", PreprocessConfig(key_file=key_file))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
