"""The time to start `fmct`: `python tests/bench/bench_start.py [--against TREE] [--each]`.

CPU time (user and system) of whole processes, minimum of rounds. TREE is a work tree of another commit
(`git worktree add`), whose commands run alternately with these under the same interpreter. Modules are
compiled before, as in an installation, even with PYTHONDONTWRITEBYTECODE. `--each` adds the start of every
command that both versions have, by its `--help`.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from markdown_table import heading, row
from tiny import parsed

from launch.cli import COMMANDS

OURS = Path(__file__).parents[2]
DATASET = OURS / "tests" / "data" / "artefacts" / "0.1.0.zip"
"""With eight small volumes in data/zarr."""


def commands(folder: Path) -> dict[str, list[str]]:
    with zipfile.ZipFile(DATASET) as stored:
        stored.extractall(folder)
    (folder / "run").mkdir()
    return {
        "--help": ["--help"],
        "train --help": ["train", "--help"],
        "recipes": ["recipes", str(folder)],
        "launch status": ["launch", "status", str(folder / "run")],
        "shards info": ["shards", "info", str(folder / "data" / "zarr")],
    }


def every_command(trees: Sequence[Path]) -> dict[str, list[str]]:
    """The help of each command; of the other version's, too."""

    def has(tree: Path, name: str) -> bool:
        command = [sys.executable, "-P", "-m", "launch.cli", name, "--help"]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        return not subprocess.run(command, env=environment, capture_output=True, check=False).returncode

    shared = [name for name in COMMANDS if all(has(tree, name) for tree in trees[1:])]
    return {f"{name} --help": [name, "--help"] for name in shared}


def cpu_seconds(tree: Path, words: list[str]) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-P", "-m", "launch.cli", *words],
        env=environment | {"PYTHONPATH": str(tree)},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--each", action="store_true", help="every command's start too")
    options = parsed(parser, arguments, rounds=1)
    trees = [OURS, *([options.against.resolve()] if options.against else [])]
    heading("command", "CPU ms", *(["of the other", "other, CPU ms"] if options.against else []))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured = commands(folder) | (every_command(trees) if options.each else {})
        for name, words in measured.items():
            rounds = [
                [cpu_seconds(tree, words) for tree in trees]
                for _ in range(options.rounds + 1)  # the first compiles
            ]
            least = [min(column) for column in zip(*rounds, strict=True)]
            ours, *others = least
            row(f"`fmct {name}`", f"{1000 * ours:.0f}", *(f"{ours / s:.2f} | {1000 * s:.0f}" for s in others))


if __name__ == "__main__":
    main()
