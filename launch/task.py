"""The function in a Slurm task's pickle, which executes a command. Every task imports this small module."""

import os


def become(command: tuple[str, ...]) -> None:
    """Replace this process by `command`, so that Slurm's signals reach the command and not submitit.

    Creates the site's scratch folder (TMPDIR) first, since the batch script runs only on a job's first node.
    """
    scratch = os.environ.get("TMPDIR")
    if scratch:
        os.makedirs(scratch, exist_ok=True)
    os.execvp(command[0], command)
