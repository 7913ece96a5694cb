"""Parsing of the commands in README.md and docs/, for the tests that check them against the code."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from forked_commands import forked_fmct, forked_python

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_SETTING = re.compile(r"[A-Za-z_]+=")


class Command(NamedTuple):
    """One command of a document, without leading variable assignments."""

    place: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


def blocks(document: Path, language: str, heading: str = "") -> list[str]:
    """The fenced blocks of a language, in the whole document or in the section under a heading."""
    text = document.read_text()
    if heading:
        text = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [block for name, block in _BLOCK.findall(text) if name == language]


def commands(document: Path) -> Iterator[Command]:
    """All command lines of the bash blocks."""
    for block in blocks(document, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\||;|\$\(", re.sub(r"(^|\s)#.*", "", line)):
                words = shlex.split(part.strip().rstrip(")"))
                while words and _SETTING.match(words[0]):
                    del words[0]
                if words:
                    yield Command(document.name, tuple(words))


def spans(document: Path) -> list[str]:
    """The inline code of the text, each on one line."""
    text = _BLOCK.sub("", document.read_text())
    return [" ".join(span.split()) for span in _SPAN.findall(text)]


def substituted(text: str, *tables: dict[str, str]) -> str:
    for original, replacement in (pair for table in tables for pair in table.items()):
        text = text.replace(original, replacement)
    return text


def bash(script: str, folder: Path) -> str:
    """Run a script with `fmct` and `python -` of this tree (forked_commands); stops at the first failure."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    fmct, python = map(shlex.join, (forked_fmct(), forked_python()))
    for name, line in (("fmct", f'exec {fmct} "$@"'), ("python", f'[ "$*" = - ] && exec {python} -')):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path]),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout
