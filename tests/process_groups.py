"""Whether the processes that a test started in a group of their own have all ended."""

import os


def group_is_gone(group: int) -> bool:
    """Whether a process group has no process left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
