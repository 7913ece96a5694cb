"""Checks of text for batch scripts: one line of printable UTF-8.

A line break in a value would end the script's line, and the rest would run as shell; a script is UTF-8 text,
so that other bytes can't be written either.
"""

from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from shards.errors import FmctError


def texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield (place, text) of every text and path in a nested value, including the keys of dictionaries."""
    if isinstance(value, (str, Path)):
        yield place, str(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(key, place)
            yield from texts(inner, _below(place, key))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from texts(inner, _below(place, number))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from texts(asdict(value), place)


def fault(text: str) -> str | None:
    """Why a text must not be in a batch script; None if it may."""
    for character in text:
        if "\ud800" <= character <= "\udfff":
            return f"{text!r} contains bytes that are not UTF-8"
        if not character.isprintable():
            return f"{text!r} contains a line break or another character that is not printable"
    return None


def require_plain(value: Any, what: str) -> None:
    """Raise FmctError if a text in `value`, named `what` in the message, must not be in a batch script."""
    for place, text in texts(value):
        if problem := fault(text):
            where = f"{what}, {place}" if place else what
            raise FmctError(
                f"{where}: {problem}, which is not allowed in a batch script; choose another name"
            )


def _below(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)
