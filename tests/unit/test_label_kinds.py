"""Labels of several kinds in a sweep: comparisons, exported classifiers and predictions."""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from small_sweep import bright_sweep

from fmct_hpc.classifier.fit import fit
from fmct_hpc.classifier.folder import write_classifier
from fmct_hpc.classifier.table import Predictions
from fmct_hpc.probe.budget import Parts
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.heads import LinearHead
from fmct_hpc.probe.kinds import KINDS
from fmct_hpc.probe.problem import Fitted
from fmct_hpc.probe.sweep.cell import Cell, Test
from fmct_hpc.probe.sweep.kind_rows import kind_rows
from fmct_hpc.probe.sweep.run import Sweep
from fmct_hpc.probe.sweep.tables import PREDICTIONS, RESULTS, read
from fmct_hpc.retrieval.config import RetrievalConfig
from fmct_hpc.retrieval.run import retrieval
from launch.report.document import Gallery
from launch.report.figure_names import FIGURES
from launch.report.probe import Probes
from launch.report.sweep_table import printed
from preprocess.labels import key_labels
from preprocess.privacy.deidentify import new_key
from shards.errors import FmctError
from shards.label_kinds import LabelKinds, Survival

KINDS_GIVEN = {
    "third": "multiclass",
    "grade": "ordinal",
    "value": "regression",
    "died": {"survival": "days"},
}
SLOW = ("attentive", "finetune")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    """The brighter half has greater grades and values, and shorter survival."""
    folder = tmp_path_factory.mktemp("kinds")
    config = bright_sweep(folder)
    table = pq.read_table(config.labels)
    bright = table["bright"].to_numpy()
    rng = np.random.default_rng(1)
    days = np.ceil(rng.exponential(10 + 200 * (1 - bright)))
    left = np.ceil(rng.exponential(200, 60))
    columns = {
        "third": pa.array(np.where(bright, 7, rng.integers(0, 2, 60)), pa.int8()),
        "grade": pa.array(np.where(bright, 2, rng.integers(0, 2, 60)), pa.int8()),
        "value": pa.array(30 + 20.0 * bright + rng.normal(0, 2, 60)),
        "died": pa.array((days <= left).astype(np.int8)),
        "days": pa.array(np.minimum(days, left)),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    pq.write_table(table, config.labels)
    settings = config.model_dump() | {
        "kinds": KINDS_GIVEN,
        "encoders": [
            {"name": "ours", "weights": folder / "ours"},
            {"name": "other", "weights": folder / "ours", "untrained": 3},
        ],
        "methods": ["logistic", "attentive", "finetune"],
        "tasks": ["bright", *KINDS_GIVEN],
        "attentive": {"steps": 60, "check_every": 20},
        "finetune": {"steps": 20, "batch": 8, "check_every": 10, "lr": 0.003},
    }
    return SweepConfig.model_validate(settings)


@pytest.fixture(scope="module")
def swept(config: SweepConfig) -> Path:
    out = config.features.parent / "out"
    fast = config.model_copy(update={"encoders": config.encoders[:1]})
    Sweep(config.model_copy(update={"methods": ("logistic",)}), out).run()
    Sweep(fast, out.with_name("all")).run()
    return out


def test_every_method_learns_every_kind(config: SweepConfig, swept: Path) -> None:
    rows = pq.read_table(swept.with_name("all") / "results.parquet").to_pylist()
    assert config.tasks is not None
    assert {(row["task"], row["method"]) for row in rows} == {
        (task, method) for task in config.tasks for method in config.methods
    }
    for row in rows:
        assert row["reason"] is None
        if row["kind"] == "binary":
            assert row["figures"] is None
            continue
        assert row["auc"] is None
        figures = {figure["name"]: figure for figure in row["figures"]}
        assert tuple(figures) == KINDS[row["kind"]].figures
        assert all(own["low"] <= own["value"] <= own["high"] for own in figures.values())
        good = {"multiclass": "auc_macro", "ordinal": "kappa_quadratic", "survival": "c_index"}
        better = figures["r2" if row["kind"] == "regression" else good[row["kind"]]]["value"]
        assert better > {"regression": 0.1, "ordinal": 0.3}.get(row["kind"], 0.6), row["method"]
        assert (figures.get("auc_at_50", {}).get("at") is not None) == (row["kind"] == "survival")


def test_a_figure_that_is_not_defined_is_not_listed(config: SweepConfig) -> None:
    targets = np.array([[3.0, 1], [9, 0], [4, 1], [8, 0]])
    parts = Parts(np.arange(4), np.array([1, 3]), {"id": np.arange(4)})
    cell = Cell("died", 0, [parts], targets, KINDS["survival"]())
    risks = np.arange(4.0)[:, None]
    fitted = Fitted(risks[[1, 3]], risks, {}, LinearHead(*np.zeros((4, 1), np.float32)))
    (row,) = kind_rows(
        [Test(cell, "id", np.arange(4), risks, np.arange(4), np.zeros(4, int), [fitted])], config
    )
    figures: Any = row["figures"]
    names = [figure["name"] for figure in figures]  # no event in validation
    assert names == ["c_index", "auc_at_25", "auc_at_50", "auc_at_75"]


def test_encoders_are_compared_by_the_bootstrap_of_the_difference(swept: Path) -> None:
    rows = {row["task"]: row for row in pq.read_table(swept / "comparisons.parquet").to_pylist()}
    assert {task: (row["test"], row["figure"]) for task, row in rows.items()} == {
        "bright": ("delong", "auc"),
        "third": ("bootstrap", "auc_macro"),
        "grade": ("bootstrap", "kappa_quadratic"),
        "value": ("bootstrap", "mae"),
        "died": ("bootstrap", "c_index"),
    }
    for row in rows.values():
        assert row["difference"] == pytest.approx(row["value"] - row["value_versus"])
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        assert 0 < row["p"] <= row["p_holm"] <= 1
    assert {"ibs_skill", "ece_classwise", "rps", "calibration_slope"} <= set(printed(swept).split())
    assert {"auc_at_75", "kappa_quadratic", "rmse"} <= set(printed(swept).split())
    probes = Probes(swept)
    blocks = probes.section().blocks
    captions = [block.caption for block in blocks if hasattr(block, "caption")]
    panels = [one.caption for block in blocks if isinstance(block, Gallery) for one in block.pictures]
    curves = [text.partition(";")[0] for text in panels if "vertical lines" in text]
    words = [text.removeprefix("Reliability: ").replace(" · ", " ") for text in curves]
    assert words[:6] == [
        *(f"third class {number}" for number in (0, 1, 7)),
        *("grade above 0", "grade above 1", "value"),
    ]
    assert words[6].startswith("died (t = ")
    assert len(words) == 7
    for row in pq.read_table(swept / "results.parquet").to_pylist():
        for curve in row["curves"] or ():
            assert sum(curve["volumes"]) == row["n"]
            low, observed, high = (np.array(curve[name]) for name in ("low", "observed", "high"))
            assert ((low <= observed) & (observed <= high)).all()
    assert any(caption.startswith("Classes, grades, values") for caption in captions)
    beside = [[one.encoder for one in group] for _, group in groupby(probes.of_kinds, lambda one: one.place)]
    assert all(len(set(encoders)) == len(encoders) == 2 for encoders in beside)
    assert {figure for kind in KINDS.values() for figure in kind.figures} <= FIGURES.keys()


def test_units_of_binary_labels_keep_their_digests(config: SweepConfig, swept: Path) -> None:
    plain = Sweep(config.model_copy(update={"tasks": ("bright",), "kinds": {}}), swept)
    kinds = Sweep(config.model_copy(update={"tasks": ("bright",)}), swept)
    assert plain.cohort.digest == kinds.cohort.digest
    of_both = (
        [unit.digest(sweep.config, sweep.cohort) for unit in sweep.plan().units] for sweep in (plain, kinds)
    )
    first, second = of_both
    assert first == second


@pytest.mark.parametrize("method", ["logistic", *SLOW])
def test_exported_classifiers_predict_as_the_sweep_did(
    config: SweepConfig, swept: Path, tmp_path: Path, method: str
) -> None:
    tasks = ["died"] if method == "finetune" else [*KINDS_GIVEN, "bright"]
    write_classifier(fit(config, "ours", method, tasks), tmp_path / "kept")
    predictions = Predictions([config.data], tmp_path / "kept", tmp_path / "out")
    predictions.run()
    predictions.collect()
    of_sweep = {
        (row["task"], row["key"]): row
        for row in pq.read_table(swept.with_name("all") / "predictions.parquet").to_pylist()
        if row["method"] == method
    }
    predicted = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    shared = [
        (row, of_sweep[row["task"], row["key"]]) for row in predicted if (row["task"], row["key"]) in of_sweep
    ]
    assert {row["task"] for row, _ in shared} == set(tasks)
    for row, swept_row in shared:
        assert row["score"] == pytest.approx(swept_row["score"], rel=1e-5, abs=1e-5)
        assert (row["probabilities"] is None) == (swept_row["probabilities"] is None)
        if row["kind"] == "multiclass":
            assert row["value"] in (0, 1, 7)
            assert sum(row["probabilities"]) == pytest.approx(1)
        assert (row["probability"] is None) == (row["kind"] != "binary")


def test_neighbours_vote_on_classes_and_values_and_volumes_of_a_class_find_one_another(
    config: SweepConfig, swept: Path, tmp_path: Path
) -> None:
    tasks = ("third", "grade", "value")
    voting = config.model_copy(
        update={"methods": ("neighbours",), "tasks": tasks, "encoders": config.encoders[:1]}
    )
    Sweep(voting, tmp_path / "votes").run()
    rows = pq.read_table(tmp_path / "votes" / "results.parquet").to_pylist()
    assert all(row["reason"] is None and row["figures"] for row in rows)
    retrieval_config = RetrievalConfig.model_validate(voting.model_dump())
    table = retrieval(retrieval_config.model_copy(update={"tasks": ("third", "bright")}), tmp_path / "found")
    by_task = {row["task"]: row for row in table.to_pylist()}
    assert by_task["third"]["asked"] > by_task["bright"]["asked"]
    with pytest.raises(FmctError, match=r"kinds\.value: .*binary, multiclass, ordinal"):
        retrieval(retrieval_config, tmp_path / "refused")
    for method, task in (("neighbours", "died"), ("linear", "value")):
        wrong = config.model_copy(update={"methods": (method,), "tasks": (task,)})
        with pytest.raises(FmctError, match=rf"kinds\.{task}: method {method} .*logistic"):
            _ = Sweep(wrong, tmp_path / "refused").cohort


@pytest.mark.parametrize(
    ("kinds", "column", "values", "parts"),
    [
        ({"a": "ordinal"}, "a", ["0", "1.5", "2"], "row 3, column a"),
        ({"a": "ordinal"}, "a", ["0", "1", "4711"], "row 4, column a"),
        ({"a": "multiclass"}, "a", ["1", "1", ""], "column a: 1 class"),
        ({"a": "regression"}, "a", ["0.5", "Smith", "1"], "row 3, column a"),
        ({"a": "regression"}, "a", ["0.5", "inf", "1"], "row 3, column a"),
        ({"a": "regression"}, "a", ["0.5", "1_000", "1"], "row 3, column a"),
        ({"a": "ordinal"}, "a", ["0", "\u0663", "1"], "row 3, column a"),
        ({"a": {"survival": "t"}}, "t", ["3", "-1", "2"], "row 3, column t"),
        ({"a": {"survival": "t"}}, "t", ["3", "", "2"], "row 3: has only one of a and t"),
        ({"a": {"survival": "t"}}, "a", ["1", "2", "0"], "row 3, column a"),
        ({"a": {"survival": "t"}}, "a", ["0", "0", "0"], "column a: no event"),
        ({"a": {"survival": "u"}}, "a", ["0", "1", "0"], r"kinds\.a: has no column of times"),
        ({"b": "ordinal"}, "a", ["0", "1", "0"], r"kinds\.b: has no such column"),
        ({}, "a", ["0", "1", "2"], r"row 4, column a: not 0, 1 or empty.*kinds"),
    ],
)
def test_values_of_another_kind_are_refused_by_row_and_column(
    tmp_path: Path, kinds: dict[str, Any], column: str, values: list[str], parts: str
) -> None:
    cells = {"study_instance_uid": ["1.2", "1.3", "1.4"], "a": ["0", "1", "1"]}
    if column == "t" or isinstance(kinds.get("a"), dict):
        cells["t"] = ["3", "0", "2"]
    cells[column] = values
    lines = [",".join(cells), *map(",".join, zip(*cells.values(), strict=True))]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    new_key(tmp_path / "hmac.key")
    specs = {name: Survival(**kind) if isinstance(kind, dict) else kind for name, kind in kinds.items()}
    with pytest.raises(FmctError, match=parts) as refused:
        key_labels(tmp_path / "labels.csv", tmp_path / "hmac.key", tmp_path / "out.parquet", kinds=specs)
    assert "Smith" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out.parquet").exists()


def test_tables_of_versions_with_binary_labels_alone_are_read(swept: Path, tmp_path: Path) -> None:
    for name, schema in (("results", RESULTS), ("predictions", PREDICTIONS)):
        table = pq.read_table(swept / f"{name}.parquet")
        last = {"results": ["kind", "figures"], "predictions": ["value", "event", "probabilities"]}[name]
        pq.write_table(table.drop_columns(last), tmp_path / "old.parquet")
        actual = read(tmp_path / "old.parquet", schema)
        assert actual.schema == schema
        assert all(actual[column].null_count == actual.num_rows for column in last)


@pytest.mark.parametrize("kind", ["number", {"surviva": "t"}, 3, None])
def test_an_unknown_kind_is_refused_in_one_line_with_the_known_ones(kind: object) -> None:
    with pytest.raises(ValidationError) as refused:
        LabelKinds.model_validate({"kinds": {"a": kind}})
    (error,) = refused.value.errors()
    assert error["loc"] == ("kinds", "a")
    assert "binary, multiclass, ordinal, regression, or {survival: " in error["msg"]
