"""What may enter a batch script: text of one line, in which nothing is hidden.

A line break in a value would end the script's line, and what follows it would run as shell; a script is UTF-8
text, so that bytes which are none can't be written either.
"""

from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from shards.errors import FmctError


def texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text and path in a nested value, the keys of dictionaries among them, each after its place."""
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
    """What keeps a text out of a batch script, in words; None where nothing does."""
    for character in text:
        if "\ud800" <= character <= "\udfff":
            return f"{text!r} holds bytes that are no UTF-8"
        if not character.isprintable():
            return f"{text!r} holds a line break or another character that does not print"
    return None


def require_plain(value: Any, what: str) -> None:
    """Raise FmctError where any text in `value`, which is called `what`, must not enter a batch script."""
    for place, text in texts(value):
        if found := fault(text):
            where = f"{what}, {place}" if place else what
            raise FmctError(f"{where}: {found}, which must not enter a batch script; name it otherwise")


def _below(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)
