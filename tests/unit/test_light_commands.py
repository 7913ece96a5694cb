"""Commands import what they need when they are called: none waits for the libraries of another."""

import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from launch.cli import COMMANDS, app, built

HELP_OF_ALL = """
import sys
import typer
from typer.testing import CliRunner
from launch.cli import app

whole = app

def paths(command, path=()):
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths(inner, (*path, name))

shown = list(paths(typer.main.get_command(whole)))
for path in shown:
    done = CliRunner().invoke(whole, [*path, "--help"], catch_exceptions=False)
    assert done.exit_code == 0 and "Usage" in done.output, path
    heavy = {"torch", "numpy", "pyarrow", "numba", "pydicom", "yaml"} & set(sys.modules)
    assert not heavy, (path, heavy)
print(len(shown))
"""


def test_no_help_imports_a_library_of_the_stages() -> None:
    done = subprocess.run([sys.executable, "-c", HELP_OF_ALL], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


@pytest.mark.parametrize(
    ("looked", "without"),
    [
        ("launch.slurm.status, launch.slurm.progress", ("torch", "numpy", "pyarrow", "pydicom")),
        ("launch.slurm.stages, launch.slurm.submit", ("torch", "pydicom")),
        ("shards.info", ("numpy", "pyarrow")),
    ],
)
def test_what_looks_at_a_folder_imports_no_more_than_it_reads(looked: str, without: tuple[str, ...]) -> None:
    """What the launcher and `fmct launch status` read of a run, and what tells of a dataset."""
    code = f"import sys, {looked}; print(*{{*{without}}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout.split()) == (0, [])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_built_alone_is_the_one_of_the_whole(name: str) -> None:
    alone = built([name, "--anything"])
    assert list(get_command(alone).commands) == [name]
    assert len({CliRunner().invoke(each, [name, "--help"]).output for each in (alone, app)}) == 1


def test_a_word_that_names_no_command_meets_them_all() -> None:
    for words in ([], ["--help"], ["shrads"]):
        assert list(get_command(built(words)).commands) == list(COMMANDS)
