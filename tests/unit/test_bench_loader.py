"""The benchmark of the loader runs, and its rows make the same views."""

import os
import subprocess
from pathlib import Path

from forked_commands import forked_python

ROOT = Path(__file__).parents[2]


def test_bench_loader_at_a_tiny_size() -> None:
    command = [*forked_python(), "tests/bench/bench_loader.py", "--tiny", "--against", "."]
    paths = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/bench'}"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=paths)
    rows = [line.split("|")[1].strip() for line in result.stdout.splitlines()[3:]]
    assert rows == ["other, archive", "this, archive", "this, zstd", "this, lz4"]
