"""Run benchmarks, and write their tables to docs/benchmarks.md: `python tests/bench/run.py [NAME...]`.

A table of that file is between two comments; the first has the command that prints it:

    <!-- table 1 of: bench_scan.py --files 1000 -->
    ...
    <!-- end -->

NAME is a benchmark without bench_ (none: all of the file). Each of its commands runs once; its tables,
numbered in the order of printing, replace those in the document, with date, commit, processor and
versions. Other tables are unchanged. `--against TREE` replaces the word TREE in a command: a work tree (`git
worktree add`) of the version to compare with.
"""

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "benchmarks.md"
PACKAGES = ("numpy", "numba", "numcodecs", "pyarrow", "pydicom", "torch", "nvidia-dali-cuda130")
BLOCK = re.compile(r"(<!-- table (\d+) of: (bench_(\w+)\.py[^\n]*?) -->\n).*?(?=<!-- end -->)", re.DOTALL)
"""A marker, with the table's number, its command and the benchmark's name; then what is replaced."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--against", type=Path, help="a work tree of the version to compare with")
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    options = parser.parse_args(arguments)
    text = options.document.read_text()
    known = {name: command for _, _, command, name in BLOCK.findall(text)}
    if unknown := set(options.names) - set(known):
        parser.error(f"{options.document} has no table of {min(unknown)}, only of {', '.join(sorted(known))}")
    wanted = set(options.names) or set(known)
    commands = dict.fromkeys(command for _, _, command, name in BLOCK.findall(text) if name in wanted)
    for command in commands:
        words = shlex.split(command)
        if "TREE" in words and not options.against:
            parser.error(f"{command}: give --against")
        tree = str((options.against or HERE).resolve())
        printed = tables([tree if word == "TREE" else word for word in words])
        options.document.write_text(replaced(options.document.read_text(), command, printed))
        print(f"{command}: {len(printed)} tables", flush=True)


def tables(words: list[str]) -> list[str]:
    """The tables that a benchmark prints; exits if it fails."""
    paths = {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    command = [sys.executable, str(HERE / words[0]), *words[1:]]
    result = subprocess.run(command, env=os.environ | paths, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"{shlex.join(words)} failed")
    return [match[0] for match in re.finditer(r"(?:^\|.*\n)+", result.stdout, re.MULTILINE)]


def replaced(text: str, command: str, printed: list[str]) -> str:
    """The document with these tables instead of those of `command`."""
    header = f"\n{measured()}\n\n"

    def block(match: re.Match[str]) -> str:
        number = int(match[2])
        if match[3] != command:
            return match[0]
        if number > len(printed):
            sys.exit(f"{command}: printed {len(printed)} tables, not {number}")
        return f"{match[1]}{header}{printed[number - 1]}\n"

    return BLOCK.sub(block, text)


def measured() -> str:
    """Date, commit, machine and versions of a measurement."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown commit"
    day = f"{datetime.now(UTC):%-d %B %Y}"
    cores = len(os.sched_getaffinity(0))
    place = f"{processor()}, {cores} cores under a load of {os.getloadavg()[0]:.0f}"
    software = ", ".join([f"Python {platform.python_version()}", *versions()])
    return f"Measured {day}, {commit.replace('-dirty', ' with changes')}, {place}; {software}."


def processor() -> str:
    """The CPU's name."""
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0].strip() if names else platform.machine()


def versions() -> list[str]:
    """Versions of the installed `PACKAGES`."""
    collected = []
    for package in PACKAGES:
        try:
            collected.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return collected


if __name__ == "__main__":
    main()
