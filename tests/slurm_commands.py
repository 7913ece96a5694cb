"""Commands of Slurm and `fmct launch` on the tests' cluster."""

import os
import subprocess
import sys
from pathlib import Path

from forked_commands import forked_fmct

REPOSITORY = Path(__file__).parents[1]
SITE = REPOSITORY / "launch/recipes/site-test.yaml"
SBATCH = REPOSITORY / "launch/sbatch"


def run(program: str, *words: str | Path) -> str:
    """Run a command of Slurm, or of `fmct` (`forked_fmct`; the jobs start it as everywhere)."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["OMP_NUM_THREADS"] = "1"
    command = (*(forked_fmct() if program == "fmct" else (program,)), *words)
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def launched(*arguments: str | Path) -> list[str]:
    """Numbers of the jobs that `fmct launch` submitted."""
    lines = run("fmct", "launch", *arguments, "--site", SITE).splitlines()
    return [line.split("job ")[1].split(",")[0] for line in lines]


def logs(folder: Path) -> str:
    return "\n".join(f"{path}\n{path.read_text()}" for path in sorted(folder.glob("**/*.out")))
