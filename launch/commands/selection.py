"""The output of `fmct select`: the decision about each series, and their counts."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from launch.screen import echo
from launch.tables import PlainTable
from preprocess.config import PreprocessConfig
from preprocess.explain import explain, require_name, write
from shards.output_paths import require_file

SHOWN_ROWS = 200
"""Maximum number of series on the screen; the file of --out has all."""
SHOWN_TEXTS = 30
"""Number of the most frequent unrecognised texts on the screen."""
KEY_DIGITS = 12
LINE_CHARACTERS = 180
"""Width of the table if the output is not a terminal, so that no number is cut off."""

_COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("study", lambda row: row["study_key"][:KEY_DIGITS]),
    ("series", lambda row: row["key"][:KEY_DIGITS]),
    ("decision", lambda row: row["decision"]),
    ("role", lambda row: row["role"] or ""),
    ("slices", lambda row: _number(row["slices"])),
    ("mm thick", lambda row: _number(row["thickness_mm"])),
    ("mm covered", lambda row: _number(row["coverage_mm"])),
    ("kernel", lambda row: row["kernel"]),
    ("kV", lambda row: _number(row["kvp"])),
    ("because", lambda row: row["detail"]),
)


@dataclass
class Selection:
    """The decisions about a catalog's series, for printing."""

    explained: bool
    identified: bool
    out: Path | None
    counts: Counter[str]
    rows: list[dict[str, Any]]
    """The first `SHOWN_ROWS`."""
    unread: Counter[tuple[str, str]]
    """Number of series by attribute and text, of texts that no term recognises."""

    def print(self) -> None:
        """Print the requested rows, then the counts and the unrecognised texts."""
        console = Console()
        if not console.is_terminal:
            console = Console(width=LINE_CHARACTERS)
        if self.explained:
            console.print(self._row_table())
            more = self.counts.total() - len(self.rows)
            if more:
                echo(f"{more} more series; --out FILE writes all")
        console.print(self._count_table())
        if self.unread:
            self._print_unread(console)
        if self.out:
            echo(f"{self.out}: {self.counts.total()} series")

    def _print_unread(self, console: Console) -> None:
        """Print texts missing in the table of terms; they may contain names, so only with --identified."""
        if not self.identified:
            attributes = Counter(name for name, _ in self.unread)
            counts = ", ".join(f"{count} of {name}" for name, count in attributes.most_common())
            echo(f"unrecognised texts: {counts}; --identified shows them, select.terms adds terms")
            return
        table = PlainTable("unrecognised text", "attribute")
        table.add_column("series", justify="right")
        ordered = sorted(self.unread.items(), key=lambda item: (-item[1], item[0]))
        for (name, text), count in ordered[:SHOWN_TEXTS]:
            table.add_row(text, name, str(count))
        console.print(table)
        if len(ordered) > SHOWN_TEXTS:
            echo(f"{len(ordered) - SHOWN_TEXTS} more")

    def _row_table(self) -> PlainTable:
        columns = list(_COLUMNS)
        if self.identified:
            columns.insert(2, ("description", lambda row: row["series_description"]))
        table = PlainTable()
        for name, _ in columns:
            table.add_column(name, overflow="fold")
        for row in self.rows:
            table.add_row(*(text(row) for _, text in columns))
        return table

    def _count_table(self) -> PlainTable:
        total = self.counts.total()
        table = PlainTable("decision")
        for name in ("series", "share"):
            table.add_column(name, justify="right")
        for decision, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            table.add_row(decision, str(count), f"{count / total:.1%}")
        table.add_section()
        table.add_row("all", str(total), "")
        return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def decide(
    catalog: Path,
    config: PreprocessConfig,
    explained: bool,
    out: Path | None,
    identified: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Selection:
    """Apply the selection rules to all series of a catalog, and write the decisions to `out`.

    Raises FmctError if catalog, key file or `out` is invalid; `out` is checked before anything is read.
    """
    if out:
        require_file(out, catalog, config.key_file)
        require_name(out)
    table, unread = explain(catalog, config, identified, progress)
    if out:
        write(table, out)
    rows = table.slice(0, SHOWN_ROWS).to_pylist() if explained else []
    return Selection(explained, identified, out, Counter(table["decision"].to_pylist()), rows, unread)
