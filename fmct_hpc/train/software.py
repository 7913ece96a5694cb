"""Code and environment of a process: the part of an attempt's record that may explain a different result."""

import os
import platform
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path

from shards.closed import Closed

GIT_SECONDS = 20.0
"""Timeout of Git on a slow shared file system, after which the commit is not recorded."""


class Software(Closed):
    """Code and environment of a process."""

    version: str
    """Version of fmct-hpc."""
    commit: str | None
    """Commit of the checkout; None for an installed package, or without Git."""
    modified: bool
    """Whether tracked files of that checkout differ from the commit."""
    python: str
    platform: str
    packages: dict[str, str]
    """Every installed distribution and its version."""

    @classmethod
    @cache
    def current(cls) -> "Software":
        """Code and environment of this process."""
        commit, modified = _checkout(Path(__file__).resolve().parents[1])
        return cls(
            version=version("fmct-hpc"),
            commit=commit,
            modified=modified,
            python=platform.python_version(),
            platform=platform.platform(),
            packages=dict(sorted(_packages())),
        )


def _packages() -> Iterator[tuple[str, str]]:
    """Names and versions of the installed distributions; each one's metadata is parsed once."""
    for metadata in (distribution.metadata for distribution in distributions()):
        if metadata["Name"]:
            yield metadata["Name"], metadata["Version"]


def _checkout(package: Path) -> tuple[str | None, bool]:
    """Commit of the checkout that tracks `package`, and whether it has uncommitted changes."""
    try:
        # An environment may be inside an unrelated repository.
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "HEAD")
        return commit, bool(_git(package, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, False


def _git(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ("git", "-C", str(folder), *arguments)
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
        timeout=GIT_SECONDS,
        env=environment,
    )
    return done.stdout.strip()
