"""docs/architecture.md, "How to add an objective", followed to the letter on a copy of the packages."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import REPOSITORY, blocks
from small_training import small_config, write_dataset, write_recipe

PACKAGES = ("shards", "preprocess", "fmct_hpc", "launch")
HEADING = "How to add an objective"

pytestmark = pytest.mark.timeout(600)


def shown(language: str) -> tuple[str, str]:
    """The section's one block of a language: the path in its first line, and what follows."""
    [block] = blocks(REPOSITORY / "docs/architecture.md", language, HEADING)
    first, rest = block.split("\n", 1)
    return first.removeprefix("# "), rest


def apply(diff: str, text: str) -> str:
    """The text after a diff whose hunks have no numbers: each must fit in one place."""
    hunks = [hunk.splitlines(keepends=True) for hunk in diff.split("@@\n") if hunk]
    for hunk in hunks:
        before, after = ("".join(line[1:] for line in hunk if line[0] in kept) for kept in (" -", " +"))
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages with the part of the document."""
    folder = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    path, code = shown("python")
    assert not (folder / path).exists()
    (folder / path).write_text(code)
    path, diff = shown("diff")
    (folder / path).write_text(apply(diff, (folder / path).read_text()))
    return folder


def call(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with the copy in place of this repository."""
    environment = {
        **os.environ,
        **{"PYTHONPATH": os.pathsep.join([str(copy), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"},
    }
    command = [sys.executable, "-P", "-m", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def run(copy: Path, *arguments: str) -> str:
    """What it printed."""
    done = call(copy, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_documented_part_trains_on_two_ranks_and_is_counted_and_shown(copy: Path, tmp_path: Path) -> None:
    config = small_config(write_dataset(tmp_path / "data"), run={"steps": 2})
    recipe, folder = write_recipe(config, tmp_path / "recipe.yaml"), tmp_path / "run"
    train = ["launch.cli", "train", "--config", str(recipe), "--run", str(folder), "--ranks", "2"]
    keys = ["objective.variance_weight=0.5", "objective.weight_warmups={variance: 0.5}"]
    wide = "objective.variance_width=1000000000"  # so wide that nothing else is to be seen
    outlook = run(copy, *train, "--dry-run", *keys, wide)
    assert f"variance_expander {24 * 1e9 / 1e6:.1f} M" in outlook
    assert f"{3 * 2 * 2 * 24 * 1e9 / 1e12:.2f} TFLOP a volume" in outlook
    run(copy, *train, *keys, "objective.variance_width=16")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["variance_weight"] for row in rows] == [0, 0.5]
    assert all(0 < row["variance"] < 1 for row in rows)
    run(copy, "launch.cli", "report", str(tmp_path / "report.html"), "--run", str(folder))
    assert "VICReg&#39;s variance" in (tmp_path / "report.html").read_text()


def test_the_documented_part_passes_what_every_part_must(copy: Path) -> None:
    path, _ = shown("python")
    settings = ("--config", str(REPOSITORY / "pyproject.toml"), str(copy / path))
    run(copy, "ruff", "check", *settings)
    run(copy, "ruff", "format", "--check", *settings)
    tests = ("pytest", "-q", "-p", "no:cacheprovider", str(REPOSITORY / "tests/numerics/test_every_part.py"))
    run(copy, *tests)
    good = (copy / path).read_text()
    of_one = good.replace("mean_over_ranks(centred.square().mean(dim=1))", "centred.square().mean(dim=1)")
    (copy / path).write_text(of_one)
    failed = call(copy, *tests)
    (copy / path).write_text(good)
    assert failed.returncode == 1
    assert "variance loss, 2 ranks" in failed.stdout
