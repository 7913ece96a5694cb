"""How this program starts itself, without importing from the working directory.

Python puts the working directory first on the path for `-m` and `-c`: a `shards.py` or `torch.py` there would
be imported instead of ours. -P, and PYTHONSAFEPATH for child processes, prevent this (Python's "Command line
and environment"); unlike with -I, PYTHONPATH and editable installs still work.
"""

import atexit
import gc
import os
import sys

from shards.errors import FmctError

PYTHON = (sys.executable, "-P")
"""This interpreter."""

FMCT = (*PYTHON, "-m", "launch.cli")
"""The `fmct` command of this installation, independent of the PATH."""

SAFE_PATH = "PYTHONSAFEPATH"


def require_docstrings() -> None:
    """Raise FmctError under `python -OO`, which strips them: DALI 2.4 adds to its own when it is imported."""
    if sys.flags.optimize > 1:
        raise FmctError(
            "Python runs without docstrings (-OO, PYTHONOPTIMIZE=2), so DALI cannot be imported: use at most "
            "-O, or unset PYTHONOPTIMIZE"
        )


def disable_plugins() -> None:
    """Have pydantic, here and in child processes, search no installed packages for plugins, and run none.

    A plugin is other code around the validation of everything that is read (pydantic's "Plugins").
    """
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "1"


def keep_working_folder_off_path() -> None:
    """Keep the working directory off the import path of all child Python processes.

    Empty entries of PYTHONPATH, as from `PYTHONPATH=/code:$PYTHONPATH`, mean that directory and are removed.
    """
    os.environ[SAFE_PATH] = "1"
    if "PYTHONPATH" in os.environ:
        entries = os.environ["PYTHONPATH"].split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in entries if entry)


def collect_old_objects_rarely() -> None:
    """Have this process search all objects for unreachable ones a tenth as often as Python does by default.

    Importing PyTorch creates so many that Python searches all of them five times, a seventh of the start of a
    rank. New objects are searched as often as before, and all of them after about 700,000 more, or a
    quarter of those that survived if that is more (gc.set_threshold: the third value counts searches of the
    second generation).
    """
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 100)


def end_without_collecting() -> None:
    """Have this process end without a search for unreachable objects, which takes a fifth of a short command.

    At its end the interpreter searches all objects several times; `gc.freeze` excludes those that exist.
    Objects outside cycles are still freed, and exit functions run.
    """
    atexit.register(gc.freeze)
