"""Read metrics.jsonl, which has one line of figures per step."""

from collections.abc import Iterator
from pathlib import Path

from shards import json_text


def figures_of(line: bytes) -> dict[str, float] | None:
    """The figures of a line, including its step; None for an incomplete or damaged line."""
    try:
        figures = json_text.parse(line)
    except ValueError:
        return None
    if not isinstance(figures, dict) or type(figures.get("step")) is not int:
        return None
    return figures if all(type(value) in (int, float) for value in figures.values()) else None


def recorded(run: Path) -> Iterator[dict[str, float]]:
    """The figures of each recorded step, oldest first; raises FileNotFoundError without metrics.jsonl."""
    with (run / "metrics.jsonl").open("rb") as stream:
        yield from filter(None, map(figures_of, stream))
