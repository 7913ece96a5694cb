"""The share of the work that one task of a job array does."""

import sys
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from shards.errors import FmctError

Unit = TypeVar("Unit")


class Share(NamedTuple):
    """Every `of`-th unit, starting at unit `number`: the work of one task of a job array."""

    number: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Parse I/N of `--share`; FmctError unless 0 <= I < N."""
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and int(number) < int(of)):
            raise FmctError(f"--share {text}: expected I/N, with I from 0 to N - 1")
        return cls(int(number), int(of))

    @classmethod
    def only(cls, number: int) -> "Share":
        """The share of a single unit, for `--task`."""
        return cls(number, sys.maxsize)

    def part(self, units: Sequence[Unit]) -> Sequence[Unit]:
        """The units of the share, in order."""
        return units[self.number :: self.of]

    def has(self, number: int) -> bool:
        """Whether the unit of that number is in the share."""
        return number % self.of == self.number


WHOLE = Share()
"""All units."""
