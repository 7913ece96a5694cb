"""docs/architecture.md, "How to add a probe's method", applied literally to a copy of the packages."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from documented_example import follow
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_sweep import bright_sweep

from fmct_hpc.probe.cohort import read_cohort
from fmct_hpc.probe.store import FeatureStore

COMMANDS = """
import sys

from typer.testing import CliRunner

import fmct_hpc.probe.methods.registry

assert not {"torch", "pyarrow"} & set(sys.modules), "the configuration of methods is read without"
from launch.cli import app

recipe, data, out = sys.argv[1:]
for words in (
    ["sweep", recipe, "--out", f"{out}/swept", "methods=[prototypes]", "prototypes.temperatures=[1, 30]"],
    ["export-classifier", recipe, "methods=[prototypes]", "--out", f"{out}/kept"],
    ["predict", data, "--classifier", f"{out}/kept", "--out", f"{out}/predicted"],
):
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
"""


def test_the_documented_method_is_swept_exported_and_predicts(tmp_path: Path) -> None:
    copy = follow("How to add a probe's method", tmp_path / "copy")
    copy.lint()
    grid = bright_sweep(tmp_path)
    recipe = tmp_path / "sweep.yaml"
    recipe.write_text(grid.model_dump_json(exclude={"methods"}))
    copy.run("-c", COMMANDS, str(recipe), str(grid.data), str(tmp_path), anew=True)  # it lists its imports
    (row,) = pq.read_table(tmp_path / "swept/results.parquet").to_pylist()
    assert (row["method"], row["reason"]) == ("prototypes", None)
    assert row["auc"] > 0.9
    record = json.loads((tmp_path / "kept/classifier.json").read_bytes())
    assert record["method"] == "prototypes"
    assert record["tasks"][0]["chosen"].keys() == {"temperature"}

    store = FeatureStore.open(grid.features / "ours")
    cohort = read_cohort(grid.data, grid.labels, grid.tasks, grid.split, grid.folds)
    assert cohort.splits is not None
    features = store.vectors(store.info.layers[0], "both")[cohort.places_in(store)]
    train, bright = cohort.splits == "train", cohort.targets("bright")
    oracle = make_pipeline(StandardScaler(), NearestCentroid()).fit(features[train], bright[train])
    expected = dict(zip(cohort.keys.tolist(), oracle.predict(features).tolist(), strict=True))
    swept, predicted = (
        {
            row["key"]: row["score"]
            for row in pq.read_table(tmp_path / folder / "predictions.parquet").to_pylist()
        }
        for folder in ("swept", "predicted")
    )
    assert {key: score > 0.5 for key, score in predicted.items()} == expected
    assert {key: predicted[key] for key in swept} == pytest.approx(swept, abs=1e-6)
