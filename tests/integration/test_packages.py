"""The results of `python -m build`, installed without the rest of this project."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from layers import absent

from launch.container.answer import answer
from shards.errors import FmctError

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("shards", "preprocess", "fmct_hpc", "launch")


def run(*command: object, folder: Path, code: int = 0, **variables: str) -> str:
    """Run a command without the tests' paths; returns its output."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=kept | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert result.returncode == code, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel built from the sdist."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"  # building writes files to its source
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in PACKAGES:
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source, folder=folder)
    return folder


@pytest.fixture(scope="module")
def clean(built: Path) -> Path:
    """The programs of an environment with the wheel; its dependencies are those of the tests' environment."""
    (wheel,) = built.glob("*.whl")
    environment = built / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, folder=built)
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, folder=built)
    # A path in a .pth file; the .pth files there, including this checkout's, have no effect.
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "needed.pth").write_text(str(Path(np.__file__).parents[1]))
    return environment / "bin"


def test_sdist_and_wheel_hold_every_file_of_the_packages(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert wheel.name == f"fmct_hpc-{version}-py3-none-any.whl"
    expected = {
        str(file.relative_to(built / "source"))
        for name in PACKAGES
        for file in (built / "source" / name).rglob("*")
        if file.is_file()
    }
    assert {"launch/recipes/reference-train.yaml", "preprocess/qc/templates/qc.html"} < expected
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    assert expected - in_wheel == set()
    assert {name.split("/")[0] for name in in_wheel} == {*PACKAGES, f"fmct_hpc-{version}.dist-info"}
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    assert expected | {"README.md", "LICENSE", "pyproject.toml"} <= in_sdist


def test_the_wheel_works_outside_the_repository(clean: Path, tmp_path: Path) -> None:
    where = "import launch, shards, preprocess, fmct_hpc as f; print(launch.__file__, f.__file__)"
    for path in run(clean / "python", "-c", where, folder=tmp_path).split():
        assert Path(path).is_relative_to(clean.parent)
    assert "preprocess" in run(clean / "fmct", "--help", folder=tmp_path)
    run(clean / "fmct", "demo", "export", "export", "--studies", 2, "--matrix", 48, folder=tmp_path)
    run(clean / "fmct", "keygen", "hmac.key", folder=tmp_path)
    run(clean / "fmct", "scan", "export/dicom", "--catalog", "catalog.parquet", folder=tmp_path)
    copied = run(clean / "fmct", "recipes", folder=tmp_path).split()
    assert {"launch/recipes/reference-train.yaml", "launch/sbatch/train.sbatch"} < set(copied)
    recipe = ("--config", "launch/recipes/reference-preprocess.yaml", "key_file=hmac.key")
    assert "2 " in run(clean / "fmct", "select", "catalog.parquet", *recipe, folder=tmp_path)


OFFLINE = """
import socket
import sys

def refuse(*_):
    raise OSError("no network")

socket.socket.connect = socket.socket.connect_ex = refuse
blocked = {blocked!r}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions and their arguments."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "launch/container/Dockerfile").read_text(), flags=re.MULTILINE)
    lines = (line.partition(" ") for line in text.replace("\\\n", "").splitlines() if line)
    return [(instruction, rest) for instruction, _, rest in lines]


def installed(instruction: str) -> list[str]:
    """The pip command in a RUN line or a line of %post."""
    return shlex.split(instruction[instruction.index("/opt/fmct/bin/pip") :])


def test_the_recipes_of_containers_hold_what_they_copy_and_install(tmp_path: Path) -> None:
    steps = dockerfile()
    copied = [words.split() for name, words in steps if name == "COPY" and "--" not in words]
    assert {"pyproject.toml", "README.md", "LICENSE", *PACKAGES} == {
        one for row in copied for one in row[:-1]
    }
    assert all((REPOSITORY / one).exists() for row in copied for one in row[:-1])
    (model,) = (words.partition("=")[2] for name, words in steps if name == "ARG" and "MODEL" in words)
    assert (REPOSITORY / model).is_dir()
    users = [int(words) for name, words in steps if name == "USER"]
    assert users
    assert 0 not in users
    (run_pip,) = (words for name, words in steps if name == "RUN" and "pip install" in words)
    assert {".[preprocess]", "launch/constraints.txt"} < {*installed(run_pip)}
    # Apptainer's does the same.
    definition = (REPOSITORY / "launch/container/fmct.def").read_text()
    (post,) = (line for line in definition.splitlines() if "pip install" in line)
    same = [word.replace("{{ torch_index }}", "$TORCH_INDEX") for word in installed(post)]
    assert same == installed(run_pip)
    (entry,) = (json.loads(words) for name, words in steps if name == "ENTRYPOINT")
    assert f"exec {shlex.join(entry)}" in definition
    lint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    run(lint, REPOSITORY / "launch/container/Dockerfile", folder=tmp_path)


def test_the_container_predicts_offline_with_its_layers_alone(clean: Path, tmp_path: Path) -> None:
    """The entry point, in an environment with the built wheel and without modules of other layers."""
    (entry,) = (json.loads(words) for name, words in dockerfile() if name == "ENTRYPOINT")
    command = [entry[0].replace("/opt/fmct/bin", str(clean)), *entry[1:]]
    (tmp_path / "hooks").mkdir()
    hook = OFFLINE.format(blocked=absent("preprocess"))
    (tmp_path / "hooks" / "sitecustomize.py").write_text(hook)
    run(clean / "fmct", "demo", "export", "export", "--studies", 1, "--matrix", 48, folder=tmp_path)
    exams = tmp_path / "input"
    exams.mkdir()
    (tmp_path / "export/dicom").rename(exams / "exam 1")
    classifier = REPOSITORY / "tests/data/classifiers/logistic"
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    for name in ("encoder.json", "encoder.safetensors"):
        shutil.copy(classifier / name, encoder)
    collected = {}
    for model, code in ((classifier, 0), (encoder, 2)):
        out = tmp_path / f"out-{model.name}"
        places = {"FMCT_INPUT": str(exams), "FMCT_OUTPUT": str(out), "FMCT_MODEL": str(model)}
        message = run(*command, folder=tmp_path, code=code, PYTHONPATH=str(tmp_path / "hooks"), **places)
        collected[model.name] = json.loads((out / "results.json").read_text())
        (exams / "notes.txt").write_text("no exam")
    assert "notes.txt" in message.splitlines()[-1]
    (exam,) = collected["logistic"]["exams"]
    assert (exam["exam"], exam["reason"], collected["logistic"]["model"]) == ("exam 1", None, "classifier")
    assert 0 <= exam["scans"][0]["answers"]["bright"]["score"] <= 1
    same, refused = collected["encoder"]["exams"]
    assert [scan["key"] for scan in same["scans"]] == [scan["key"] for scan in exam["scans"]]
    assert all((tmp_path / "out-encoder" / scan["features"]).is_file() for scan in same["scans"])
    assert (same["reason"], refused["scans"], bool(refused["reason"])) == (None, [], True)
    for given, model, message in ((encoder / "none", encoder, "no exams"), (exams, exams, "no classifier")):
        with pytest.raises(FmctError, match=message):
            answer(given, tmp_path / "nothing", model, "cpu")


def test_existing_recipes_are_not_replaced(clean: Path, tmp_path: Path) -> None:
    mine = tmp_path / "launch" / "recipes" / "site-example.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("account: mine\n")
    copied = run(clean / "fmct", "recipes", folder=tmp_path)
    assert "site-example" not in copied
    assert mine.read_text() == "account: mine\n"
    assert run(clean / "fmct", "recipes", folder=tmp_path) == ""


@pytest.mark.parametrize(
    ("words", "last", "completed"),
    [("fmct prep", 1, "preprocess"), ("fmct shards ver", 2, "verify"), ("fmct train --dry", 2, "--dry-run")],
)
def test_bash_completes_commands_and_options(
    clean: Path, tmp_path: Path, words: str, last: int, completed: str
) -> None:
    # bash calls the script's completion function with the words typed so far.
    script = f"""
        source <(fmct --show-completion bash)
        COMP_WORDS=({words}) COMP_CWORD={last}
        $(complete -p fmct | sed 's/.* -F \\([^ ]*\\) .*/\\1/') fmct
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{clean}{os.pathsep}{os.environ['PATH']}"
    assert run("bash", "-c", script, folder=tmp_path, PATH=path).split() == [completed]
