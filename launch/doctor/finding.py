"""The results of checks, and their display."""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from rich.console import Console

from launch.screen import echo
from launch.tables import PlainTable, cell
from shards.errors import FmctError

Level = Literal["ok", "note", "fault"]


class Finding(NamedTuple):
    """The outcome of one check."""

    name: str
    level: Level
    """A note is information and may be intended; a fault makes something fail."""
    message: str
    remedy: str = ""


class Problem(NamedTuple):
    """A finding without its name: returned by a check that found a problem."""

    level: Level
    message: str
    remedy: str = ""


def note(message: str, remedy: str = "") -> Problem:
    """Information that is not a failure."""
    return Problem("note", message, remedy)


def fault(message: str, remedy: str) -> Problem:
    """Something will fail until this is fixed."""
    return Problem("fault", message, remedy)


def run_check(name: str, check: Callable[[], str | Problem]) -> Finding:
    """Run one check, which returns a string if it found no problem; an exception does not end the others."""
    try:
        summary = check()
    except FmctError as error:  # its message contains the remedy
        return Finding(name, "fault", str(error))
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        return Finding(name, "fault", message, "this operation fails here, and so will stages that need it")
    return Finding(name, *(("ok", summary) if isinstance(summary, str) else summary))


_STYLES: dict[Level, str] = {"ok": "green", "note": "yellow", "fault": "bold red"}


def show(sections: Iterable[tuple[str, Iterable[Finding]]]) -> int:
    """Print the findings of each section as they are found; returns the number of faults.

    On a terminal one table per section, otherwise one line per finding.
    """
    console = Console(highlight=False)
    faults = 0
    for title, findings in sections:
        shown = []
        if not console.is_terminal:
            for finding in findings:
                shown.append(finding)
                how = "; fix: " if finding.level == "fault" else "; "
                remedy = how + finding.remedy if finding.remedy else ""
                echo(f"{finding.level:5} {title}: {finding.name}: {finding.message}{remedy}")
        else:
            with console.status(f"{title} ..."):
                shown = list(findings)
            console.print(_table(title, shown))
        faults += sum(finding.level == "fault" for finding in shown)
    return faults


def _table(title: str, findings: list[Finding]) -> PlainTable:
    table = PlainTable(title=title, title_justify="left", title_style="bold", show_header=False, expand=True)
    for ratio in (None, None, 3, 2):
        table.add_column(ratio=ratio, overflow="fold")
    for finding in findings:
        level = cell(finding.level, _STYLES[finding.level])
        table.add_row(finding.name, level, finding.message, finding.remedy)
    return table
