"""Checks of `fmct doctor` for modes, caches, locks and the home."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.doctor import shared
from launch.doctor.finding import Problem, run_check
from shards import caches, sharing


def level(look: Callable[[], str | Problem]) -> str:
    return run_check("it", look).level


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run" / "inside").mkdir(parents=True)
    (tmp_path / "run" / "inside" / "file").write_text("x")
    for path in (tmp_path / "run", tmp_path / "run/inside"):
        path.chmod(0o750)
    (tmp_path / "run/inside/file").chmod(0o640)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("mode", "share", "expected"),
    [
        (0o640, None, "ok"),
        (0o640, "owner", "note"),
        (0o600, "owner", "note"),  # its folders belong to the group
        (0o644, None, "note"),
        (0o660, None, "note"),
        (0o644, "all", "ok"),
        (0o646, "all", "fault"),
        (0o666, None, "fault"),
    ],
)
def test_permissions_wider_than_configured_are_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mode: int, share: str | None, expected: str
) -> None:
    monkeypatch.delenv(sharing.VARIABLE, raising=False)
    if share:
        monkeypatch.setenv(sharing.VARIABLE, share)
    (folder / "inside" / "file").chmod(mode)
    assert level(lambda: shared.modes(folder)) == expected
    subprocess.run(["chmod", "-R", sharing.closing(), folder], check=True)
    assert level(lambda: shared.modes(folder)) == "ok"


def test_keys_and_catalogs_are_private_to_their_owner(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(0o600)
    assert level(lambda: shared.is_secret(key)) == "ok"
    for mode in (0o640, 0o604, 0o620):
        key.chmod(mode)
        assert level(lambda: shared.is_secret(key)) == "fault"
    if not os.getuid():
        key.chmod(0o600)
        os.chown(key, 65534, 65534)
        assert level(lambda: shared.is_secret(key)) == "fault"


def test_the_home_and_cache_folders_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (caches.VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert [finding.level for finding in shared.check_environment()] == ["ok", "ok"]
    (tmp_path / ".cache").chmod(0o777)
    assert str(tmp_path / f"fmct-cache-{os.getuid()}") in str(shared.cached())
    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / ".cache/mine"))
    assert level(shared.cached) == "note"
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    assert [finding.level for finding in shared.check_environment()] == ["note", "note"]


def test_locks_are_tested_in_the_folder_of_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert level(lambda: shared.locks(folder)) == "ok"
    assert [path.name for path in folder.iterdir()] == ["inside"]
    monkeypatch.setenv("FMCT_NO_LOCKS", "1")
    assert level(lambda: shared.locks(folder)) == "note"
    monkeypatch.delenv("FMCT_NO_LOCKS")
    monkeypatch.setattr(shared, "IS_HELD", "")
    assert level(lambda: shared.locks(folder)) == "fault"
