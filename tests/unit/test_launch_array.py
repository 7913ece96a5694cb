"""`fmct launch array`: the jobs of a command that divides its work."""

import re
import shlex
from pathlib import Path

import pytest
from documents import REPOSITORY, blocks
from typer.testing import CliRunner

from launch.cli import app
from shards.errors import FmctError

RECIPES = Path(__file__).parents[2] / "launch" / "recipes"
ARRAY = ["launch", "array", "--site", str(RECIPES / "site-test.yaml"), "--tasks", "3", "--dry-run", "--"]


def launched(*words: str) -> list[list[str]]:
    """The command lines of all tasks, in the order of the jobs."""
    result = CliRunner().invoke(app, [*ARRAY, *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    commands = re.findall(rf"^.*\b{words[0]} .*--out .*$", result.output, re.M)
    return [shlex.split(line.partition(f"{words[0]} ")[2]) for line in commands if "###" not in line]


@pytest.mark.parametrize(
    ("name", "recipe", "plans"),
    [
        ("segment", "segment-example.yaml", []),
        ("robustness", "sweep-example.yaml", []),
        ("benchmark", "benchmark-example.yaml", [["--plan"]]),
    ],
)
def test_an_array_of_shares_follows_features_and_precedes_the_merge(
    name: str, recipe: str, plans: list[list[str]], tmp_path: Path
) -> None:
    own = [str(RECIPES / recipe), "--out", str(tmp_path / "out dir"), "device=cpu"]
    added = [*plans, ["--extract", "-1"], *(["--share", f"{i}/3"] for i in range(3)), []]
    assert launched(name, *own) == [[*own, *more] for more in added]
    assert not (tmp_path / "out dir").exists()


def test_relevance_needs_no_features(tmp_path: Path) -> None:
    for name in ("exams", "classifier"):
        (tmp_path / name).mkdir()
    own = [
        str(tmp_path / "exams"),
        "--classifier",
        str(tmp_path / "classifier"),
        "--out",
        str(tmp_path / "w"),
    ]
    added = [*(["--share", f"{i}/3"] for i in range(3)), ["--collect"]]
    assert launched("relevance", *own) == [[*own, *more] for more in added]


def test_the_documents_arrays_can_be_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("launch").symlink_to(RECIPES.parent)
    Path("site.yaml").symlink_to(RECIPES / "site-test.yaml")
    for name in ("exams/new", "classifiers/first", "runs/first"):
        Path(name).mkdir(parents=True)
    (block,) = blocks(REPOSITORY / "docs/probes.md", "bash", "As job arrays")
    for line in block.splitlines():
        words = shlex.split(line)[1:]
        result = CliRunner().invoke(app, [*words[:2], "--dry-run", *words[2:]], catch_exceptions=False)
        assert result.exit_code == 0, line
        assert f"fmct-{words[words.index('--') + 1]}-joined" in result.output


def test_jobs_wait_for_those_before(tmp_path: Path) -> None:
    words = [*ARRAY, "segment", str(RECIPES / "segment-example.yaml"), "--out", str(tmp_path / "out")]
    output = CliRunner().invoke(app, words, catch_exceptions=False).output
    waits = re.findall(r"^#SBATCH --dependency=(.*)$", output, re.M)
    assert waits == ["afterok:fmct-segment-features", "afterok:fmct-segment-array"]
    assert re.findall(r"^#SBATCH --array=(\S+)$", output, re.M)[0].startswith("0-2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "c.yaml", "--out", "o"], "sweep is none of segment.*fmct launch sweep"),
        (["segment", "RECIPE", "--out", "o", "--share", "0/2"], "leave out --share"),
        (["segment", "RECIPE", "--out", "o", "cells=none"], "cells"),
        (["robustness", "none.yaml", "--out", "o"], "none.yaml"),
        (["relevance", "RECIPE", "--classifier", "none", "--out", "o"], "none: no such"),
        (["relevance", "RECIPE", "--encoder", "RECIPE", "--out", "o", "--collect"], "leave out --collect"),
    ],
)
def test_arrays_that_cannot_run_are_refused_before_submission(words: list[str], message: str) -> None:
    recipe = str(RECIPES / "segment-example.yaml")
    given = [recipe if word == "RECIPE" else word for word in words]
    with pytest.raises(FmctError, match=message):
        CliRunner().invoke(app, [*ARRAY, *given], catch_exceptions=False)
