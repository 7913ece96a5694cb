"""What goes to a terminal or a log: text from files is shown there and never obeyed."""

import logging
import re
from typing import Any

import typer
from rich.console import RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

_OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters (ECMA-48 C0 and C1) but tab and line feed, and what turns text round (UAX #9)."""


def plain(text: object) -> str:
    r"""Text with what a terminal would obey written out (\x1b), and with bytes that are no UTF-8 likewise."""
    shown = str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), shown)


def echo(text: object, err: bool = False) -> None:
    """Print text, to standard error where `err`; every line that a command says goes through here."""
    typer.echo(plain(text), err=err)


def cell(text: object, style: str | Style = "") -> Text:
    """Text for a table or a console of Rich, which takes brackets in a `str` for its markup."""
    return Text(plain(text), style=style)


class PlainTable(Table):
    """A table whose rows are text: no markup, no line feeds."""

    def add_row(self, *renderables: RenderableType | None, **options: Any) -> None:
        """As `Table.add_row`; a `str` is shown as it is."""
        cells = [cell(" ".join(c.split("\n"))) if isinstance(c, str) else c for c in renderables]
        super().add_row(*cells, **options)


class PlainFormatter(logging.Formatter):
    """Log lines that show what they quote."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`."""
        return plain(super().format(record))
