"""Output to a terminal or a log, with control characters in text from files escaped."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from shards.errors import FmctError, refusal

_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters (ECMA-48 C0 and C1) except tab and line feed, and bidirectional controls (UAX #9)."""


def plain(text: object) -> str:
    r"""Text with control characters and bytes that are not UTF-8 escaped (\x1b)."""
    shown = str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), shown)


def echo(text: object, err: bool = False) -> None:
    """Print text, to standard error if `err`; all output of commands goes through this function."""
    typer.echo(plain(text), err=err)


@contextmanager
def user_errors() -> Iterator[None]:
    """Print an error that the user can fix as one line, and exit with its code; others keep a traceback."""
    try:
        yield
    except (FmctError, OSError, MemoryError) as error:
        message = error if isinstance(error, FmctError) else refusal(error)
        if message is None:
            raise
        echo(f"fmct: {message}", err=True)
        sys.exit(message.exit_code)


class PlainFormatter(logging.Formatter):
    """Formats log lines with quoted text escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`."""
        return plain(super().format(record))
