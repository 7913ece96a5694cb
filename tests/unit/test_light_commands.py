"""Commands that compute nothing start without torch, which takes seconds and hundreds of megabytes."""

import subprocess
import sys

HELP_OF_ALL = """
import sys
import typer
from typer.testing import CliRunner
from launch.cli import app

def paths(command, path=()):
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths(inner, (*path, name))

shown = list(paths(typer.main.get_command(app)))
for path in shown:
    done = CliRunner().invoke(app, [*path, "--help"], catch_exceptions=False)
    assert done.exit_code == 0 and "Usage" in done.output, path
    assert "torch" not in sys.modules, path
print(len(shown))
"""


def test_no_help_imports_torch() -> None:
    done = subprocess.run([sys.executable, "-c", HELP_OF_ALL], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_a_run_folder_is_looked_at_without_torch() -> None:
    """What the launcher and `fmct launch status` read of a run."""
    looked = "import sys, fmct_hpc.train.attempts, launch.slurm.status; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", looked], timeout=200).returncode == 0
