"""What a check finds, and how findings are shown."""

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
    """A note is worth knowing and may be as it should be; a fault makes something fail."""
    said: str
    remedy: str = ""


class Judgement(NamedTuple):
    """A finding without its name: what a check returns where not all is well."""

    level: Level
    said: str
    remedy: str = ""


def note(said: str, remedy: str = "") -> Judgement:
    """Worth knowing, no failure."""
    return Judgement("note", said, remedy)


def fault(said: str, remedy: str) -> Judgement:
    """Something will fail until it is mended."""
    return Judgement("fault", said, remedy)


def looked(name: str, look: Callable[[], str | Judgement]) -> Finding:
    """Run one check: a string says that all is well; no exception of a check ends the others."""
    try:
        found = look()
    except FmctError as error:  # its one line has the remedy
        return Finding(name, "fault", str(error))
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return Finding(name, "fault", said, "what this check does fails here; so will what needs it")
    return Finding(name, *(("ok", found) if isinstance(found, str) else found))


_STYLES: dict[Level, str] = {"ok": "green", "note": "yellow", "fault": "bold red"}


def show(sections: Iterable[tuple[str, Iterable[Finding]]]) -> int:
    """Print the findings of each section as they come; returns the number of faults.

    On a terminal a table a section, otherwise a line a finding.
    """
    console = Console(highlight=False)
    faults = 0
    for title, findings in sections:
        found = []
        if not console.is_terminal:
            for finding in findings:
                found.append(finding)
                how = "; to mend: " if finding.level == "fault" else "; "
                remedy = how + finding.remedy if finding.remedy else ""
                echo(f"{finding.level:5} {title}: {finding.name}: {finding.said}{remedy}")
        else:
            with console.status(f"{title} ..."):
                found = list(findings)
            console.print(_table(title, found))
        faults += sum(finding.level == "fault" for finding in found)
    return faults


def _table(title: str, findings: list[Finding]) -> PlainTable:
    table = PlainTable(title=title, title_justify="left", title_style="bold", show_header=False, expand=True)
    for ratio in (None, None, 3, 2):
        table.add_column(ratio=ratio, overflow="fold")
    for finding in findings:
        level = cell(finding.level, _STYLES[finding.level])
        table.add_row(finding.name, level, finding.said, finding.remedy)
    return table
