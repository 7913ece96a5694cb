"""A sweep from grid to tables: with existing features, in tasks, resumed, and incomplete."""

import json
import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit
from shard_samples import make_key, make_record
from sklearn.metrics import roc_auc_score
from small_sweep import bright_sweep
from torch import Tensor, nn

from fmct_hpc.probe.budget import Budget
from fmct_hpc.probe.cohort import read_cohort
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.encoders import Encoder
from fmct_hpc.probe.reasons import TooFewError
from fmct_hpc.probe.splits import SplitConfig
from fmct_hpc.probe.statistics.area import auc
from fmct_hpc.probe.statistics.paired import compare, holm
from fmct_hpc.probe.statistics.scored import Scored
from fmct_hpc.probe.store import FeatureStore
from fmct_hpc.probe.sweep.grid import balanced_tasks
from fmct_hpc.probe.sweep.ledger import progress
from fmct_hpc.probe.sweep.run import Sweep
from fmct_hpc.retrieval.config import RetrievalConfig, SearchConfig
from fmct_hpc.retrieval.run import retrieval
from launch.jobs.progress import progress_of_job
from shards import FmctError, ShardWriter, finish_dataset
from shards.progress import VARIABLE

VOLUMES = 120


class Mirror(Encoder):
    """Features are voxels plus noise, so they predict the labels to some degree."""

    def __init__(self, noise: float) -> None:
        import torch

        self.module = nn.Identity()
        self.digest = f"{noise}"
        self._noise = noise
        self._torch = torch

    def transform(self, volume: np.ndarray, spacing_mm: Sequence[float]) -> Tensor:
        generator = np.random.default_rng(abs(int(volume.sum())))
        tokens = volume[:3].reshape(3, -1)[:, :8] / 100.0
        return self._torch.from_numpy(tokens + generator.normal(0, self._noise, tokens.shape)).float()


