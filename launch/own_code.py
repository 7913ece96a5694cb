"""Whether a configuration file may name Python functions that are then run: one of the user's own may.

Any function on the path can be named, with any arguments: such a file is a program. One that came with a
dataset or weights, or that others can write, is run at the user's word alone.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from fmct_hpc.dense.config import SegmentConfig
from fmct_hpc.probe.config import GridConfig, SweepConfig
from fmct_hpc.probe.encoders import EncoderSpec
from launch.config import load
from shards.errors import FmctError

OPTION = "--allow-code"

_FOREIGN = {
    "dataset.json": "a dataset",
    "features.json": "a feature store",
    "metrics.jsonl": "a run",
    "attempts/0001.json": "a run",
    "*.safetensors": "weights",
    "encoder.json": "weights",
    ".cache/huggingface": "a download",
}
"""What tells folders that are handed on: patterns of names in them, and what they are."""
_CACHES = ("models--", "datasets--", "spaces--")
"""How folders of a Hugging Face cache begin (huggingface_hub, "Understand caching")."""


Encoders = TypeVar("Encoders", bound=GridConfig | SegmentConfig)


def load_sweep(path: Path, overrides: list[str], allow_code: bool) -> SweepConfig:
    """A sweep's configuration; FmctError as `load_own`."""
    return load_own(SweepConfig, path, overrides, allow_code)


def load_own(model: type[Encoders], path: Path, overrides: list[str], allow_code: bool) -> Encoders:
    """A configuration with encoders; FmctError where its file names code and is not the user's own."""
    config = load(model, path, overrides)
    if not any(override.startswith("encoders=") for override in overrides):  # else the user names them
        require_own(path, config.encoders, allow_code)
    return config


def require_own(path: Path, encoders: Iterable[EncoderSpec], allow_code: bool) -> None:
    """Raise FmctError where the file `path` names functions as encoders, and nothing says that it may."""
    named = sorted({spec.function for spec in encoders if spec.function})
    why = None if allow_code or not named else _foreign(path)
    if why:
        raise FmctError(
            f"{path}: names code to run ({', '.join(named)}), and {why}; read it, and give {OPTION} if you "
            "trust it"
        )


def _foreign(path: Path) -> str | None:
    """Why a file is not taken for the user's own; None where it is."""
    try:
        for place in {path.absolute(), path.resolve()}:
            why = written_by_others(place) or _handed_on(place)
            if why:
                return why
    except OSError as error:
        return f"whose it is can't be told ({os.strerror(error.errno or 0).lower()})"
    return None


def written_by_others(path: Path) -> str | None:
    """How others than the user and root can write a file, in words; None where they cannot; OSError."""
    file = path.stat()
    if file.st_uid not in (0, os.geteuid()):
        return f"belongs to another user ({file.st_uid})"
    if file.st_mode & stat.S_IWOTH:
        return "everybody may write it"
    for folder in path.parents:
        mode = folder.stat().st_mode
        # In a sticky folder (/tmp) nobody can replace what is another's, so that further down all is well.
        if mode & stat.S_IWOTH and not (mode & stat.S_ISVTX and folder != path.parent):
            return f"everybody may write to {folder}"
    return None


def _handed_on(path: Path) -> str | None:
    for folder in path.parents:
        if folder.name.startswith(_CACHES):
            return f"lies in a download, {folder}"
        for pattern, what in _FOREIGN.items():
            if any(folder.glob(pattern)):
                return f"lies with {what}, in {folder}"
    return None
