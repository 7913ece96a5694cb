"""Imports belong to the declared layer, and a missing layer is reported in one line."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from layers import OURS, REPOSITORY, closure, declared, modules, project, run
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from shard_samples import make_key, make_record

from shards import ShardWriter, finish_dataset
from shards.layers import LAYERS, MissingLayerError, missing_layer, named_layers
from shards.lazy import exports

ROOTS = {
    "": (
        *("launch.cli", "launch.doctor.installation", "shards"),
        *("launch.doctor.dataset", "launch.doctor.run_folder", "launch.doctor.shared"),
        *("fmct_hpc.inference", "fmct_hpc.classifier", "fmct_hpc.retrieval", "fmct_hpc.hub"),
        *(
            "fmct_hpc.train.portable",
            "fmct_hpc.train.convert",
            "fmct_hpc.probe.run",
            "fmct_hpc.probe.sweep.run",
        ),
    ),
    "preprocess": ("preprocess",),
    "train,gpu": ("fmct_hpc",),
    "report": ("launch.report",),
    "slurm": ("launch.slurm", "launch.pipeline", "launch.jobs"),
}
"""Packages and modules by the layers that suffice to import them."""
LAZY = {
    "shards": ("preprocess",),
    "preprocess": ("preprocess", "import", "seg"),
    "fmct_hpc": ("preprocess", "train", "gpu", "onnx", "peers", "search"),
    "launch": ("all",),
}
"""Layers that a package of ours may import anywhere."""
PROVIDED = {"triton"}
"""It comes with PyTorch for CUDA."""


def third_party(nodes: list[ast.stmt], lazy: bool) -> Iterator[str]:
    """Full names of imports, including ours; lazy: also within functions."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for field in ("body", "orelse", "finalbody", "handlers"):
                yield from third_party(getattr(node, field, []), lazy)


@cache
def imports(file: Path, lazy: bool = False) -> tuple[str, ...]:
    return tuple(third_party(ast.parse(file.read_text()).body, lazy))


def file_of(module: str) -> Path | None:
    path = REPOSITORY.joinpath(*module.split("."))
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)


def imported_by(roots: tuple[str, ...]) -> dict[str, str]:
    """Third-party modules (top-level names) imported by all modules below the roots, and by which module."""
    todo = [
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for root in roots
        for base in [REPOSITORY.joinpath(*root.split("."))]
        for file in (base.rglob("*.py") if base.is_dir() else [base.with_suffix(".py")])
        if "templates" not in file.parts
    ]
    seen: set[str] = set()
    collected: dict[str, str] = {}
    while todo:
        module = todo.pop()
        file = file_of(module)
        if module in seen or file is None:
            continue
        seen.add(module)
        todo += [module.rpartition(".")[0]]
        for name in imports(file):
            top = name.partition(".")[0]
            if top in OURS:
                todo.append(name)
            elif top not in sys.stdlib_module_names:
                collected.setdefault(top, module)
    return collected


@pytest.mark.parametrize("layers", ROOTS)
def test_a_layer_suffices_to_import_its_modules(layers: str) -> None:
    there = modules(closure(*filter(None, layers.split(",")))) | PROVIDED
    beyond = {top: by for top, by in imported_by(ROOTS[layers]).items() if top not in there}
    assert beyond == {}


@pytest.mark.parametrize("package", OURS)
def test_imports_within_functions_are_declared(package: str) -> None:
    named = {r.name for layer in ("", *LAZY[package]) for r in declared(layer)}
    there = modules({name.lower().replace("_", "-") for name in named}) | PROVIDED
    also = {"pydantic_core", "markupsafe", "cycler"}  # of pydantic, Jinja and Matplotlib
    for file in (REPOSITORY / package).rglob("*.py"):
        tops = {name.partition(".")[0] for name in imports(file, lazy=True)}
        assert tops - there - also - {*OURS} - sys.stdlib_module_names == set(), file


