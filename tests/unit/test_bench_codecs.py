"""The benchmark of compressed series runs, and its two sides make the same volume."""

import os
import subprocess
from pathlib import Path

from forked_commands import forked_python

ROOT = Path(__file__).parents[2]


def test_bench_codecs_at_a_tiny_size() -> None:
    command = [*forked_python(), "tests/bench/bench_codecs.py", "--tiny", "--against", "."]
    paths = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/bench'}"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=paths)
    rows = [line.split("|")[1].strip() for line in result.stdout.splitlines()[3:]]
    assert rows == ["uncompressed", "JPEG Lossless SV1"]
