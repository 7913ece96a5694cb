"""`tests/gpu/run.sh` at toy size: all parts without a GPU run and are in one table."""

import json
import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "gpu/run.sh"
PARTS = {"views", "transfer", "step", "variants", "large", "resume", "data"}


def test_the_script_runs_every_part() -> None:
    assert {path.stem.removeprefix("part_") for path in SCRIPT.parent.glob("part_*.py")} == PARTS
    (line,) = (line for line in SCRIPT.read_text().splitlines() if "parts=(views" in line)
    assert set(line.split("(")[1].rstrip(")").split()) == PARTS


def test_parts_run_dry_and_without_dali(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked/nvidia"  # as where DALI is not installed
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ModuleNotFoundError('nvidia', name='nvidia')\n")
    environment = {**os.environ, "PYTHONPATH": str(blocked.parent), "OMP_NUM_THREADS": "1"}
    command = ["bash", str(SCRIPT), str(tmp_path / "out"), "--dry", "views", "resume", "large", "data"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    actual = json.loads((tmp_path / "out/gpu.json").read_text())
    views, resume, large, data = actual["parts"]
    assert [part["error"] for part in actual["parts"]] == [None] * 4
    assert [row["loader"] for row in data["rows"]] == ["threads, no DALI"]
    assert all(row["ms_a_volume"] > 0 for row in views["rows"])
    assert all(row["identical"] for row in resume["rows"])
    assert all(row["ms"] > 0 for row in large["rows"])
    assert actual["machine"]["torch"] in (tmp_path / "out/gpu.md").read_text()
