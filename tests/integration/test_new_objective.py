"""docs/architecture.md, "How to add an objective", applied literally to a copy of the packages."""

import json
from pathlib import Path

import pytest
from documented_example import AppliedExample, follow
from documents import REPOSITORY
from small_training import small_config, write_dataset, write_recipe

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> AppliedExample:
    return follow("How to add an objective", tmp_path_factory.mktemp("copy"))


def test_the_documented_part_trains_on_two_ranks_and_is_counted_and_logged(
    copy: AppliedExample, tmp_path: Path
) -> None:
    config = small_config(write_dataset(tmp_path / "data"), run={"steps": 2})
    recipe, folder = write_recipe(config, tmp_path / "recipe.yaml"), tmp_path / "run"
    train = ["launch.cli", "train", "--config", str(recipe), "--run", str(folder), "--ranks", "2"]
    keys = ["objective.variance_weight=0.5", "objective.weight_warmups={variance: 0.5}"]
    wide = "objective.variance_width=1000000000"  # so wide that the other terms are negligible
    outlook = copy.run("-m", *train, "--dry-run", *keys, wide)
    assert f"variance_expander {24 * 1e9 / 1e6:.1f} M" in outlook
    assert f"{3 * 2 * 2 * 24 * 1e9 / 1e12:.2f} TFLOP a volume" in outlook
    copy.run("-m", *train, *keys, "objective.variance_width=16")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["variance_weight"] for row in rows] == [0, 0.5]
    assert all(0 < row["variance"] < 1 for row in rows)
    copy.run("-m", "launch.cli", "report", str(tmp_path / "report.html"), "--run", str(folder))
    assert "VICReg&#39;s variance" in (tmp_path / "report.html").read_text()


def test_the_documented_part_passes_the_tests_of_every_part(copy: AppliedExample) -> None:
    copy.lint()
    tests = (
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(REPOSITORY / "tests/numerics/test_every_part.py"),
    )
    copy.run(*tests)
    good = copy.added.read_text()
    of_one = good.replace("mean_over_ranks(centred.square().mean(dim=1))", "centred.square().mean(dim=1)")
    copy.added.write_text(of_one)
    failed = copy.call(*tests)
    copy.added.write_text(good)
    assert failed.returncode == 1
    assert "variance loss, 2 ranks" in failed.stdout
