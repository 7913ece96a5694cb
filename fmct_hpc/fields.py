"""Types of configuration values."""

import logging
import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

log = logging.getLogger(__name__)

Fraction = Annotated[float, Field(ge=0, le=1)]
Above0 = Annotated[float, Field(gt=0)]
AtLeast0 = Annotated[float, Field(ge=0)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Half of a Philox key; NumPy converts a list with greater numbers to floats."""

Edges = tuple[int, int, int]
"""Edges of a box, (D, H, W)."""
Size = int | Edges
"""Size of a box: one edge for all axes, or three."""


def edges(size: int | Sequence[int]) -> Edges:
    """The three edges of a box."""
    d, h, w = (size, size, size) if isinstance(size, int) else size
    return d, h, w


def size_text(size: Size) -> str:
    """96³, or 56 x 224 x 224."""
    d, h, w = edges(size)
    return f"{d}³" if d == h == w else f"{d} x {h} x {w}"


def _box_size(given: Any) -> Size:
    numbers = given if isinstance(given, list | tuple) else [given] * 3
    if len(numbers) != 3 or any(type(number) is not int or number < 1 for number in numbers):
        raise ValueError("must be a whole number above 0, or three, [D, H, W]")
    d, h, w = numbers
    return d if d == h == w else (d, h, w)


BoxSize = Annotated[Size, BeforeValidator(_box_size)]
"""One edge, or three, (D, H, W); three equal edges are recorded as one."""


def device_name(given: Any) -> str:
    """cpu, gpu or gpu:N; the older names cuda and cuda:N are accepted. Raises ValueError for others."""
    match = re.fullmatch(r"cpu|(gpu|cuda)(:\d+)?", given) if isinstance(given, str) else None
    if match is None:
        raise ValueError("must be cpu, gpu, or gpu:1 for the second GPU")
    if match[1] != "cuda":
        return match[0]
    name = f"gpu{match[2] or ''}"
    log.warning("device %s was renamed to %s; the old name is still accepted", given, name)
    return name


Device = Annotated[str, BeforeValidator(device_name)]
"""The device that an encoder runs on."""
