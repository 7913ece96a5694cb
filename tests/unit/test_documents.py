"""Commands, options, configuration keys and files in the documents exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from documents import DOCUMENTS, REPOSITORY, Command, blocks, commands, spans
from pydantic import BaseModel

from fmct_hpc.benchmark.config import BenchmarkConfig
from fmct_hpc.config import TrainConfig
from fmct_hpc.dense.config import SegmentConfig
from fmct_hpc.probe.config import ProbeConfig, SweepConfig
from fmct_hpc.retrieval.config import RetrievalConfig
from launch.cli import app
from launch.config import load
from launch.slurm.site import Site
from preprocess.config import PreprocessConfig
from preprocess.reasons import Reason

ROOT: Any = typer.main.get_command(app)
MODELS: dict[str, type[BaseModel]] = {
    "preprocess": PreprocessConfig,
    "select": PreprocessConfig,
    "import": PreprocessConfig,
    "launch preprocess": PreprocessConfig,
    "train": TrainConfig,
    "launch train": TrainConfig,
    "probe": ProbeConfig,
    "launch probe": ProbeConfig,
    "sweep": SweepConfig,
    "launch sweep": SweepConfig,
    "benchmark": BenchmarkConfig,
    "segment": SegmentConfig,
    "retrieval": RetrievalConfig,
}
"""The model that validates the overrides of a command."""
FOLDERS = ("launch", "tests", "docs", "fmct_hpc", "preprocess", "shards")
PROGRAMS = (
    "bash",
    "python",
    "pytest",
    "sbatch",
    "squeue",
    "scontrol",
    "sacct",
    "pip",
    "srun",
    "docker",
    "apptainer",
)
ids = [document.name for document in DOCUMENTS]


def parsed(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> typer.Context:
    """The innermost command's context; raises TyperException as a call would, and runs nothing."""
    context: typer.Context = ROOT.make_context("fmct", list(words[1:]))
    while hasattr(context.command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, rest)
        for parameter in command.params:
            monkeypatch.setattr(parameter.type_descriptor.parameter_info, "exists", False, raising=False)
        context = command.make_context(name, rest, parent=context)
    return context


def all_commands() -> Iterator[Command]:
    for document in DOCUMENTS:
        yield from commands(document)


OURS = [command for command in all_commands() if command.words[0] == "fmct"]


@pytest.mark.parametrize("command", OURS, ids=str)
def test_every_documented_command_is_valid(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    context = parsed(command.words, monkeypatch)
    name = context.command_path.removeprefix("fmct ")
    given = [value for values in context.params.values() if isinstance(values, list) for value in values]
    overrides = [value for value in map(str, given) if "=" in value]
    config = context.params.get("config")
    model = MODELS.get(name)
    if model is None or not (config or overrides):
        return
    if config and config.name == "sweep.yaml":  # written by `fmct benchmark --plan`
        return
    if config and config.name == "studies.yaml":  # shown there, and run by test_studies_section.py
        return
    if config and not (REPOSITORY / config).exists():
        # The reader's own recipe, which has the required keys.
        assert config.name == "recipe.yaml"
        config = None
        overrides += ["key_file=k"] if model is PreprocessConfig else ["data.path=d"]
    monkeypatch.chdir(REPOSITORY)
    load(model, config, overrides)


def test_the_check_rejects_invalid_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("fmct scna x", "fmct scan x --catlog c", "fmct scan", "fmct shards verify a b c"):
        with pytest.raises(typer.TyperException):
            parsed(tuple(wrong.split()), monkeypatch)


@pytest.mark.parametrize("command", [c for c in all_commands() if c.words[0] != "fmct"], ids=str)
def test_other_commands_run_existing_files_and_modules(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *rest = command.words
    assert program in PROGRAMS, command
    for word in rest:
        if word.split("/")[0] in FOLDERS:
            assert (REPOSITORY / word.split("::")[0]).exists(), command
    if program == "srun":
        parsed(command.words[command.words.index("fmct") :], monkeypatch)


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_files_named_in_the_text_exist(document: Path) -> None:
    text = document.read_text()
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in link:
            assert (document.parent / link).exists(), link
    for span in spans(document):
        word = span.split()[0].split("::")[0] if span.split() else ""
        if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]+", word):
            assert (REPOSITORY / word).exists(), span
    for name in re.findall(r"docs/\w+\.md", text):
        assert (REPOSITORY / name).exists(), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_tests_named_in_the_text_exist(document: Path) -> None:
    for span in spans(document):
        path, _, name = span.partition("::")
        if name:
            assert f"def {name}(" in (REPOSITORY / path).read_text(), span


KIND_OF_FAULT = re.compile(r"\| [^|]+ \| [^|]+ \| (?:[^|]*) \| `tests/[\w/]+\.py::test_\w+` \|")


def test_every_fault_has_a_rule_a_test_and_existing_reasons() -> None:
    text = (REPOSITORY / "docs" / "recipes.md").read_text()
    table = text.split("## Defects of exports, and how they are handled\n")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| **")][1:]
    assert len(rows) >= 30
    for row in rows:
        assert KIND_OF_FAULT.fullmatch(row), row
        for reason in re.findall(r"`(\w+)`", row.split(" | ")[2]):
            assert reason in list(Reason), row


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_commands_named_in_the_text_have_the_options_named_there(document: Path) -> None:
    for span in spans(document):
        if not span.startswith("fmct "):
            continue
        command = ROOT
        words = shlex.split(span.replace("...", ""))[1:]
        while words and hasattr(command, "commands") and words[0][0].isalpha() and "|" not in words[0]:
            assert words[0] in command.commands, f"{document.name}: {span}"
            command = command.commands[words.pop(0)]
        if words and "|" in words[0]:
            assert set(words[0].split("|")) <= set(command.commands), span
            continue
        options = {option for parameter in command.params for option in parameter.opts}
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= options | {"--help", "--install-completion"}, f"{document.name}: {span}"


KEYS = re.compile(r"(data|model|objective|optim|engine|run|health|select|grid|check|privacy|output)\.(\w+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_configuration_keys_named_in_the_text_exist(document: Path) -> None:
    fields = {
        **{name: field.annotation for name, field in TrainConfig.model_fields.items()},
        **{name: field.annotation for name, field in PreprocessConfig.model_fields.items()},
    }
    for span in spans(document):
        key = KEYS.fullmatch(span.split("=")[0].split(":")[0])
        if key and "/" not in span:
            section: Any = fields[key[1]]
            assert key[2] in section.model_fields, f"{document.name}: {span}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_documented_recipes_are_valid(document: Path, tmp_path: Path) -> None:
    for block in blocks(document, "yaml"):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(block)
        if "select:" in block or "output:" in block:
            load(PreprocessConfig, recipe, ["key_file=k", "select.table=null"])
        elif "partition:" in block or "account:" in block:
            load(Site, recipe, [])
        elif "encoders:" in block:
            load(SweepConfig, recipe, ["data=d", "labels=l", "features=f"])
        else:
            load(TrainConfig, recipe, ["data.path=d"])
