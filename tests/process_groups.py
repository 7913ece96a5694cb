"""Processes that a test has started: their end with their parent, groups, and the readers of a rank."""

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

PARENT_DEATH_SIGNAL = 1
"""prctl(2): PR_SET_PDEATHSIG."""


def end_with(parent: int) -> None:
    """Make this process end with its parent, whose number is given as it may have ended already."""
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def group_is_gone(group: int) -> bool:
    """Whether all processes of a group have ended."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def children_of(process: int) -> list[int]:
    """Child processes of a process, started by any of its threads."""
    collected: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            collected += map(int, (thread / "children").read_text().split())
    return collected


def readers_of(process: int) -> list[int]:
    """The reader processes of a rank."""
    collected = []
    for child in children_of(process):
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                collected.append(child)
    return collected
