"""What a Slurm task does by its pickle: become a command. Every task imports this, so it is nearly empty."""

import os


def become(command: tuple[str, ...]) -> None:
    """Turn this process into `command`, so that Slurm's signals reach that and not submitit.

    Makes the site's scratch folder (TMPDIR) first: the batch script runs on a job's first node only.
    """
    scratch = os.environ.get("TMPDIR")
    if scratch:
        os.makedirs(scratch, exist_ok=True)
    os.execvp(command[0], command)
