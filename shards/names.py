"""Valid names and keys in files that become paths, and safe paths made from them."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, StringConstraints

from shards.errors import FmctError

if TYPE_CHECKING:
    import pyarrow as pa

_KEY = "[0-9a-f]{32}"
_COMPONENT = "[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}"
"""Portable on all file systems, never hidden, never a command option, and short enough for a suffix."""

_component = re.compile(_COMPONENT)


def is_component(name: str) -> bool:
    """Whether `name` is one plain path component: letters, digits and . _ + -, with no leading dot."""
    return _component.fullmatch(name) is not None


def _require_component(name: str) -> str:
    if not is_component(name):
        raise ValueError("expected a plain file name of letters, digits and . _ + -, without a folder")
    return name


HexKey = Annotated[str, StringConstraints(pattern=f"^{_KEY}$")]
"""A pseudonym: 32 lower-case hexadecimal digits (preprocess.privacy.deidentify)."""

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
"""A SHA-256 in lower-case hexadecimal."""

Component = Annotated[str, AfterValidator(_require_component)]
"""One plain path component."""


def inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`; raises FmctError unless `name` is one plain component.

    Every name that is read from a file passes through here before it becomes a path.
    """
    if not is_component(name):
        raise FmctError(f"{folder}: {name[:80]!r} is not a valid file name; do not trust its source")
    return folder / name


def all_keys(column: "pa.ChunkedArray") -> bool:
    """Whether every value of a string column is a key."""
    import pyarrow.compute as pc

    return bool(pc.all(pc.match_substring_regex(column, f"^{_KEY}$"), skip_nulls=False, min_count=0).as_py())
