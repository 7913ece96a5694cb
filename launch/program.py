"""How this program starts itself: never importing from the working folder.

Python puts the working folder first on the path for `-m` and `-c`: a `shards.py` or `torch.py` that lies
there would run in place of ours. With -P, and PYTHONSAFEPATH for what processes start in turn, it does not
(Python's "Command line and environment"); PYTHONPATH and editable installs work as ever, unlike with -I.
"""

import os
import sys

from shards.errors import FmctError

PYTHON = (sys.executable, "-P")
"""This interpreter."""

FMCT = (*PYTHON, "-m", "launch.cli")
"""The `fmct` command of this installation, whatever is on the PATH."""

SAFE_PATH = "PYTHONSAFEPATH"


def require_docstrings() -> None:
    """Raise FmctError under `python -OO`, which strips them: DALI 2.4 adds to its own when it is imported."""
    if sys.flags.optimize > 1:
        raise FmctError(
            "Python runs without docstrings (-OO, PYTHONOPTIMIZE=2), and so DALI can't be imported: use at "
            "most -O, or unset PYTHONOPTIMIZE"
        )


def keep_working_folder_off_path() -> None:
    """Have every Python that this process starts, by whatever library, leave the working folder alone.

    An empty entry of PYTHONPATH, as `PYTHONPATH=/code:$PYTHONPATH` makes it, would mean that folder too.
    """
    os.environ[SAFE_PATH] = "1"
    if "PYTHONPATH" in os.environ:
        entries = os.environ["PYTHONPATH"].split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in entries if entry)
