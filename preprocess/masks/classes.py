"""The classes of masks, and the values in files that represent them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shards.errors import FmctError
from shards.masks import MAX_CLASSES

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


@dataclass(frozen=True)
class Classes:
    """The classes of a dataset of masks."""

    names: tuple[str, ...]
    """Class names; name k is of class k."""
    values: Mapping[str, int]
    """The class of each value in files and tables: a voxel's value or a segment's number, as text, a
    segment's code (SCT:50960005), or a word of the table's column `class`."""

    @classmethod
    def of(cls, given: Iterable[str]) -> "Classes":
        """Parse NAME, which also is its value, and NAME=VALUE; a class may have several values.

        Raises FmctError for another form, a value of two classes, and more classes than a voxel can hold.
        """
        names: list[str] = []
        values: dict[str, int] = {}
        for text in given:
            name, equals, value = text.partition("=")
            value = value.strip() if equals else name
            if not _NAME.fullmatch(name) or not value:
                raise FmctError(
                    f"--class {text!r:.80}: give NAME or NAME=VALUE, a name of letters, digits, _"
                )
            if name not in names:
                names.append(name)
            if values.setdefault(value, names.index(name)) != names.index(name):
                raise FmctError(f"--class {text!r:.80}: {value!r} belongs to two classes; assign it to one")
        if not 1 <= len(names) <= MAX_CLASSES:
            raise FmctError(f"--class: {len(names)} classes; give 1 to {MAX_CLASSES}")
        return cls(tuple(names), values)
