"""Checks whether a configuration file may name Python functions to run: only the user's own files may.

Any function on the path can be named, with any arguments, so such a file is a program. A file that came with
a dataset or weights, or that others can write to, is run only if the user allows it.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from fmct_hpc.dense.config import SegmentConfig
from fmct_hpc.probe.config import ComparisonConfig, SweepConfig
from fmct_hpc.probe.encoder_spec import EncoderSpec
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
"""File patterns by which folders of shared artefacts are recognised, and their kind."""
_CACHES = ("models--", "datasets--", "spaces--")
"""Prefixes of folders of a Hugging Face cache (huggingface_hub, "Understand caching")."""


Encoders = TypeVar("Encoders", bound=ComparisonConfig | SegmentConfig)


def load_sweep(path: Path, overrides: list[str], allow_code: bool) -> SweepConfig:
    """A sweep's configuration; FmctError as `load_own`."""
    return load_own(SweepConfig, path, overrides, allow_code)


def load_own(model: type[Encoders], path: Path, overrides: list[str], allow_code: bool) -> Encoders:
    """A configuration with encoders; FmctError if its file names code and is not the user's own."""
    config = load(model, path, overrides)
    if not any(override.startswith("encoders=") for override in overrides):  # else the user names them
        require_own(path, config.encoders, allow_code)
    return config


def require_own(path: Path, encoders: Iterable[EncoderSpec], allow_code: bool) -> None:
    """Raise FmctError if the file `path` names functions as encoders without being allowed to."""
    named = sorted({spec.function for spec in encoders if spec.function})
    why = None if allow_code or not named else _foreign(path)
    if why:
        raise FmctError(
            f"{path}: names code to run ({', '.join(named)}), and {why}; read it, and pass {OPTION} if you "
            "trust it"
        )


def _foreign(path: Path) -> str | None:
    """Why a file is not considered the user's own; None if it is."""
    try:
        for place in {path.absolute(), path.resolve()}:
            why = written_by_others(place) or _shared_artefact(place)
            if why:
                return why
    except OSError as error:
        return f"its owner cannot be determined ({os.strerror(error.errno or 0).lower()})"
    return None


def written_by_others(path: Path) -> str | None:
    """How users other than this one and root can write to a file; None if they cannot. Raises OSError."""
    file = path.stat()
    if file.st_uid not in (0, os.geteuid()):
        return f"belongs to another user ({file.st_uid})"
    if file.st_mode & stat.S_IWOTH:
        return "everybody can write to it"
    for folder in path.parents:
        mode = folder.stat().st_mode
        # In a sticky folder (/tmp) nobody can replace files of others, so folders below it are safe.
        if mode & stat.S_IWOTH and not (mode & stat.S_ISVTX and folder != path.parent):
            return f"everybody can write to {folder}"
    return None


def _shared_artefact(path: Path) -> str | None:
    """Which download or artefact a file is stored with; None if there is none."""
    for folder in path.parents:
        if folder.name.startswith(_CACHES):
            return f"is in a download, {folder}"
        for pattern, what in _FOREIGN.items():
            if any(folder.glob(pattern)):
                return f"is stored with {what}, in {folder}"
    return None
