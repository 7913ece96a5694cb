"""Two concurrent commands on one output: one is refused with one line, and the other's output is complete."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from preprocess_export import Export, contents, make_export, run_inline
from shard_samples import make_key, noise, write_dataset

from shards import verify

PATIENCE_S = 120.0

pytestmark = pytest.mark.timeout(600)


def start(command: tuple[object, ...]) -> subprocess.Popen[str]:
    words = [sys.executable, "-P", "-m", "launch.cli", *map(str, command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def race(command: tuple[object, ...], delay: float, kill: bool = False) -> list[int]:
    """Exit codes of two processes of one command, of which the second starts `delay` seconds later."""
    first = start(command)
    time.sleep(delay)
    second = start(command)
    if kill:
        first.send_signal(signal.SIGKILL)
    errors = [process.communicate(timeout=PATIENCE_S)[1] for process in (first, second)]
    for process, words in zip((first, second), errors, strict=True):
        assert "Traceback" not in words, words
        if process.returncode == 2:
            assert "is writing there" in words.splitlines()[-1]
    return [first.returncode, second.returncode]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return make_export(tmp_path_factory.mktemp("export"), studies=12)


@pytest.fixture(scope="module")
def unbroken(export: Export, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("unbroken") / "out"
    run_inline(export, out, export.config())
    return contents(out)


@pytest.mark.parametrize("kill", [False, True], ids=["both-run", "first-is-killed"])
def test_two_preprocess_of_one_output(
    export: Export, unbroken: dict[str, bytes], tmp_path: Path, kill: bool
) -> None:
    settings = (f"key_file={export.key_file}", "workers=2", "grid.spacing_mm=[4,4,4]", "output.shard_mib=1")
    command = ("preprocess", export.catalog, "--out", tmp_path / "out", *settings, "select.keep=all")
    for delay in (0.0, 2.5):
        codes = race(command, delay, kill)
        assert set(codes) <= {0, 2, -signal.SIGKILL}
        assert kill or 0 in codes
    finished = start(command)
    assert finished.communicate(timeout=PATIENCE_S)[1] is not None
    assert finished.returncode == 0
    assert contents(tmp_path / "out") == unbroken


@pytest.mark.parametrize("kill", [False, True], ids=["both-run", "first-is-killed"])
def test_two_conversions_into_one_folder(tmp_path: Path, kill: bool) -> None:
    shards = {f"s{number}": {make_key(number): noise((60, 60, 60), number)} for number in range(12)}
    write_dataset(tmp_path / "data", "zarr", shards)
    command = ("shards", "convert", tmp_path / "data", "--out", tmp_path / "out", "--to", "webdataset")
    codes = race(command, 0.0, kill)
    assert set(codes) <= {0, 2, -signal.SIGKILL}
    finished = start(command)
    assert finished.communicate(timeout=PATIENCE_S)[1] is not None
    assert finished.returncode == 0
    assert verify(tmp_path / "out") == []
    assert not list((tmp_path / "out").glob(".*"))
