"""Random draws of tests have a seed, which is printed and can be set."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
BOTH = "def test_both(seed, fixed_seed):\n    assert (seed, fixed_seed) == ()\n"
UNSEEDED = {"os.urandom", "time.time_ns", "secrets.randbits", "secrets.token_bytes", "uuid.uuid4"}


def is_unseeded(call: ast.Call, imports_random: bool) -> bool:
    """Whether a call draws random values that cannot be reproduced."""
    name = ast.unparse(call.func)
    if name.endswith(("default_rng", "random.Random")):
        return not call.args or any(is_unseeded(one, False) for one in calls_in(*call.args))
    return name in UNSEEDED or (imports_random and re.fullmatch(r"random\.\w+", name) is not None)


def calls_in(*nodes: ast.AST) -> list[ast.Call]:
    return [call for node in nodes for call in ast.walk(node) if isinstance(call, ast.Call)]


def test_no_test_draws_without_a_seed() -> None:
    for path in TESTS.rglob("*.py"):
        tree = ast.parse(path.read_text())
        imports = [
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        ]
        actual = [ast.unparse(call) for call in calls_in(tree) if is_unseeded(call, "random" in imports)]
        # The fixture `seed` draws a new one.
        assert actual == (["secrets.randbits(32)"] if path.name == "conftest.py" else []), path


def drawn(folder: Path, *arguments: str) -> list[str]:
    """The seeds that a failing test shows: of `seed`, and of `fixed_seed`."""
    options = ("-p", "xdist.plugin", "-p", "conftest", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *options, str(folder), *arguments]
    # Without the plugins of installed packages, which take longer to import than the tests.
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert result.returncode == 1, result.stdout + result.stderr
    return re.findall(r"^--seed (\d+)$", result.stdout, re.MULTILINE)


def test_a_failing_test_shows_its_seed_which_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "test_both.py").write_text(BOTH)
    new, fixed = drawn(tmp_path)
    assert fixed == "0"
    assert drawn(tmp_path, "--seed", new) == [new, new]
