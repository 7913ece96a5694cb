"""README's commands, run in its order by bash on the demo's export."""

import json
import re
from pathlib import Path

import pytest
from documents import REPOSITORY, bash, blocks, substituted
from small_training import BATCH, small_config, write_recipe

from fmct_hpc.train.checkpoint import Manifest
from shards import Dataset

pytestmark = pytest.mark.timeout(600)

README = REPOSITORY / "README.md"
PATHS = {
    "/pacs/export": "export/dicom",
    " labels.csv": " export/labels.csv",
    "site.yaml": "launch/recipes/site-example.yaml",
}
SIZES = {
    "--workers 16": "--workers 2",
    "--ranks 4": "--ranks 1",
    "launch/recipes/small-hospital-train.yaml": "small-train.yaml",
    "--config launch/recipes/small-hospital-preprocess.yaml": (
        "--config launch/recipes/small-hospital-preprocess.yaml workers=2 'grid.spacing_mm=[4, 4, 4]'"
    ),
    "labels=labels.parquet": "labels=labels.parquet folds=3 bootstrap=50",
    "--out sweeps/first": (
        "--out sweeps/first device=cpu folds=3 bootstrap=50 'methods=[logistic]' 'pools=[cls]' "
        "'fractions=[1.0]' 'shots=[]' 'seeds=[0]' 'encoders=[{name: first, weights: runs/first}]'"
    ),
}
"""Changes of README's commands in a test: paths, and sizes for seconds on two cores. folds: a split of
twelve studies by a new key's hash may leave no patients for validation."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder after all of "Your own data"."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "launch").symlink_to(REPOSITORY / "launch")
    length = {"steps": None, "epochs": 1, "images_every": 2, "checkpoint_every": 2}
    config = small_config(Path("data/zarr"), run=length)
    write_recipe(config, folder / "small-train.yaml")
    bash("fmct demo export export --studies 12 --matrix 64", folder)
    (block,) = blocks(README, "bash", "Your own data")
    output = bash(substituted(block, PATHS, SIZES), folder)
    assert "no faults found" in output
    assert "verified, all digests match" in output
    return folder


def test_own_data_goes_from_dicom_to_a_report(reader: Path) -> None:
    page = (reader / "report.html").read_text()
    assert "any_bleed" in page
    assert (reader / "runs/first/encoder.safetensors").is_file()
    recorded = json.loads((reader / "runs/first/config.json").read_text())
    assert recorded["data"]["path"] == str(reader / "data/zarr"), "found from wherever a probe is called"
    steps = -(-len(Dataset.open(reader / "data/zarr")) // BATCH)
    assert (recorded["run"]["epochs"], recorded["run"]["steps"]) == (1, steps)
    newest = max((reader / "runs/first/checkpoints").glob("step-*/manifest.json"))
    manifest = Manifest.model_validate_json(newest.read_bytes())
    assert (manifest.step, manifest.configuration["run"]["epochs"]) == (steps, 1)


def test_the_first_recipe_trains_a_small_archive_for_a_sound_number_of_epochs(reader: Path) -> None:
    (block,) = blocks(README, "bash", "Your own data")
    (line,) = (line for line in block.splitlines() if line.startswith("fmct train"))
    output = bash(line.replace("runs/first", "runs/dry") + " --dry-run", reader)
    assert "steps are 800.0 epochs" in output
    assert "WARNING" not in output


def test_the_model_loads_in_three_lines(reader: Path) -> None:
    (block,) = blocks(README, "python", "Your own data")
    given = """
from pathlib import Path
from shards import Dataset
dataset = Dataset.open(Path("data/zarr"))
volume_hu, spacing_mm = dataset.read(0), dataset.info.spacing_mm
"""
    shape = bash(f"python - <<'END'\n{given}{block}print(tuple(tokens.shape))\nEND", reader)
    assert shape.strip() == "(1, 10, 24)"


def test_the_encoder_is_exported_for_others(reader: Path) -> None:
    (block,) = blocks(REPOSITORY / "docs/recipes.md", "bash", "Using an encoder elsewhere")
    assert "tokens within" in bash(block, reader)
    card = (reader / "hub/first/README.md").read_text()
    assert f"| Volumes | {len(Dataset.open(reader / 'data/zarr'))} |" in card
    assert str(reader) not in card + (reader / "hub/first/config.json").read_text()


def test_features_of_new_scans_in_a_shell_and_in_python(reader: Path) -> None:
    given = {"exam other-exam": "export/dicom", '"exam"': '"export/dicom"'}
    (shell,), (python,) = (blocks(README, language, "New scans") for language in ("bash", "python"))
    assert "scans of 1 paths" in bash(substituted(shell, given), reader)
    script = substituted(python, given)
    shapes = bash(f"python - <<'END'\n{script}END", reader)
    assert "(24,) (8, 24) (8, 3)" in shapes


def test_the_cluster_quickstart_runs_up_to_the_submission(reader: Path) -> None:
    pipeline = (REPOSITORY / "launch/recipes/pipeline-example.yaml").read_text()
    paths = {"/private/": "", "/shared/fmct/": "", "labels.csv": "export/labels.csv", **PATHS}
    (reader / "pipeline.yaml").write_text(substituted(pipeline, paths))
    block = "\n".join(blocks(README, "bash", "A cluster in five minutes"))
    block = block.replace(" --dry-run", "")
    block = re.sub(r"^fmct doctor .*$", "", block, flags=re.MULTILINE)  # it needs Slurm
    dry = re.sub(r"^(fmct launch \w+)", r"\1 --dry-run", substituted(block, PATHS), flags=re.MULTILINE)
    assert dry.count("--dry-run") >= 3
    output = bash(dry, reader)
    for job in ("fmct-scan", "fmct-preprocess", "fmct-train", "fmct-probe", "fmct-report"):
        assert job in output
