"""Our modules import the submodules of libraries that they use.

Another module may have imported these before; all are there in a process forked from one with the libraries.
"""

import ast
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from documents import REPOSITORY

PACKAGES = ("fmct_hpc", "launch", "preprocess", "shards")
ABSENT = """
import importlib.util, json, os, pkgutil, sys

for library, modules in json.load(sys.stdin).items():
    spec = importlib.util.find_spec(library)
    inner = {one.name for one in pkgutil.iter_modules(spec and spec.submodule_search_locations or [])}
    if not inner & {use.partition(".")[0] for use in modules.get(library, [])}:
        continue
    if os.fork():
        if os.wait()[1]:
            sys.exit(1)
        continue
    for module, uses in modules.items():
        importlib.import_module(module)
        for use in uses:
            name, value = module, sys.modules[module]
            for part in use.split("."):
                if not hasattr(value, "__path__"):  # not a package
                    break
                name += f".{part}"
                if not hasattr(value, part) and importlib.util.find_spec(name):
                    print(name, flush=True)
                value = getattr(value, part, None)
    os._exit(0)
"""
"""Prints the submodules, among attributes of modules, that are absent after `import MODULE` alone."""


def dotted(node: ast.expr) -> str:
    """The text of a.b.c; that of other expressions starts with a dot."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def uses(path: Path) -> set[tuple[str, str]]:
    """Each module that a file imports by name, with an attribute such as a.b.c that it does not import."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported: set[str] = set()
    names: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{one.name}" for one in node.names}
        elif isinstance(node, ast.Import):
            imported |= {one.name for one in node.names}
            for one in node.names:
                library = one.name.partition(".")[0]
                names[one.asname or library] = one.name if one.asname else library
    read = [dotted(node).partition(".") for node in nodes if isinstance(node, ast.Attribute)]
    used = {(names[first], rest) for first, _, rest in read if first in names}
    return {
        (module, use)
        for module, use in used
        if not any(f"{module}.{use}.".startswith(f"{one}.") for one in imported - {module})
    }


def absent(used: set[tuple[str, str]]) -> set[str]:
    """As `ABSENT`, in a process for each library."""
    libraries: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for module, use in sorted(used):
        libraries[module.partition(".")[0]][module].append(use)
    result = subprocess.run(
        [sys.executable, "-c", ABSENT],
        input=json.dumps(libraries),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_a_submodule_that_is_not_imported_is_found(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(
        "import os, pyarrow as pa, xml.dom\npa.parquet.read_table, xml.etree.a, xml.dom.b, os.path, pa.types"
    )
    assert absent(uses(file)) == {"pyarrow.parquet", "xml.etree"}


def test_used_submodules_are_imported() -> None:
    files = {path: uses(path) for name in PACKAGES for path in (REPOSITORY / name).rglob("*.py")}
    missing = absent(set().union(*files.values()))
    assert not [
        (path, name)
        for path, used in files.items()
        for name in missing
        if any(f"{module}.{use}.".startswith(f"{name}.") for module, use in used)
    ]
