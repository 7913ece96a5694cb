"""The public CI file and the hooks run the commands of docs/contributing.md with the pinned tools."""

import tomllib
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]


def test_the_public_ci_runs_every_folder_of_tests_by_the_one_script() -> None:
    jobs = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())["jobs"]
    runs = [step["run"].split() for job in jobs.values() for step in job["steps"] if "run" in step]
    assert all(run[:2] == ["bash", "tests/run.sh"] for run in runs)
    folders = {path.parent.name for path in (REPOSITORY / "tests").glob("*/test_*.py")}
    assert {folder.removeprefix("tests/") for run in runs for folder in run[2:]} >= folders


def test_the_hooks_are_tools_of_the_test_environment() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pinned = {given.split("==")[0] for given in project["optional-dependencies"]["test"] if "==" in given}
    (repo,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    tools = {hook["entry"].split()[0] for hook in repo["hooks"]}
    assert tools == {"ruff", "mypy", "lint-imports"}
    assert {"ruff", "mypy", "import-linter"} <= pinned
