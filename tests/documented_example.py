"""Applies a "How to add ..." section of docs/architecture.md literally to a copy of the packages."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from documents import REPOSITORY, blocks
from forked_commands import forked_python

PACKAGES = ("shards", "preprocess", "fmct_hpc", "launch")


def _shown(heading: str, language: str) -> list[tuple[str, str]]:
    """The section's blocks of a language: for each the path in its first line, and the rest."""
    shown = blocks(REPOSITORY / "docs/architecture.md", language, heading)
    split = [block.split("\n", 1) for block in shown]
    return [(first.removeprefix("# "), rest) for first, rest in split]


def apply(diff: str, text: str) -> str:
    """Apply a diff whose hunks have no line numbers; each must match exactly once."""
    hunks = [hunk.splitlines(keepends=True) for hunk in diff.split("@@\n") if hunk]
    for hunk in hunks:
        before, after = ("".join(line[1:] for line in hunk if line[0] in kept) for kept in (" -", " +"))
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


@dataclass(frozen=True)
class AppliedExample:
    """The copied packages with the file that a section adds, and the files that it changes."""

    folder: Path
    added: Path
    changed: tuple[Path, ...]

    def call(self, *arguments: str, anew: bool = False) -> subprocess.CompletedProcess[str]:
        """Run Python (forked_commands, or started anew) with the copy instead of this repository."""
        environment = {
            **os.environ,
            **{"PYTHONPATH": os.pathsep.join([str(self.folder), *filter(None, sys.path)])},
            "OMP_NUM_THREADS": "1",
        }
        python = (sys.executable, "-P") if anew else forked_python()
        command = [*python, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    def run(self, *arguments: str, anew: bool = False) -> str:
        """Run Python as `call`; returns its output, and requires exit code 0."""
        result = self.call(*arguments, anew=anew)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    def lint(self) -> None:
        """Check that the added file is short, and that it and the changed files pass ruff."""
        assert len([line for line in self.added.read_text().splitlines() if line.strip()]) < 60
        settings = ("--config", str(REPOSITORY / "pyproject.toml"), *map(str, (self.added, *self.changed)))
        self.run("-m", "ruff", "check", *settings)
        self.run("-m", "ruff", "format", "--check", *settings)


def copy_packages(folder: Path) -> None:
    """Copy the packages with their compiled files, which stay valid since modification times are kept."""
    for package in PACKAGES:
        # Other processes may be compiling: Python renames `x.pyc.NUMBER` to `x.pyc`.
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("*.pyc.*"))


def follow(heading: str, folder: Path) -> AppliedExample:
    """Copy the packages to `folder` and apply the section."""
    copy_packages(folder)
    [(path, code)] = _shown(heading, "python")
    assert not (folder / path).exists()
    (folder / path).write_text(code)
    changed = [(folder / name, diff) for name, diff in _shown(heading, "diff")]
    for file, diff in changed:
        file.write_text(apply(diff, file.read_text()))
    return AppliedExample(folder, folder / path, tuple(file for file, _ in changed))
