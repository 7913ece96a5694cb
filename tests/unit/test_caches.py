"""The cache of compiled code: not in folders that others can write to, and without effect on results."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked_commands import forked_python
from restricted import confined
from shard_samples import make_key, noise, write_dataset

from shards import caches, compiled

SCRIPT = """
from shards.compiled import njit

@njit()
def twice(x):
    return 2 * x

assert twice(21) == 42
print(sum(twice.stats.cache_hits.values()))
"""


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user whose folders are all in tmp_path."""
    for name in (caches.VARIABLE, "XDG_CACHE_HOME", *caches.LIBRARIES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir(mode=0o1777)
    return tmp_path


def place() -> Path | None:
    caches.place.cache_clear()
    try:
        return caches.place()
    finally:
        caches.place.cache_clear()


def test_the_first_usable_folder_is_taken(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = alone / "tmp" / f"fmct-cache-{os.getuid()}"
    monkeypatch.setenv("HOME", "/nonexistent")
    assert place() == scratch
    monkeypatch.setenv("HOME", str(alone / "home"))
    assert place() == alone / "home/.cache/fmct"
    monkeypatch.setenv("XDG_CACHE_HOME", str(alone / "xdg"))
    assert place() == alone / "xdg/fmct"
    monkeypatch.setenv(caches.VARIABLE, str(alone / "mine"))
    assert place() == alone / "mine"
    assert {path.stat().st_mode & 0o777 for path in (alone / "mine", alone / "xdg/fmct", scratch)} == {0o700}
    # Folders below the working folder are not trusted.
    for name in (caches.VARIABLE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, "~")
    monkeypatch.chdir(alone / "home")
    assert place() == scratch
    assert [path.name for path in Path().iterdir()] == [".cache"]


def _of_another(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, 65534, 65534)


def _a_link(path: Path) -> None:
    (path.parent / "own").mkdir(mode=0o700)
    path.symlink_to(path.parent / "own")


def _open_to_the_group(path: Path) -> None:
    path.mkdir()
    path.chmod(0o770)


def _below_a_groups_folder(path: Path) -> None:
    path.mkdir(mode=0o700)
    path.parent.chmod(0o770)  # without the sticky bit


@pytest.mark.parametrize(
    "taken", [_of_another, _a_link, _open_to_the_group, _below_a_groups_folder, Path.touch]
)
def test_a_folder_that_others_can_write_to_is_not_used(alone: Path, taken: Callable[[Path], None]) -> None:
    if taken is _of_another and os.getuid():
        pytest.skip("only root can give a folder away")
    path = alone / "tmp" / "place"
    taken(path)
    assert caches.why_unusable(path)
    assert caches.why_unusable(alone / "tmp" / "other") is None or taken is _below_a_groups_folder


def test_a_users_unusable_choice_is_reported(
    alone: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _open_to_the_group(alone / "mine")
    monkeypatch.setenv(caches.VARIABLE, str(alone / "mine"))
    assert place() == alone / "home/.cache/fmct"
    assert f"{caches.VARIABLE} is not used: {alone / 'mine'}: others can write to it" in caplog.text


def test_libraries_keep_their_caches_in_a_writable_folder(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setenv("MPLCONFIGDIR", "/a/choice")
    for home, expected in (
        ("home", alone / "home/.cache/fmct"),
        ("other-node", alone / "tmp" / f"fmct-cache-{os.getuid()}"),
    ):
        monkeypatch.setenv("HOME", str(alone / home))  # as a job inherits it, with the choice
        caches.place.cache_clear()
        caches.set_for_libraries()
        assert os.environ["TRITON_CACHE_DIR"] == str(expected / "triton/cache")
        assert os.environ["MPLCONFIGDIR"] == "/a/choice"
    caches.place.cache_clear()
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    caches.set_for_inductor()
    local = alone / "tmp" / f"fmct-cache-{os.getuid()}"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(local / "inductor")


def hits(alone: Path) -> int:
    """How many compiled functions a new process loads; its results must be right in any case."""
    file = alone / "kernel.py"
    file.write_text(SCRIPT)
    result = subprocess.run([*forked_python(), str(file)], capture_output=True, text=True, cwd=alone)
    assert result.returncode == 0, result.stderr
    return int(result.stdout.split()[0])


def test_a_damaged_cache_is_rebuilt(alone: Path) -> None:
    assert (hits(alone), hits(alone)) == (0, 1)
    files = sorted((alone / "home/.cache/fmct/numba").iterdir())
    assert {file.suffix for file in files} == {".nbi", ".nbc"}
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
        assert hits(alone) == 0
        assert hits(alone) == 1, f"{file.name} is not created again"


def test_compiled_code_is_keyed_by_all_of_its_sources(tmp_path: Path) -> None:
    def digest(body: str, factor: int, called: str) -> str:
        made: dict[str, Any] = {"njit": compiled.njit, "FACTOR": factor}
        exec(f"@njit()\ndef inner(x):\n return {called}", made)
        exec(f"@njit()\ndef outer(x):\n return {body}", made)
        return compiled.source_digest(made["outer"].py_func)

    base = digest("inner(x) * FACTOR", 2, "x + 1")
    assert base == digest("inner(x) * FACTOR", 2, "x + 1")
    others = [
        digest("inner(x) - FACTOR", 2, "x + 1"),
        digest("inner(x) * FACTOR", 3, "x + 1"),
        digest("inner(x) * FACTOR", 2, "x + 2"),
    ]
    assert len({base, *others}) == 4


def test_compiled_code_is_keyed_by_its_whole_module(alone: Path) -> None:
    """When `njit` is called, functions defined further down do not exist yet."""
    results = []
    for number in (1, 2):
        script = f"""
from shards.compiled import njit

@njit()
def outer(x):
    return inner(x)

@njit()
def inner(x):
    return x + {number}

print(outer(10))
"""
        (alone / "kernel.py").write_text(script)
        result = subprocess.run([*forked_python(), "kernel.py"], capture_output=True, text=True, cwd=alone)
        results.append(result.stdout.split())
    assert results == [["11"], ["12"]], result.stderr


def test_many_processes_at_once_share_a_cache(alone: Path) -> None:
    (alone / "kernel.py").write_text(SCRIPT)
    command = [*forked_python(), str(alone / "kernel.py")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=alone) for _ in range(4)]
    assert [process.wait(120) for process in started] == [0] * 4
    for process in started:
        assert process.stdout is not None
        process.stdout.close()
    assert hits(alone) == 1


def test_a_dataset_verifies_without_any_cache_folder(tmp_path: Path) -> None:
    """Everything is read-only, without a home or a user name."""
    write_dataset(tmp_path / "data", "zarr", {"a": {make_key(1): noise((33, 20, 20), 1)}})
    result = confined(
        [sys.executable, "-P", "-m", "launch.cli", "shards", "verify", tmp_path / "data"],
        cwd=tmp_path,
        read_only=[Path("/"), Path("/dev/shm"), tmp_path],
        known=False,
        environment={"HOME": None, "TMPDIR": None, "XDG_CACHE_HOME": None, caches.VARIABLE: None},
    )
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize("full", [True, False])
def test_an_unwritable_home_changes_no_result(alone: Path, full: bool) -> None:
    write_dataset(alone / "data", "zarr", {"a": {make_key(1): noise((33, 20, 20), 1)}})
    home = [alone / "home"]
    result = confined(
        [sys.executable, "-P", "-m", "launch.cli", "shards", "verify", alone / "data"],
        cwd=alone,
        full=home if full else (),
        read_only=() if full else home,
    )
    assert result.returncode == 0, result.stderr
    assert (alone / "tmp" / f"fmct-cache-{os.getuid()}" / "numba").is_dir()
    assert not list((alone / "home").iterdir())
