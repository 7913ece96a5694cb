"""docs/probes.md, from "Patients held out" to "Segmentation": the commands, by bash on fewer heads."""

import csv
import json
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from documents import REPOSITORY, bash, blocks, substituted
from small_training import small_config, write_recipe
from typer.testing import CliRunner

from launch.cli import app
from shards import Dataset
from shards.masks import mask_info

pytestmark = pytest.mark.timeout(600)

SIZES = {
    "--studies 240": "--studies 24",
    # A split of so few by a new key's hash may leave a part without a bleed.
    "fmct keygen hmac.key": "(umask 077 && printf %064d 0 | sha256sum | cut -c1-64 > hmac.key)",
    "launch/recipes/quickstart-train.yaml": "small-train.yaml",
    "run.steps=200": "run.steps=2",
    "parts=parts/parts.parquet": "parts=parts/parts.parquet bootstrap=50",
    "allow_pretraining_patients=false device=cpu": (
        "allow_pretraining_patients=false device=cpu 'methods=[logistic]' 'pools=[both]' 'fractions=[1.0]' "
        "'seeds=[0]'"
    ),
    "--out benchmarks/heads": "--out benchmarks/heads bootstrap=50 'fractions=[1.0]'",
    "--out retrieval parts": "--out retrieval 'pools=[both]' parts",
    "--out robustness --classifier": "--out robustness bootstrap=50 'changes.noise=[20]' --classifier",
    "--out segments/held": "--out segments/held steps=20 'learning_rates=[0.01]' bootstrap=50",
}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder after the section's commands."""
    folder = tmp_path_factory.mktemp("held")
    (folder / "launch").symlink_to(REPOSITORY / "launch")
    write_recipe(small_config(Path("parts/train")), folder / "small-train.yaml")
    for heading in ("Patients held out", "Segmentation"):
        section = blocks(REPOSITORY / "docs/probes.md", "bash", heading)
        bash(substituted("".join(section), SIZES), folder)
    return folder


def patients(dataset: Path) -> dict[str, str]:
    """The patient of each volume."""
    index = Dataset.open(dataset).index
    return dict(zip(index["key"].to_pylist(), index["patient_key"].to_pylist(), strict=True))


def test_no_test_patient_was_in_the_pretraining(held: Path) -> None:
    recorded = json.loads((held / "runs/held/config.json").read_text())
    assert recorded["data"]["path"] == str(held / "parts/train")
    pretrained, patient = set(patients(held / "parts/train").values()), patients(held / "data/zarr")
    for out in ("probe", "sweeps/held"):
        tested = {
            patient[key] for key in pq.read_table(held / out / "predictions.parquet")["key"].to_pylist()
        }
        assert tested
        assert tested <= set(patients(held / "parts/test").values())
        assert not tested & pretrained
    results = json.loads((held / "probe/results.json").read_text())
    assert (results["pretrained_patients"], bool(results["rows"])) == (0, True)
    probed = [row for row in pq.read_table(held / "probe/results.parquet").to_pylist() if not row["reason"]]
    assert {row["n_train"] for row in probed} == {len(patients(held / "parts/train"))}
    assert "any_bleed" in (held / "held.html").read_text()


def test_labels_and_features_join_by_study(held: Path) -> None:
    parts = {r["study_key"]: r["split"] for r in pq.read_table(held / "parts/parts.parquet").to_pylist()}
    labels = pq.read_table(held / "split-labels.parquet").to_pylist()
    assert {row["study_key"]: row["split"] for row in labels} == parts
    features = pq.read_table(held / "features/features.parquet").to_pylist()
    assert {row["study_key"] for row in features} == set(parts)
    assert {row["patient_key"] for row in features} == set(patients(held / "data/zarr").values())
    places = {row["key"]: row["path"] for row in pq.read_table(held / "map.parquet").to_pylist()}
    assert places == dict.fromkeys((row["key"] for row in features), str(held / "heads/dicom"))


def test_predictions_from_dicom_equal_those_of_the_sweep(held: Path) -> None:
    index = Dataset.open(held / "data/zarr").index
    study = dict(zip(index["key"].to_pylist(), index["study_key"].to_pylist(), strict=True))
    swept = pq.read_table(held / "sweeps/held/predictions.parquet").to_pylist()
    tested = {study[row["key"]]: row["score"] for row in swept if row["task"] == "any_bleed"}
    rows = pq.read_table(held / "predictions/predictions.parquet").to_pylist()
    predicted = {row["study_key"]: row["score"] for row in rows}
    assert {row["task"] for row in rows} == {"any_bleed"}
    assert len(tested) > 2
    # After two steps channels have almost no variance, which magnifies rounding differences between batches.
    assert {key: predicted[key] for key in tested} == pytest.approx(tested, abs=1e-5)
    groups = pq.read_table(held / "sweeps/held/subgroups.parquet").to_pylist()
    by_kernel = [row["n"] for row in groups if (row["by"], row["task"]) == ("kernel_class", "any_bleed")]
    assert sum(by_kernel) == len(tested)
    retrieved = pq.read_table(held / "retrieval/retrieval.parquet").to_pylist()
    assert {row["n"] for row in retrieved if row["task"] == "any_bleed"} == {len(tested)}


