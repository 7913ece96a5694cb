"""The ledger on real files: what is repeated, what is kept, and the outcome of every series."""

import json
import logging
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from preprocess_export import (
    SERIES,
    Export,
    contents,
    make_export,
    run_inline,
    times,
    write_study,
)

from launch.jobs.progress import progress, progress_of_job
from preprocess import run
from preprocess.build import finish
from preprocess.config import CheckConfig
from preprocess.dicom.catalog import Series, read_catalog
from preprocess.privacy.deidentify import Pseudonymizer
from preprocess.privacy.trace import trace
from preprocess.qc.report import GALLERY
from preprocess.reasons import Reason
from preprocess.select.rules import SelectConfig
from preprocess.tasks.plan import Plan, settings_records
from preprocess.volume.build import Volume, build_volume
from shards import Dataset, FmctError, verify
from shards.info import preprocessing_digest
from shards.progress import VARIABLE

STUDIES = 12
TITLES = ("<h2>Stored volumes", "<h2>Flagged volumes", "<h2>Volumes in quarantine")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Export, Path]:
    """An export and its preprocessed output; tests copy what they change."""
    where = tmp_path_factory.mktemp("made")
    export = make_export(where, STUDIES)
    summary = run_inline(export, where / "out", export.config())
    assert summary.tasks == 2
    return export, where / "out"


@pytest.fixture
def copied(made: tuple[Export, Path], tmp_path: Path) -> tuple[Export, Path]:
    """A copy of the export and its output that a test may change, modification times included."""
    export, out = made
    shutil.copytree(export.folder, tmp_path / "dicom")
    shutil.copytree(out, tmp_path / "out")
    copy = Export(tmp_path / "dicom", tmp_path / "catalog.parquet", export.key_file)
    copy.rescan()
    return copy, tmp_path / "out"


def test_every_series_is_a_volume_or_a_quarantine_row_with_its_reason(made: tuple[Export, Path]) -> None:
    export, out = made
    names = Pseudonymizer(export.key_file)
    series = read_catalog(export.catalog)
    keys = {names.series(s.patient_id, s.study_uid, s.series_uid): s.series_uid for s in series}
    accepted = pq.read_table(out / "manifest.parquet").to_pylist()
    rejected = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert len(keys) == len(series) == STUDIES * SERIES
    assert sorted(row["key"] for row in accepted + rejected) == sorted(keys)
    reasons = {(keys[row["key"]].split(".")[-1], row["reason"], row["stage"]) for row in rejected}
    assert reasons == {
        ("2", "localizer", "select"),
        ("3", "too_few_slices", "select"),
        ("3", "truncated_pixel_data", "build"),
    }
    for row in accepted + rejected:
        actual = trace(export.catalog, export.key_file, row["key"])
        assert actual.series_uid == keys[row["key"]]
        assert row["study_key"] == names.study(actual.study_uid)
        assert row["patient_key"] == names.patient(actual.patient_id, actual.study_uid)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["volumes"] == len(accepted) == STUDIES
    assert summary["patients"] == STUDIES // 2
    assert summary["rejected_by_reason"] == Counter(row["reason"] for row in rejected)
    assert (out / "qc" / "montage.png").read_bytes().startswith(b"\x89PNG")


