"""A tiny `fmct study`: from heads to report, and resumed after an interruption."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from forked_commands import forked_fmct

from launch.study.cells import Heads
from launch.study.cohort import Split, key, make_subject, make_volume, scanner_of
from launch.study.config import CohortConfig, StudyConfig
from launch.study.findings import Finding, Subject, displaced
from launch.study.plan import all_cells
from launch.study.run import study, tune
from preprocess.demo.anatomy import head_hu
from preprocess.demo.head import draw_anatomy
from shards import Dataset, FmctError

COHORT = CohortConfig(
    seed=3, unlabelled=24, labelled=20, validation=12, test=16, unseen=12, edge=12, spacing_mm=14.0
)
TINY = StudyConfig.model_validate(
    {
        "cohort": COHORT.model_dump(),
        **{"sizes": [24], "fractions": [0.5, 1.0], "seeds": [0], "compared_fraction": 0.5, "bootstrap": 50},
        "train": {
            "data": {
                **{"view_size": 12, "field_mm": 168, "global_crop_mm": [126, 168], "local_views": 1},
                **{"local_crop_mm": [63, 112], "local_field_mm": 168, "workers": 0},
            },
            "model": {
                **{"patch_size": 6, "width": 12, "depth": 1, "heads": 2, "register_tokens": 0},
                **{"prototypes": 16, "head_hidden": 12, "head_bottleneck": 8},
                **{"decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2},
            },
            "engine": {"device": "cpu", "precision": "fp32", "zero_stage": 0},
            "run": {"steps": 3, "batch": 8, "images_every": 100},
        },
        "objectives": {"joint": {"train": {"objective": {"centring": "sinkhorn"}}}},
        "finetune": {"steps": 4, "batch": 8, "check_every": 2},
        "scratch": {"steps": 4, "batch": 8, "check_every": 2, "layer_decay": 1},
        "frozen": {"strengths": [0.01]},
    }
)


@pytest.fixture(autouse=True)
def forked_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.study.pretrain.FMCT", forked_fmct())


def test_a_study_continues_and_ends_with_the_same_results(tmp_path: Path) -> None:
    cells = all_cells(TINY)
    assert len({cell.file_name for cell in cells}) == len(cells) == 12
    with pytest.raises(FmctError, match="contains no study"):
        study(TINY, tmp_path, lambda done, total: None, report_only=True)
    assert not list(tmp_path.iterdir())
    study(TINY, tmp_path, lambda done, total: None, workers=1)
    results = (tmp_path / "results.parquet").read_bytes()
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert len(rows) == 12 * 2 * (len(Finding) + 1)  # cells, tests, findings and their mean
    assert {row["method"] for row in rows if row["arm"] == "joint"} == {"frozen", "finetune"}
    report = (tmp_path / "report.md").read_text()
    for figure in ("label-efficiency.svg", "data-scaling.svg", "seen-unseen.svg"):
        assert figure in report
        assert (tmp_path / figure).stat().st_size > 10_000

    # One cell is missing: only it is computed, with the same scores.
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cells").iterdir()}
    lost = tmp_path / "cells" / "joint-24.finetune.1.0.npz"
    lost.unlink()
    study(TINY, tmp_path, lambda done, total: None, workers=1)
    again = {file: file.stat().st_mtime_ns for file in (tmp_path / "cells").iterdir()}
    assert {file for file in again if again[file] != kept[file]} == {lost}
    assert (tmp_path / "results.parquet").read_bytes() == results
    with pytest.raises(FmctError, match="another configuration"):
        study(TINY.model_copy(update={"bootstrap": 51}), tmp_path, lambda done, total: None, workers=1)

    heads = Heads.read(tmp_path / "cohort")
    few, all_of_them = heads.labelled(0.5, 0), heads.labelled(1.0, 0)
    assert set(few) < set(all_of_them) == set(heads.rows[Split.TRAIN])
    keys = Dataset.open(tmp_path / "cohort" / "labelled").index["study_key"].to_pylist()
    pretrained = Dataset.open(tmp_path / "cohort" / "pretrain-24").index["study_key"].to_pylist()
    assert {keys[heads.order[row]] for row in heads.rows[Split.TRAIN]} < set(pretrained)
    for split in (Split.VALIDATION, Split.TEST, Split.UNSEEN):
        assert not {keys[heads.order[row]] for row in heads.rows[split]} & set(pretrained)


def test_heads_are_functions_of_their_number_and_findings_of_no_scanner() -> None:
    first, subject = make_volume(COHORT, Split.TEST, 5)
    again, _ = make_volume(COHORT.model_copy(update={"test": 99, "validation": 1}), Split.TEST, 5)
    np.testing.assert_array_equal(first, again)
    assert subject == make_subject(COHORT, Split.TEST, 5)
    assert {scanner_of(Split.UNSEEN, n).name for n in range(9)}.isdisjoint(
        {scanner_of(split, n).name for split in list(Split)[:3] for n in range(9)}
    )
    bleeding = next(n for n in range(99) if Finding.HAEMATOMA in make_subject(COHORT, Split.TEST, n).findings)
    shown, healthy = (make_volume(COHORT, Split.TEST, bleeding, gone) for gone in (None, Finding.HAEMATOMA))
    assert shown[1].findings - healthy[1].findings == {Finding.HAEMATOMA}
    changed = shown[0] != healthy[0]
    assert 0 < changed.mean() < 0.1  # noise and everything else are the same
    assert (shown[0] - healthy[0])[changed].mean() > 0
    findings_by_subject = [make_subject(COHORT, Split.TRAIN, number).findings for number in range(600)]
    for finding in Finding:
        for scanner in range(4):
            share = np.mean([finding in findings for findings in findings_by_subject[scanner::4]])
            assert share == pytest.approx(COHORT.prevalence, abs=0.12)


@pytest.mark.parametrize("number", range(4))
def test_a_shifted_midline_leaves_the_skull_in_its_place(number: int) -> None:
    along = np.arange(-102, 102, 4, dtype=np.float32)
    points = np.stack(np.meshgrid(along, along, along, indexing="ij"), axis=-1).reshape(-1, 3)
    head = replace(draw_anatomy(3, number), scale=(1.0, 1.0, 1.0), calcified_plexus=False)
    moved = np.abs(
        displaced((points[:, 0], points[:, 1], points[:, 2]), Subject(head, frozenset(), shift_mm=16.0))[0]
        - points[:, 0]
    )
    bone = head_hu(points, head) > 150
    assert bone.sum() > 5000
    assert moved[bone].max() < 0.2  # mm
    assert moved.max() > 15


def test_settings_are_tuned_on_other_heads_with_one_grid_for_every_arm(tmp_path: Path) -> None:
    rates, lengths = [1e-3, 4e-3], [2, 4]
    grid = {"seed": 4, "lr": rates, "steps": lengths, "draws": 2}
    config = StudyConfig.model_validate({**TINY.model_dump(), "tuning": grid})
    tuned = tune(config, tmp_path, lambda done, total: None)
    rows = pq.read_table(tmp_path / "tuning.parquet").to_pylist()
    tried = {arm: {(r["lr"], r["steps"], r["seed"]) for r in rows if r["arm"] == arm} for arm in ARMS}
    assert len(rows) == 2 * 2 * 2 * 2
    assert tried["joint"] == tried["scratch"] == set(product(rates, lengths, range(2)))
    best = {arm: max(_means(rows, arm).values()) for arm in ARMS}
    for arm, line in zip(ARMS, tuned.splitlines()[2:], strict=True):
        assert f"**{best[arm]:.3f}**" in line
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npz")}
    assert tune(config, tmp_path, lambda done, total: None) == tuned
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npz")} == files
    keys = Dataset.open(tmp_path / "cohort" / "labelled").index["patient_key"].to_pylist()
    assert keys
    own = {key("patient", config.cohort, split, number) for split in Split for number in range(30)}
    assert not own & set(keys)
    with pytest.raises(FmctError, match=r"cohort\.seed"):
        tune(
            config.model_copy(update={"cohort": config.cohort.model_copy(update={"seed": 4})}),
            tmp_path,
            print,
        )


ARMS = ("joint", "scratch")


def _means(rows: list[dict[str, Any]], arm: str) -> dict[tuple[float, int], float]:
    collected: dict[tuple[float, int], list[float]] = {}
    for row in rows:
        if row["arm"] == arm:
            collected.setdefault((row["lr"], row["steps"]), []).append(row["auc"])
    return {point: float(np.mean(areas)) for point, areas in collected.items()}
