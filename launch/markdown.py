"""Escaping text from files in Markdown (CommonMark, and GitHub's tables), so that it is shown literally."""

import re
from collections.abc import Iterable

from launch.screen import plain

_LEADING = re.compile(r"([-+=]|\d+[.)])(?=\s|$|[-=])")
"""Characters at the start of a line that begin a list or underline a heading."""


def escape(text: str) -> str:
    """Text as one line that Markdown shows literally, also in a table cell."""
    line = plain(" ".join(text.split()))
    escaped = "".join(f"\\{c}" if c in r"\`*_{}[]<>#|~&$@!" else c for c in line)
    leading = _LEADING.match(escaped)
    if not leading:
        return escaped
    mark = leading.end() - 1
    return f"{escaped[:mark]}\\{escaped[mark:]}"


def row(cells: Iterable[str]) -> str:
    """A table row."""
    return "| " + " | ".join(escape(one) for one in cells) + " |"


def fenced(text: str, language: str = "") -> str:
    """Text as a code block, with a fence that no line of it closes."""
    shown = plain(text.strip())
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}{language}\n{shown}\n{fence}"
