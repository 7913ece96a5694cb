"""Commands import their libraries when called, and no others."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from documents import REPOSITORY
from typer import Typer
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from launch.cli import COMMANDS, app, built


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small volumes."""
    folder = tmp_path_factory.mktemp("stored")
    with zipfile.ZipFile(REPOSITORY / "tests/data/artefacts/0.1.0.zip") as stored:
        stored.extractall(folder)
    return folder / "data/zarr"


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
    result = CliRunner().invoke(whole, [*path, "--help"], catch_exceptions=False)
    assert result.exit_code == 0 and "Usage" in result.output, path
    heavy = {"torch", "numpy", "pyarrow", "numba", "pydicom", "yaml"} & set(sys.modules)
    assert not heavy, (path, heavy)
print(len(shown))
"""


def test_help_imports_no_heavy_library() -> None:
    result = subprocess.run([sys.executable, "-c", HELP_OF_ALL], capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 40


@pytest.mark.parametrize(
    ("modules", "without"),
    [
        ("launch.jobs.status, launch.jobs.progress", ("torch", "numpy", "pyarrow", "pydicom")),
        ("launch.pipeline.stages, launch.slurm.submit", ("torch", "pydicom")),
        ("shards.info", ("numpy", "pyarrow")),
        ("fmct_hpc.data.reader", ("torch", "nvidia", "scipy.ndimage")),
        ("preprocess.explain", ("scipy", "numba", "torch")),
        ("fmct_hpc.config, fmct_hpc.train.run", ("torch", "scipy", "matplotlib", "deepspeed")),
        ("fmct_hpc.probe.methods.registry, fmct_hpc.model.kinds", ("torch", "pyarrow")),
        ("fmct_hpc.probe.config, fmct_hpc.dense.config", ("torch", "pyarrow", "scipy")),
    ],
)
def test_inspection_commands_import_only_what_they_read(modules: str, without: tuple[str, ...]) -> None:
    """Modules that the launcher, `fmct launch status` and a trainer's reader processes use."""
    code = f"import sys, {modules}; print(*{{*{without}}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert (result.returncode, result.stdout.split()) == (0, [])


LOADED = """
import sys
from launch.cli import main

words, without = sys.argv[1].split(), sys.argv[2].split(",")
sys.argv[1:] = words
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended
print("loaded:", *{*without} & set(sys.modules))
"""

UNUSED = "torch,deepspeed,pandas,pyarrow.dataset,numba,scipy"


@pytest.mark.parametrize(
    ("words", "without"),
    [
        ("train --help", "pydantic,numpy,pyarrow,torch"),
        ("launch status RUN", "numpy,pyarrow,torch,yaml,rich"),
        ("recipes RUN", "numpy,pyarrow,torch,yaml,rich"),
        ("shards info DATA", f"{UNUSED},numcodecs,rich"),
        ("train --run RUN --dry-run --config RECIPE data.path=DATA", UNUSED),
        ("launch train --run RUN --site SITE --dry-run --config RECIPE data.path=DATA", UNUSED),
    ],
)
def test_a_command_imports_no_library_that_it_does_not_use(
    words: str, without: str, tmp_path: Path, dataset: Path
) -> None:
    recipes = REPOSITORY / "launch/recipes"
    (tmp_path / "run").mkdir()
    places = {
        **{"RUN": tmp_path / "run", "DATA": dataset},
        **{"RECIPE": recipes / "quickstart-train.yaml", "SITE": recipes / "site-test.yaml"},
    }
    for name, place in places.items():
        words = words.replace(name, str(place))
    result = subprocess.run(
        [sys.executable, "-P", "-c", LOADED, words, without], capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "loaded:"


def names(of: Typer) -> list[str]:
    group = get_command(of)
    assert isinstance(group, TyperGroup)
    return list(group.commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_built_alone_equals_that_of_the_whole_program(name: str) -> None:
    alone = built([name, "--anything"])
    assert names(alone) == [name]
    assert len({CliRunner().invoke(each, [name, "--help"]).output for each in (alone, app)}) == 1


def test_an_unknown_command_builds_all_commands() -> None:
    for words in ([], ["--help"], ["shrads"]):
        assert names(built(words)) == list(COMMANDS)