def test_robustness_retrieval_and_classifiers_are_in_the_report(held: Path) -> None:
    rows = pq.read_table(held / "robustness/robustness.parquet").to_pylist()
    steps = {(row["change"], row["severity"]) for row in rows if not row["reason"]}
    severities = {"thicker": (0, 8, 16), "blur": (0, 6), "sharpen": (0, 2), "noise": (0, 20)}
    assert steps == {(change, severity) for change, own in severities.items() for severity in own}
    swept = pq.read_table(held / "sweeps/held/results.parquet").to_pylist()
    (area,) = [row["auc"] for row in swept if row["task"] == "any_bleed"]
    assert [row["value"] for row in rows if not row["severity"]] == pytest.approx([area] * len(severities))
    card, page = (held / "judged.md").read_text(), (held / "judged.html").read_text()
    titles = ("Robustness", "Retrieval", "Exported classifiers", "By scanner, kernel, slices")
    for title in titles:
        assert title in card
        assert title in page
    assert r"any\_bleed" in card.split("## Exported classifiers")[1]
    assert page.count('id="robustness-') >= len(severities)


def test_relevance_maps_are_compared_with_the_true_masks(
    held: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second block of "Why" in docs/probes.md, in one process."""
    _, block = blocks(REPOSITORY / "docs/probes.md", "bash", "Why")
    monkeypatch.chdir(held)
    for line in block.replace("\\\n", " ").splitlines():
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, (line, result.output, result.exception)
    tested = set(patients(held / "parts/test"))
    table = pq.read_table("why/relevance.parquet").to_pylist()
    assert {row["key"] for row in table} == tested
    with open("lesions/masks.csv") as lines:
        masked = {row["key"] for row in csv.DictReader(lines) if row["task"] == "any_bleed"}
    labels = {row["study_key"]: row["any_bleed"] for row in pq.read_table("labels.parquet").to_pylist()}
    assert masked == {row["key"] for row in table if labels[row["study_key"]] == 1}
    rows = [r for r in pq.read_table("why/measures.parquet").to_pylist() if r["group"] == "all"]
    assert {row["volumes"] for row in rows} == {len(masked)}
    best = {row["method"]: row["share"] for row in rows if row["map"] == "greatest"}
    assert all(row["share"] <= best[row["method"]] for row in rows)
    assert "Maps compared with masks" in Path("why.html").read_text()


def test_encoders_are_compared_on_both_datasets(held: Path) -> None:
    compared = blocks(REPOSITORY / "docs/probes.md", "bash", "Encoders on several datasets")[0]
    bash(substituted(compared, SIZES), held)
    rows = pq.read_table(held / "benchmarks/heads/results.parquet").to_pylist()
    assert {row["dataset"] for row in rows} == {"heads", "one-scanner"}
    scored = {row["encoder"] for row in rows if not row["reason"]}
    assert scored == {"held", "untrained", "resnet50-untrained"}
    assert {(row["leakage"], row["pretrained_patients"]) for row in rows} == {("unseen", 0)}
    assert patients(held / "one-scanner/zarr").items() < patients(held / "data/zarr").items()
    assert "3D ResNet-50" in (held / "benchmarks/heads/benchmark.html").read_text()


def test_labels_of_other_kinds_are_probed_and_predicted(held: Path) -> None:
    """The section "Kinds of label", on these heads."""
    section = blocks(REPOSITORY / "docs/probes.md", "bash", "Kinds of label")
    bash(substituted("".join(section), SIZES), held)
    rows = [r for r in pq.read_table(held / "probe-measures/results.parquet").to_pylist() if r["figures"]]
    assert {"ventricle_ml", "haematoma_ml", "atrophy_mm"} <= {row["task"] for row in rows}
    assert {row["method"] for row in rows} == {"logistic"}, "neighbours do not support times to an event"
    results = json.loads((held / "probe-measures/results.json").read_text())
    assert {own["task"] for own in results["figures"]} == {row["task"] for row in rows}
    assert "ventricle_ml" in (held / "measures.html").read_text()
    assert "Classes, grades, values and times to event" in (held / "measures.md").read_text()
    predicted = pq.read_table(held / "predictions-measures/predictions.parquet").to_pylist()
    kinds = {row["task"]: row["kind"] for row in predicted if row["task"]}
    assert kinds == {"ventricle_ml": "regression", "death": "survival"}
    of_probe = pq.read_table(held / "probe-measures/predictions.parquet").to_pylist()
    truth = [row["value"] for row in of_probe if row["task"] == "ventricle_ml"]
    assert truth
    assert all(5 < value < 80 for value in truth)


def test_masks_are_stored_segmented_and_reported(held: Path) -> None:
    masks, parts = Dataset.open(held / "masks"), patients(held / "parts/test")
    assert patients(held / "masks") == patients(held / "data/zarr")
    assert mask_info(masks).classes == ("bleed",)
    labels = {
        row["study_key"]: row["any_bleed"] for row in pq.read_table(held / "labels.parquet").to_pylist()
    }
    stored = pq.read_table(held / "masks/masks.parquet").to_pylist()
    assert {row["study_key"]: int(row["bleed_ml"] > 0) for row in stored} == labels
    rows = pq.read_table(held / "segments/held/results.parquet").to_pylist()
    assert [(row["encoder"], row["head"]) for row in rows] == [
        (encoder, head) for encoder in ("held", "held-untrained") for head in ("linear", "convolution")
    ]
    scored = pq.read_table(held / "segments/held/volumes.parquet")["key"].to_pylist()
    assert set(scored) == set(parts)
    page = (held / "held.html").read_text()
    assert "Segmentation" in page
    assert "the test volume of median Dice" in page
    (python,) = blocks(REPOSITORY / "docs/probes.md", "python", "Segmentation")
    script = substituted(python, {"range(20)": "range(3)"})
    assert "loss" in bash(f"python - <<'END'\n{script}END", held)