def test_findings_are_flags_or_rejections_and_the_report_shows_both(
    made: tuple[Export, Path], tmp_path: Path
) -> None:
    """The heads differ in position, so that some touch the field's edge by more than 1 %."""
    export, _ = made
    limits = CheckConfig(max_edge_share=0.01, max_noise_hu=0.5, reject=(Reason.HEAD_CUT_BY_FIELD,))
    summary = run_inline(export, tmp_path, export.config().model_copy(update={"check": limits}))
    rows = pq.read_table(tmp_path / "manifest.parquet").to_pylist()
    assert all(row["flags"] == ["noisy"] and row["edge_share"] <= 0.01 for row in rows)
    assert summary.flagged_by_reason == {"noisy": summary.flagged_volumes} == {"noisy": len(rows)}
    rejected = summary.rejected_by_reason["head_cut_by_field"]
    assert rejected + len(rows) == STUDIES
    assert min(rejected, len(rows)) > 0
    refused = [
        row["key"]
        for row in pq.read_table(tmp_path / "quarantine.parquet").to_pylist()
        if (row["reason"], row["stage"]) == ("head_cut_by_field", "build")
    ]
    assert len(refused) == rejected
    page = (tmp_path / "qc" / "report.html").read_text()
    stored, flagged, quarantined = (page.split(title)[1] for title in TITLES)
    for row in rows:
        assert row["key"][:8] in stored
        assert row["key"][:8] in flagged
        assert row["key"][:8] not in quarantined
    assert all(key[:8] in quarantined for key in refused)
    alike = (tmp_path / "qc" / "alike.csv").read_text().splitlines()[1:]
    patients = {row["key"]: row["patient_key"] for row in rows}
    assert (
        len(alike) == summary.alike_pairs == sum(a < b for a in patients.values() for b in patients.values())
    )
    pictures = 2 * len(rows) + rejected + 2 * min(len(alike), GALLERY // 2)
    assert page.count('src="data:image/png;base64,') == page.count("<img ") == pictures
    assert not re.search(r"https?:|<script|<link", page), "the page must not load anything"
    assert f'<td>noisy</td><td class="n">{len(rows)}</td>' in page


def test_both_formats_hold_the_same_voxels_and_records(made: tuple[Export, Path]) -> None:
    _, out = made
    zarr, tar = Dataset.open(out / "zarr"), Dataset.open(out / "webdataset")
    assert len(zarr) == len(tar) == STUDIES
    for i in range(STUDIES):
        assert zarr.record(i) == tar.record(i)
        np.testing.assert_array_equal(zarr.read(i), tar.read(i))
    assert verify(out / "zarr") == verify(out / "webdataset") == []
    manifest = pq.read_table(out / "manifest.parquet")
    assert manifest["key"].to_pylist() == zarr.index["key"].to_pylist()
    assert manifest["shard"].to_pylist() == zarr.index["shard"].to_pylist()


def test_a_rerun_changes_nothing(copied: tuple[Export, Path]) -> None:
    export, out = copied
    before = times(out)
    summary = run.preprocess(export.catalog, out, export.config(workers=2))
    assert times(out) == before
    assert summary.volumes == STUDIES


def test_the_bytes_depend_on_neither_workers_nor_pool(made: tuple[Export, Path], tmp_path: Path) -> None:
    export, out = made
    seen: list[tuple[int, int]] = []
    summary = run.preprocess(
        export.catalog, tmp_path, export.config(workers=2), lambda done, total: seen.append((done, total))
    )
    assert contents(tmp_path) == contents(out)
    assert seen == [(1, 2), (2, 2)]
    assert summary.volumes == STUDIES


def test_a_changed_configuration_redoes_everything_and_removes_old_files(copied: tuple[Export, Path]) -> None:
    export, out = copied
    run.plan(export.catalog, out, export.config(spacing=5.0))
    assert run.status(out).stale == 2
    assert len(Dataset.open(out / "zarr")) == STUDIES, "the old output stays complete until the new one is"
    run_inline(export, out, export.config(spacing=5.0))
    dataset = Dataset.open(out / "zarr")
    assert dataset.info.spacing_mm == (5, 5, 5)
    assert verify(out / "zarr") == []
    assert len(list((out / "zarr").glob("shard-*.zip"))) == 2
    assert len(list((out / "tasks").glob("*-????????.json"))) == 2


def test_a_changed_file_redoes_its_own_task_only(copied: tuple[Export, Path]) -> None:
    export, out = copied
    before = times(out)
    os.utime(export.folder / "03" / "1-007.dcm")
    export.rescan()
    run.plan(export.catalog, out, export.config())
    assert (run.status(out).done, run.status(out).stale) == (1, 1)
    run_inline(export, out, export.config())
    kept = [name for name, time in times(out).items() if before.get(name) == time and "shard-" in name]
    assert len(kept) == 4, "shard and index of one task in two formats"
    assert len(Dataset.open(out / "zarr")) == STUDIES


def test_new_and_removed_studies_are_followed(copied: tuple[Export, Path]) -> None:
    export, out = copied
    before = set(pq.read_table(out / "manifest.parquet")["key"].to_pylist())
    write_study(export.folder, STUDIES)
    shutil.rmtree(export.folder / "05")
    export.rescan()
    summary = run_inline(export, out, export.config())
    after = set(pq.read_table(out / "manifest.parquet")["key"].to_pylist())
    assert summary.volumes == len(after) == STUDIES
    assert len(before - after) == len(after - before) == 1


def test_any_number_of_shares_covers_every_task_once(
    copied: tuple[Export, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    export, out = copied
    config = export.config()
    assert [run.run_share(export.catalog, out, share, 3, config) for share in range(3)] == [1, 1, 0]
    [marker] = (out / "tasks").glob("00001-????????.json")
    marker.unlink()
    for share, done in ((0, False), (1, True)):
        monkeypatch.setenv(VARIABLE, str(out / f"slurm/12_{share}.ledgers.json"))
        run.run_share(export.catalog, out, share, 2, config)
        assert marker.exists() == done
        assert progress(out) == (1 + done, 2, 0, "task")
        assert progress_of_job(out / "slurm", f"12_{share}") == (1, 1, 0, "task")


def test_a_deleted_shard_is_made_again_byte_for_byte(copied: tuple[Export, Path]) -> None:
    export, out = copied
    before = contents(out)
    next((out / "zarr").glob("shard-*.zip")).unlink()
    (out / "summary.json").unlink()
    assert run.status(out).done == 1
    run_inline(export, out, export.config())
    assert contents(out) == before


def test_collecting_again_restores_the_files_beside_the_shards(copied: tuple[Export, Path]) -> None:
    export, out = copied
    before = contents(out)
    (out / "zarr/preprocessing.json").unlink()
    run.collect(out, export.config())
    assert contents(out) == before
    for name in ("preprocessing.json", "index.parquet", "dataset.json"):
        (out / "zarr" / name).write_bytes(b"{}")
        run.collect(out, export.config())
        assert contents(out) == before, name


def test_a_file_that_changed_since_the_scan_stops_its_task_not_the_others(
    copied: tuple[Export, Path],
) -> None:
    export, out = copied
    os.utime(export.folder / "03" / "1-007.dcm")
    shutil.rmtree(out)
    with pytest.raises(FmctError, match=r"1 of 2 tasks failed.*changed since the scan.*fmct scan") as caught:
        run.preprocess(export.catalog, out, export.config())
    assert str(export.folder) not in str(caught.value)
    assert (run.status(out).done, run.status(out).missing) == (1, 1)
    with pytest.raises(FmctError, match=r"1 of 2 tasks are not done"):
        run.collect(out, export.config())


def test_a_catalog_that_changed_since_the_plan_is_refused(copied: tuple[Export, Path]) -> None:
    export, out = copied
    shutil.rmtree(out)
    run.plan(export.catalog, out, export.config())
    os.utime(export.folder / "03" / "1-007.dcm")
    export.rescan()
    errors = []
    for index in range(2):
        try:
            run.run_task(export.catalog, out, index, export.config())
        except FmctError as error:
            errors.append(str(error))
    (message,) = errors
    assert "changed after the plan; run `fmct preprocess --plan`" in message
    with pytest.raises(FmctError, match=r"made with another configuration"):
        run.run_task(export.catalog, out, 0, export.config(spacing=3.0))
    with pytest.raises(FmctError, match=r"--task 2: the plan has tasks 0 to 1"):
        run.run_task(export.catalog, out, 2, export.config())


def test_a_defect_in_one_series_loses_that_series_only(
    made: tuple[Export, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    export, out = made

    def failing(series: Series, *others: Any) -> Volume:
        if series.series_uid.endswith(".4.1"):
            raise ValueError(f"patient 2 in {series.instances[0].path}")
        return build_volume(series, *others)

    monkeypatch.setattr(finish, "build_volume", failing)
    with caplog.at_level(logging.ERROR):
        summary = run_inline(export, tmp_path, export.config())
    assert summary.rejected_by_reason["internal_error"] == 1
    rows = pq.read_table(tmp_path / "quarantine.parquet").to_pylist()
    (row,) = [row for row in rows if row["reason"] == "internal_error"]
    assert row["detail"] == "ValueError"
    assert "ValueError in test_preprocess.py:" in caplog.text
    assert "patient 2" not in caplog.text
    whole, rest = Dataset.open(out / "zarr"), Dataset.open(tmp_path / "zarr")
    assert len(rest) == STUDIES - 1
    for i in range(len(rest)):
        record = rest.record(i)
        same = whole.position(record.key)
        assert record == whole.record(same)
        np.testing.assert_array_equal(rest.read(i), whole.read(same))


def test_an_interrupt_leaves_no_marker(
    made: tuple[Export, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, _ = made
    calls = []

    def interrupted(series: Series, *others: Any) -> Volume:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return build_volume(series, *others)

    monkeypatch.setattr(finish, "build_volume", interrupted)
    run.plan(export.catalog, tmp_path, export.config())
    with pytest.raises(KeyboardInterrupt):
        run.run_task(export.catalog, tmp_path, 0, export.config())
    assert run.status(tmp_path).done == 0
    assert not list((tmp_path / "zarr").glob("*"))


def test_an_export_without_any_volume_reports_the_reason(made: tuple[Export, Path], tmp_path: Path) -> None:
    export, _ = made
    config = export.config().model_copy(update={"select": SelectConfig(min_slices=30)})
    with pytest.raises(
        FmctError, match=r"none of 36 series became a volume \(24 too_few_slices, 12 localizer\)"
    ):
        run_inline(export, tmp_path, config)
    assert len(pq.read_table(tmp_path / "quarantine.parquet")) == STUDIES * SERIES
    assert not (tmp_path / "summary.json").exists()


def test_an_archive_of_0_1_0_continues_with_its_own_defaults(tmp_path: Path) -> None:
    """Its volumes' digest also covers limits that only mark; added studies get the same digest."""
    export = make_export(tmp_path, 2)
    config = export.config(formats=("zarr",)).model_copy(update={"check": CheckConfig(max_noise_hu=0.5)})
    _, of_0_1_0 = settings_records(config)
    (tmp_path / "out" / "tasks").mkdir(parents=True)
    begun = Plan(settings=of_0_1_0, tasks=()).model_dump_json()
    (tmp_path / "out" / "tasks" / "plan.json").write_text(begun)
    run_inline(export, tmp_path / "out", config)
    write_study(export.folder, 2)
    export.rescan()
    assert run_inline(export, tmp_path / "out", config).flagged_volumes == 3
    info = Dataset.open(tmp_path / "out" / "zarr").info
    assert info.config_digest == preprocessing_digest(config.everything()) != config.digest()
    assert verify(tmp_path / "out" / "zarr") == []
    other = config.model_copy(update={"check": CheckConfig(max_noise_hu=0.4)})
    with pytest.raises(FmctError, match="made with another configuration"):
        run.collect(tmp_path / "out", other)
    run_inline(export, tmp_path / "out", other)
    assert Dataset.open(tmp_path / "out" / "zarr").info.config_digest == config.digest()
