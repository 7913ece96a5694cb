"""Processes that a test has started: whether a group has ended, and who reads for whom."""

import os
from contextlib import suppress
from pathlib import Path


def group_is_gone(group: int) -> bool:
    """Whether a process group has no process left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def children_of(process: int) -> list[int]:
    """Processes that it, or any of its threads, has started."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def readers_of(process: int) -> list[int]:
    """The reader processes of a rank."""
    found = []
    for child in children_of(process):
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found
