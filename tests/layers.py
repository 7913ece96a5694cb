"""The installed packages of a layer of pyproject.toml, and a process that can import no others."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
OURS = ("shards", "preprocess", "fmct_hpc", "launch")
BLOCK = """
import sys
blocked = set(sys.argv.pop(1).split(","))

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


@cache
def project() -> dict[str, list[str]]:
    """Requirements by layer; the core's under ""."""
    table = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return {"": table["dependencies"], **table["optional-dependencies"]}


def declared(layer: str) -> Iterator[Requirement]:
    """Requirements of a layer ("": the core) in pyproject.toml, including those of layers that it names."""
    for requirement in map(Requirement, project()[layer]):
        if requirement.name == "fmct-hpc":
            for inner in requirement.extras:
                yield from declared(inner)
        else:
            yield requirement


def closure(*layers: str) -> set[str]:
    """Canonical names of the distributions of the core and of these layers, with their dependencies."""
    collected: set[str] = set()
    todo = [requirement for layer in ("", *layers) for requirement in declared(layer)]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in collected:
            continue
        collected.add(name)
        try:
            needed = map(Requirement, requires(requirement.name) or [])
        except PackageNotFoundError:  # DALI's CUDA libraries
            continue
        extras = requirement.extras or {""}
        todo += [
            r for r in needed if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)
        ]
    return collected


def modules(distributions: set[str]) -> set[str]:
    """Top-level module names of these distributions."""
    return {
        module
        for module, owners in packages_distributions().items()
        if distributions & {canonicalize_name(owner) for owner in owners}
    }


def absent(*layers: str) -> set[str]:
    """Top-level module names of all installed distributions outside of the core and these layers."""
    there = modules(closure(*layers))
    return {m for m in packages_distributions() if m.isidentifier() and m not in {*there, *OURS}}


def run(script: str, *arguments: object, layers: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run Python with only the core and these layers."""
    return subprocess.run(
        [sys.executable, "-c", BLOCK + script, ",".join(sorted(absent(*layers))), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
    )
