"""What goes to a terminal or a log: text from files is shown there and never obeyed."""

import logging
import re

import typer

_OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters (ECMA-48 C0 and C1) but tab and line feed, and what turns text round (UAX #9)."""


def plain(text: object) -> str:
    r"""Text with what a terminal would obey written out (\x1b), and with bytes that are no UTF-8 likewise."""
    shown = str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), shown)


def echo(text: object, err: bool = False) -> None:
    """Print text, to standard error where `err`; every line that a command says goes through here."""
    typer.echo(plain(text), err=err)


class PlainFormatter(logging.Formatter):
    """Log lines that show what they quote."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`."""
        return plain(super().format(record))
