"""One writer per output: the holder is named, and no lock outlives its process."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shards.errors import FmctError
from shards.lock import LOCK_NAME, LockHeldError, is_held, writing

HOLD = """
import sys, time
from pathlib import Path
from shards.lock import writing
with writing(Path(sys.argv[1]), "the holder", shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    {then}
"""


def hold(folder: Path, kind: str = "alone", then: str = "time.sleep(60)") -> subprocess.Popen[str]:
    """Another process that holds the lock of the folder."""
    command = [sys.executable, "-P", "-c", HOLD.format(then=then), str(folder), kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.mark.parametrize("first", ["alone", "shared"])
@pytest.mark.parametrize("second", ["alone", "shared"])
def test_a_second_writer_is_refused_unless_both_share(tmp_path: Path, first: str, second: str) -> None:
    process = hold(tmp_path, first)
    try:
        assert is_held(tmp_path) == (first == "alone")
        if first == second == "shared":
            with writing(tmp_path, "me", shared=True):
                pass
        else:
            with pytest.raises(LockHeldError) as refused, writing(tmp_path, "me", shared=second == "shared"):
                pass
            assert "the holder" in str(refused.value)
            assert str(process.pid) in str(refused.value)
    finally:
        end(process)
    with writing(tmp_path, "me"):  # a killed process holds no lock
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_outlives_its_parent_holds_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like a reader process whose rank was killed."""
    process = hold(tmp_path, then="import os; print(os.fork() or time.sleep(60), flush=True); time.sleep(60)")
    assert process.stdout
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        os.kill(child, 0)
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # waits until the child runs
        with writing(tmp_path, "me"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_many_writers_never_overlap(tmp_path: Path) -> None:
    """The lock file is removed with its holder: a process waiting on it must not hold it beside a new one."""
    script = """
import os, sys, time
from pathlib import Path
from shards.lock import LockHeldError, writing
folder, done = Path(sys.argv[1]), 0
while done < 60:
    try:
        with writing(folder / "out", "one of many"):
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
            time.sleep(0.0005)
            os.unlink(folder / "inside")
            done += 1
    except LockHeldError:
        time.sleep(0.0003)
"""
    workers = [subprocess.Popen([sys.executable, "-P", "-c", script, str(tmp_path)]) for _ in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4


def test_a_link_in_place_of_the_lock_is_refused_and_its_target_unchanged(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / LOCK_NAME).symlink_to(victim)
    with pytest.raises(FmctError, match="link"), writing(folder, "me"):
        pass
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_with_a_remedy(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock, since every file system here has flock."""

    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(FmctError, match="FMCT_NO_LOCKS=1") as refused, writing(tmp_path, "me"):
        pass
    assert not isinstance(refused.value, LockHeldError)
    monkeypatch.setenv("FMCT_NO_LOCKS", "1")
    with writing(tmp_path, "me"):
        pass


def test_any_content_of_a_holder_file_is_shown_safely(tmp_path: Path) -> None:
    """The file may be another user's: its control characters are not printed."""
    for content in (
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"what": "\x1b[2J", "pid": 1, "host": "\\u001b]0;", "since": 1}',
    ):
        with (tmp_path / LOCK_NAME).open("wb") as file:
            file.write(content)
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(LockHeldError) as refused, writing(tmp_path, "me"):
                pass
            assert str(refused.value).isprintable()


def test_a_lock_without_a_holder_is_free(tmp_path: Path) -> None:
    with writing(tmp_path / "new", "me"):
        assert is_held(tmp_path / "new")
    assert not is_held(tmp_path / "new")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_link_planted_by_another_user_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "tensorboard").symlink_to(tmp_path)
    with writing(out, "me"):  # the user's own: another disk
        pass
    os.lchown(out / "tensorboard", 12345, 12345)
    with pytest.raises(FmctError, match="link of another user"), writing(out, "me"):
        pass
    assert [path.name for path in out.iterdir()] == ["tensorboard"]