def test_the_table_of_layers_matches_pyproject() -> None:
    core = modules(closure())
    for layer, names in LAYERS.items():
        tops = {name.partition(".")[0] for name in names}
        assert tops <= modules({r.name.lower().replace("_", "-") for r in declared(layer)}) | {"jinja2"}, (
            layer
        )
        assert tops - core - {"jinja2"}, layer
    assert {*LAYERS} <= project().keys()


CORE = """
import contextlib, io, sys
from pathlib import Path
from launch import cli
from shards.errors import FmctError

def fmct(*words):
    sys.argv, output = ["fmct", *map(str, words)], io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
    return code, output.getvalue()

data, classifier, out = map(Path, sys.argv[1:])
for words in (
    ["--help"],
    ["shards", "info", data],
    ["shards", "verify", data],
    ["features", data, "--encoder", classifier / "encoder.safetensors", "--out", out / "features"],
    ["predict", data, "--classifier", classifier, "--out", out / "predictions"],
    ["export-model", classifier / "encoder.safetensors", "--hub", out / "hub", "--licence", "MIT"],
    ["launch", "status", out],
):
    code, output = fmct(*words)
    assert code == 0, (words, output)
for layer, *words in (
    ("preprocess", "scan", data, "--catalog", out / "catalog.parquet"),
    ("preprocess", "features", out, "--encoder", classifier / "encoder.safetensors", "--out", out / "f"),
    ("report", "report", out / "report.html", "--data", data, "--run", out),
):
    code, output = fmct(*words)
    line = output.strip().splitlines()[-1]
    assert (code, f"[{layer}]" in line, "pip install" in line) == (2, True, True), (words, output)

import fmct_hpc
try:
    list(fmct_hpc.features(out, classifier / "encoder.safetensors"))
except FmctError as error:
    assert "[preprocess]" in str(error)
else:
    raise AssertionError
"""


def test_the_core_alone_reads_shards_infers_and_names_missing_layers(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "data", "shard-00000", "zarr") as writer:
        z, y, x = np.ogrid[-1:1:40j, -1:1:40j, -1:1:40j]
        voxels = np.where(z**2 + y**2 + x**2 < 0.8, 40, -1000).astype(np.int16)
        record = make_record(voxels, make_key(1), spacing_mm=(4.0, 4.0, 4.0))
        writer.add(record, voxels)
    finish_dataset(tmp_path / "data", "zarr", ["shard-00000"])
    classifier = REPOSITORY / "tests/data/classifiers/logistic"
    result = run(CORE, tmp_path / "data", classifier, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]


def test_a_module_of_several_layers_is_attributed_to_the_importer(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing_in(module: str, wanted: str) -> str:
        names = {"__name__": module, "__builtins__": __builtins__}
        try:
            exec(f"raise ModuleNotFoundError('', name={wanted!r})", names)
        except ModuleNotFoundError as error:
            return str(missing_layer(error))
        raise AssertionError

    assert "[report]" in missing_in("launch.report.figures", "matplotlib")
    assert "[train]" in missing_in("fmct_hpc.train.dry_run", "matplotlib.figure")
    assert "[preprocess]" in missing_in("preprocess.qc.montage", "PIL")
    assert "[gpu]" in missing_in("fmct_hpc.data.graph", "nvidia.dali")
    assert missing_in("preprocess.x", "nobody_knows") == "None"


def test_an_import_error_in_python_names_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # as if it were missing
    with pytest.raises(MissingLayerError, match=r"\[train\]"), named_layers():
        import deepspeed  # noqa: F401
    attribute, _ = exports("fmct_hpc", {"there": "deepspeed", "nowhere": "fmct_hpc.nowhere"})
    with pytest.raises(MissingLayerError, match=r"\[train\]"):
        attribute("there")
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        attribute("nowhere")


def test_the_lock_pins_every_installed_package() -> None:
    lines = (REPOSITORY / "launch/constraints.txt").read_text().splitlines()[1:]
    single = [str(r) for table in project().values() for r in map(Requirement, table) if "==" in str(r)]
    locked = {canonicalize_name(line.partition("==")[0]) for line in (*lines, *single)}
    # setuptools and wheel are for building; PyTorch for CUDA pins its own triton.
    assert closure("all", "test") - locked == {"setuptools", "wheel", "triton"}