def mirror(noise: float) -> Mirror:
    kind: Any = Mirror  # to mypy, `Encoder.field` is abstract in encoders without a grid
    return cast(Mirror, kind(noise))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose labels depend on its voxels; every fourth patient has two volumes."""
    out = tmp_path_factory.mktemp("sweep")
    generator = np.random.default_rng(0)
    causes = generator.normal(0, 100, (VOLUMES, 8))
    with ShardWriter(out / "data", "shard-00000", "zarr") as writer:
        for number in range(VOLUMES):
            voxels = np.zeros((8, 8, 8), np.int16)
            voxels[:3].reshape(3, -1)[:, :8] = causes[number]
            key, patient = make_key(number), make_key(1000 + number - (number % 4 == 3))
            writer.add(make_record(voxels, key, study_key=key, patient_key=patient), voxels)
    finish_dataset(out / "data", "zarr", ["shard-00000"])
    chances = expit(causes[:, :2] / 50)
    labels = (generator.random(chances.shape) < chances).astype(float)
    labels[::10, 1] = np.nan
    rare = np.zeros(VOLUMES)
    rare[:2] = 1
    table = {"study_key": [make_key(n) for n in range(VOLUMES)]}
    for name, column in (("bleed", labels[:, 0]), ("mass", labels[:, 1]), ("rare", rare)):
        table[name] = pa.array(column, from_pandas=True)
    pq.write_table(pa.table(table), out / "labels.parquet")
    patients = [make_key(1000 + n - (n % 4 == 3)) for n in range(VOLUMES)]
    place = {patient: n for n, patient in enumerate(dict.fromkeys(patients))}
    parts = ("train", "train", "validation", "test", "ood")
    table["split"] = [parts[place[patient] % 5] for patient in patients]
    pq.write_table(pa.table(table), out / "split-labels.parquet")
    return out


def config(folder: Path, **values: object) -> SweepConfig:
    given: dict[str, object] = {
        "data": folder / "data",
        "labels": folder / "split-labels.parquet",
        "features": folder / "features",
        "encoders": [
            {"name": name, "function": f"{__name__}:mirror", "arguments": {"noise": noise}}
            for name, noise in (("clear", 0.1), ("dim", 3.0))
        ],
        "methods": ["logistic", "neighbours"],
        "fractions": [0.5, 1.0],
        "shots": [4, 500],
        "repeats": 2,
        "seeds": [0, 1],
        "bootstrap": 200,
        "allow_unknown_pretraining": True,
    }
    return SweepConfig.model_validate({**given, **values})


@pytest.fixture(scope="module")
def swept(folder: Path) -> Path:
    Sweep(config(folder), folder / "swept").run()
    return folder / "swept"


def rows(out: Path, name: str = "results") -> list[dict[str, Any]]:
    actual: list[dict[str, Any]] = pq.read_table(out / f"{name}.parquet").to_pylist()
    return actual


def test_there_is_a_row_for_every_cell_of_the_grid(swept: Path) -> None:
    actual = [
        (r["encoder"], r["method"], r["task"], r["fraction"], r["shots"], r["seed"], r["split"])
        for r in rows(swept)
        if not r["reason"]
    ]
    expected = {
        (encoder, method, task, *budget, split)
        for encoder in ("clear", "dim")
        for method in ("logistic", "neighbours")
        for task in ("bleed", "mass")
        # Neither method is random with all patients, so one seed suffices.
        for budget in ((0.5, None, 0), (0.5, None, 1), (1.0, None, 0), (None, 4, 0), (None, 4, 1))
        for split in ("id", "ood")
    }
    assert len(actual) == len(set(actual))
    assert {row for row in actual if row[2] != "rare"} == expected


def test_cells_that_cannot_be_probed_have_a_reason_and_no_figures(swept: Path) -> None:
    refused = [row for row in rows(swept) if row["reason"]]
    assert {row["reason"] for row in refused if row["shots"] == 500} == {
        f"{n} negative training patients, 500 required"
        for n in {int(row["reason"].split()[0]) for row in refused if row["shots"] == 500}
    }
    assert all(row["auc"] is None and row["ece"] is None for row in refused)
    summary = json.loads((swept / "summary.json").read_text())
    assert (summary["refused"], summary["results"]) == (len(refused), len(rows(swept)))
    assert summary["done"] == summary["units"]


def test_figures_are_reproduced_from_the_kept_predictions(swept: Path, folder: Path) -> None:
    table = rows(swept, "predictions")
    names = ("encoder", "method", "task", "fraction", "shots", "seed", "split")
    assert {len(row["key"]) for row in table} == {32}
    for result in rows(swept):
        if result["reason"]:
            continue
        own = [row for row in table if all(row[name] == result[name] for name in names)]
        labels, scores = [row["label"] for row in own], [row["score"] for row in own]
        assert (result["n"], result["positives"]) == (len(own), sum(labels))
        assert result["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert result["auc_low"] <= result["auc"] <= result["auc_high"]
        assert result["brier"] == pytest.approx(np.mean((np.array(labels) - scores) ** 2))
        assert sum(result["reliability_volumes"]) == result["n"]
        assert 0 <= result["balanced_accuracy"] <= 1
    every = {
        (r["encoder"], r["split"]): r["auc"]
        for r in rows(swept)
        if r["task"] == "bleed" and r["fraction"] == 1 and r["method"] == "logistic"
    }
    assert every["clear", "id"] > 0.8 > every["dim", "id"]


def test_comparisons_are_delongs_with_holms_correction_within_each_family(swept: Path) -> None:
    compared = rows(swept, "comparisons")
    predictions = rows(swept, "predictions")
    families: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in compared:
        assert (row["encoder"], row["versus"]) == ("clear", "dim")
        place = tuple(row[name] for name in ("method", "fraction", "shots", "seed", "split"))
        families.setdefault(place, []).append(row)
    for family in families.values():
        assert [r["p_holm"] for r in family] == pytest.approx(holm([r["p"] for r in family]))
    row = next(r for r in compared if r["fraction"] == 1 and r["task"] == "bleed" and r["split"] == "ood")
    tests = []
    for encoder in ("clear", "dim"):
        own = {
            p["key"]: p
            for p in predictions
            if p["encoder"] == encoder
            and all(p[name] == row[name] for name in ("method", "task", "fraction", "seed", "split"))
        }
        # The first of a patient's two volumes has the even number.
        patients = [int(key, 16) for key in sorted(own)]
        numbers = np.unique([n - (n % 4 == 3) for n in patients], return_inverse=True)[1]
        labels = np.array([own[key]["label"] for key in sorted(own)])
        scores = np.array([own[key]["score"] for key in sorted(own)])
        tests.append(Scored(scores, labels, numbers, np.zeros(len(own), int)))
    expected = compare(tests[0], tests[1], 0.95)
    assert (row["auc"], row["auc_versus"]) == pytest.approx((auc(tests[0]), auc(tests[1])))
    assert (row["p"], row["difference_low"]) == pytest.approx((expected.p, expected.low))


def test_tasks_share_the_grid_resume_and_partial_results_can_be_read(folder: Path, swept: Path) -> None:
    grid = Sweep(config(folder, task_minutes=0.05), folder / "tasks")
    with pytest.raises(FmctError, match="no plan yet"):
        grid.run_task(0)
    plan = grid.plan()
    assert len(plan.tasks) > 2
    assert sorted(n for task in plan.tasks for n in task) == list(range(len(plan.units)))
    assert grid.run_task(1) == len(plan.tasks[1])
    assert grid.run_task(1) == 0
    partial = grid.collect()
    assert (partial.done, partial.units) == (len(plan.tasks[1]), len(plan.units))
    assert len(rows(folder / "tasks")) == partial.results > 0
    assert f"{partial.done} of {partial.units} units done" in grid.status()
    for task in range(len(plan.tasks)):
        grid.run_task(task)
    grid.collect()
    for name in ("results", "predictions", "comparisons"):
        assert pq.read_table(folder / "tasks" / f"{name}.parquet").equals(
            pq.read_table(swept / f"{name}.parquet")
        )


def test_a_unit_without_its_marker_is_recomputed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Sweep(config(folder, fractions=[1.0], shots=[], bootstrap=20), folder / "broken")
    grid.extract()
    units = len(grid.plan().units)
    with monkeypatch.context() as broken:
        broken.setattr("fmct_hpc.probe.sweep.ledger.UnitMarker.model_dump_json", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            grid.run_task(0)
    assert len(list((folder / "broken" / "units").iterdir())) == 2, "the first unit's tables"
    assert (grid.collect().done, rows(folder / "broken")) == (0, [])
    assert grid.run_share(0, 1) == units == grid.collect().done


def test_another_grid_keeps_shared_units(folder: Path, swept: Path) -> None:
    grid = Sweep(config(folder, fractions=[0.25, 0.5, 1.0]), swept)
    with pytest.raises(FmctError, match=r"plan\.json: from another configuration"):
        grid.run_task(0)
    plan = grid.plan()
    computed = sum(grid.run_task(task) for task in range(len(plan.tasks)))
    assert computed == sum(unit.fraction == 0.25 for unit in plan.units) == 4
    Sweep(config(folder), swept).run()


def test_a_unit_of_other_features_is_recomputed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = config(folder, features=folder / "own-features", fractions=[1.0], shots=[])
    Sweep(first, folder / "own").run()
    encoders = [spec.model_dump() for spec in first.encoders]
    encoders[0]["arguments"] = {"noise": 0.2}
    second = first.model_copy(update={"encoders": config(folder, encoders=encoders).encoders})
    grid = Sweep(second, folder / "own")
    grid.extract()
    grid.plan()
    assert grid.status().startswith("2 of 4 units done")

    def stop(unit: object, source: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr("fmct_hpc.probe.sweep.run.compute", stop)
        with pytest.raises(KeyboardInterrupt):
            grid.run_share(0, 1)
    assert progress(folder / "own").done == 2, "units to recompute do not count as progress"
    monkeypatch.setenv(VARIABLE, str(folder / "12.ledgers.json"))
    assert grid.run_share(0, 1) == 2
    assert progress(folder / "own").done == 4
    assert progress_of_job(folder, "12")[:2] == (4, 4)
    shutil.rmtree(second.features)
    with pytest.raises(FmctError, match="no finished feature store"):
        Sweep(second, folder / "own").run_share(0, 1)
    assert progress(folder / "own").done == 4, "temporarily missing features remove nothing"


def test_folds_test_every_volume_once_by_a_classifier_not_trained_on_its_patient(folder: Path) -> None:
    cohort = read_cohort(folder / "data", folder / "labels.parquet", ("bleed",), SplitConfig(), 5)
    parts = cohort.parts("bleed", Budget(1.0, None), 0)
    assert sorted(np.concatenate([p.tests["id"] for p in parts])) == list(range(VOLUMES))
    for part in parts:
        sets = [set(cohort.patient_keys[r]) for r in (part.train, part.validation, part.tests["id"])]
        assert len(set.union(*sets)) == sum(map(len, sets))
        rates = [np.nanmean(cohort.values[r, 0]) for r in (part.train, part.tests["id"])]
        assert abs(rates[0] - rates[1]) < 0.15


def test_smaller_label_budgets_are_nested_and_never_use_test_labels(folder: Path) -> None:
    cohort = read_cohort(folder / "data", folder / "split-labels.parquet", None, SplitConfig(), None)
    whole = cohort.parts("mass", Budget(1.0, None), 0)[0]
    assert not np.isnan(cohort.values[np.concatenate([whole.train, *whole.tests.values()]), 1]).any()
    for split, own in (("train", whole.train), ("validation", whole.validation)):
        known = (cohort.splits == split) & ~np.isnan(cohort.values[:, 1])
        assert np.array_equal(own, np.flatnonzero(known))
    last = whole
    for budget in (Budget(0.5, None), Budget(0.2, None), Budget(None, 1)):
        [part] = cohort.parts("mass", budget, 0)
        assert set(part.train) < set(last.train)
        assert set(part.validation) <= set(last.validation)
        assert {name: list(r) for name, r in part.tests.items()} == {
            name: list(r) for name, r in whole.tests.items()
        }
        last = part
    assert set(cohort.values[last.train, 1]) == {0, 1}
    other = cohort.parts("mass", Budget(0.2, None), 1)[0]
    assert set(other.train) != set(cohort.parts("mass", Budget(0.2, None), 0)[0].train)
    with pytest.raises(TooFewError, match="500 required"):
        cohort.parts("mass", Budget(None, 500), 0)
    unchosen = SplitConfig(validation=0.0)
    cohort = read_cohort(folder / "data", folder / "labels.parquet", None, unchosen, None)
    with pytest.raises(TooFewError, match="no validation patients"):
        cohort.parts("mass", Budget(1.0, None), 0)


def test_tasks_have_about_equal_cost() -> None:
    costs = np.random.default_rng(0).lognormal(0, 1, 200)
    tasks = balanced_tasks(costs.tolist(), costs.sum() / 10)
    loads = [costs[task].sum() for task in tasks]
    assert len(tasks) == 10
    assert max(loads) < 1.05 * min(loads)
    assert sorted(n for task in tasks for n in task) == list(range(200))


def test_tables_never_overwrite_the_labels(folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "predictions.parquet"
    shutil.copyfile(config(folder).labels, labels)
    before = labels.read_bytes()
    with pytest.raises(FmctError, match=r"predictions.parquet: is the input .* which it would replace"):
        Sweep(config(folder, labels=labels), tmp_path).plan()
    assert labels.read_bytes() == before
    assert list(tmp_path.iterdir()) == [labels]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"tasks": ["bled"]}, "no task bled"),
        ({"layers": [-1, -1]}, "layers has a duplicate value"),
        ({"fractions": [], "shots": []}, "fractions and shots are both empty"),
    ],
)
def test_an_invalid_grid_is_reported_in_one_line(folder: Path, values: dict[str, Any], expected: str) -> None:
    with pytest.raises((FmctError, ValueError), match=expected):
        Sweep(config(folder, **values), folder / "wrong").run()


def test_every_method_learns_an_obvious_finding_from_our_encoder(tmp_path: Path) -> None:
    grid = bright_sweep(tmp_path)
    Sweep(grid, tmp_path / "out").run()
    actual = {row["method"]: row for row in rows(tmp_path / "out")}
    assert set(actual) == set(grid.methods)
    assert {row["step"] for row in actual.values()} == {7}
    for method, row in actual.items():
        assert row["auc"] > 0.95, method
        assert row["chosen"] != "[{}]"


def test_retrieval_ranks_encoders_by_the_neighbours_of_volumes(folder: Path, tmp_path: Path) -> None:
    retrieval_config = RetrievalConfig.model_validate(config(folder).model_dump())
    table = retrieval(retrieval_config, tmp_path / "out").to_pylist()
    named = {(row["encoder"], row["task"], row["split"]): row for row in table}
    assert set(named) == set(product(("clear", "dim"), ("bleed", "mass", "rare"), ("id", "ood")))
    clear, dim = named["clear", "bleed", "id"], named["dim", "bleed", "id"]
    assert clear["map_low"] > clear["map_by_chance"]
    assert clear["map"] > dim["map"]
    assert named["clear", "rare", "id"]["reason"] == "no two patients with the label"
    splits = pq.read_table(folder / "split-labels.parquet")["split"].to_pylist()
    assert clear["n"] == splits.count("test")
    with pytest.raises(FmctError, match="holds results of"):
        retrieval(retrieval_config.model_copy(update={"labels": folder / "labels.parquet"}), tmp_path / "out")
    unsplit = retrieval_config.model_copy(update={"labels": folder / "labels.parquet", "folds": 3})
    everybody = retrieval(unsplit, tmp_path / "all")
    assert {row["n"] for row in everybody.to_pylist() if row["task"] == "bleed"} == {VOLUMES}
    width = FeatureStore.open(folder / "features" / "clear").vectors().shape[1]
    small = SearchConfig(memory_gb=2 * width * VOLUMES / 1e9)
    indexed = retrieval(unsplit.model_copy(update={"search": small}), tmp_path / "indexed")
    search_columns = {"search", "candidates", "search_recall"}
    assert set(everybody["search"].to_pylist()) == {"exact"}
    assert set(indexed["search"].to_pylist()) == {"ivf-sq8"}
    assert set(indexed["search_recall"].to_pylist()) == {1.0}
    assert everybody.drop_columns([*search_columns]).equals(indexed.drop_columns([*search_columns]))
