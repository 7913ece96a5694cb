"""Text from files in Markdown (CommonMark, and GitHub's tables): shown as it is, whatever it holds."""

import re
from collections.abc import Iterable

from launch.screen import plain

_LEADING = re.compile(r"([-+=]|\d+[.)])(?=\s|$|[-=])")
"""What begins a list or underlines a heading, at the start of a line."""


def escape(text: str) -> str:
    """Text of one line that Markdown shows as it is, in a table's cell too."""
    line = plain(" ".join(text.split()))
    escaped = "".join(f"\\{c}" if c in r"\`*_{}[]<>#|~&$@!" else c for c in line)
    leading = _LEADING.match(escaped)
    if not leading:
        return escaped
    mark = leading.end() - 1
    return f"{escaped[:mark]}\\{escaped[mark:]}"


def row(cells: Iterable[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(escape(one) for one in cells) + " |"


def fenced(text: str, language: str = "") -> str:
    """Text as a block of code, under a fence that no line of it closes."""
    shown = plain(text.strip())
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}{language}\n{shown}\n{fence}"
