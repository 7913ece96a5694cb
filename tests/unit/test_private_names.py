"""Tests use only public names of our packages and of DALI, so that private names can be changed."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
OTHERS = {
    "_replace": "namedtuple; public, with an underscore against clashes with fields",
    "_asdict": "namedtuple",
    "_exit": "os",
    "_shutdown": "threading: what Python does when it ends, before the functions of atexit",
    "_run_exitfuncs": "atexit, as above",
    "_foreach_lerp_": "torch: the fused update that benchmarks compare with",
    "_get_backend": "torch: the time limit of a process group has no public reader",
    "_timeout": "torch, as above",
    "_python_dispatch": "torch: the module of TorchDispatchMode",
    "_inductor": "torch: its compiler's choice of a C++ compiler",
    "_protected_args": "click: words that a group leaves to its command",
    "_cbuffer_metainfo": "numcodecs: what a blosc header says, as an oracle of our own reader",
    "_cbuffer_sizes": "numcodecs, as above",
    "_candidate_tempdir_list": "tempfile: a machine without a temporary folder",
    "_get_config_or_cache_dir": "matplotlib: a machine without a home",
}
"""Private names of other programs that tests use because there is no public equivalent."""


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def names(tree: ast.AST) -> Iterator[str]:
    """Private attributes of others than `self`, private names that are imported or patched."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls", "super()"):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("setattr", "patch", "patch.object")
        ):
            texts = [
                one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)
            ]
            yield from (part for text in texts for part in text.split("."))


@pytest.mark.parametrize("folder", ["unit", "numerics", "integration", "bench", "gpu", "."])
def test_no_private_name_is_used(folder: str) -> None:
    for path in (TESTS / folder).glob("*.py"):
        actual = {name for name in names(ast.parse(path.read_text())) if private(name)}
        assert actual <= OTHERS.keys(), path
