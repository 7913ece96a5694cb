"""Worker processes and Ctrl-C, which all processes of a command get."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

REPOSITORY = Path(__file__).parents[2]
SLOW_IMPORT = """
import sys, time
from pathlib import Path
from shards.parallel import unordered

if __name__ == "__mp_main__":  # in a worker, which imports this first
    Path(sys.argv[1]).touch()
    time.sleep(2)

if __name__ == "__main__":
    try:
        list(unordered(time.sleep, [30, 30], 2))
    except KeyboardInterrupt:
        sys.exit("interrupted")
"""


def interrupted(command: list[str], ready: Callable[[], bool]) -> tuple[int, list[str], float]:
    """Exit code and lines on standard error of a command that gets Ctrl-C; seconds until it had ended."""
    process = subprocess.Popen(
        [sys.executable, *command],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    try:
        while not ready():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate(timeout=25)[1]  # until no worker is left
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, errors.splitlines(), time.monotonic() - began


def test_workers_interrupted_during_imports_end_silently(tmp_path: Path) -> None:
    script, mark = tmp_path / "script.py", tmp_path / "mark"
    script.write_text(SLOW_IMPORT)
    code, errors, seconds = interrupted([str(script), str(mark)], mark.exists)
    assert (code, errors) == (1, ["interrupted"])
    assert seconds < 15


SLOW_PRELOAD = """
import sys
from shards.parallel import process_pool

if __name__ == "__main__":
    try:
        with process_pool(2, "slow") as pool:
            pool.submit(print, "").result()
    except KeyboardInterrupt:
        sys.exit("interrupted")
"""


def test_a_server_interrupted_during_imports_ends_silently(tmp_path: Path) -> None:
    script, mark = tmp_path / "script.py", tmp_path / "mark"
    script.write_text(SLOW_PRELOAD)
    module = f"import time\nfrom pathlib import Path\nPath({str(mark)!r}).touch()\ntime.sleep(2)\n"
    (tmp_path / "slow.py").write_text(module)
    code, errors, seconds = interrupted([str(script)], mark.exists)
    assert (code, errors) == (1, ["interrupted"])
    assert seconds < 15


@pytest.mark.parametrize("files", [1, 40])
def test_an_interrupted_command_reports_it_in_one_line(tmp_path: Path, files: int) -> None:
    command = ["-m", "launch.cli", "demo", "export", str(tmp_path / "out"), "--studies", "60"]

    def has_files() -> bool:
        return sum(path.suffix == ".dcm" for path in tmp_path.rglob("*")) >= files

    code, errors, _ = interrupted([*command, "--matrix", "32", "--workers", "2"], has_files)
    assert (code, len(errors), errors[0][:6]) == (130, 1, "fmct: ")
    assert not list(tmp_path.iterdir())


TWO_POOLS = """
import json, os, sys
from shards.parallel import process_pool

def place():
    return [os.environ["NUMBER"], os.umask(0o22), "colorsys" in sys.modules]

if __name__ == "__main__":
    for number in (1, 2):
        os.environ["NUMBER"] = str(number)
        os.umask(0o70 + number)
        with process_pool(1, "colorsys") as pool:
            print(json.dumps(pool.submit(place).result()))
"""


@pytest.mark.parametrize(("depth", "served"), [(1, True), (60, False)], ids=["TMPDIR", "long TMPDIR"])
def test_workers_have_the_modules_of_their_server_and_the_place_of_their_pool(
    tmp_path: Path, depth: int, served: bool
) -> None:
    """The second pool's workers come from the server of the first one, which needs a path for its socket."""
    (tmp_path / "script.py").write_text(TWO_POOLS)
    with TemporaryDirectory(dir="/tmp") as short:
        temporary = Path(short, *["0"] * depth)
        temporary.mkdir(parents=True)
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary)}
        command = [sys.executable, str(tmp_path / "script.py")]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0, result.stderr
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        ["1", 0o71, served],
        ["2", 0o72, served],
    ]
