"""The lines of metrics.jsonl, of which each has the figures of one step."""

from collections.abc import Iterator
from pathlib import Path

from shards import json_text


def figures_of(line: bytes) -> dict[str, float] | None:
    """The figures of a line, its step among them; None for what is none: half a line, or damage."""
    try:
        found = json_text.parse(line)
    except ValueError:
        return None
    if not isinstance(found, dict) or type(found.get("step")) is not int:
        return None
    return found if all(type(value) in (int, float) for value in found.values()) else None


def recorded(run: Path) -> Iterator[dict[str, float]]:
    """The figures of each step on record, oldest first; FileNotFoundError where the run has no record."""
    with (run / "metrics.jsonl").open("rb") as stream:
        yield from filter(None, map(figures_of, stream))
