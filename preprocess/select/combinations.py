"""A table of accepted combinations of study description, kVp and kernel: the reference's filter."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from preprocess.csv_file import csv_lines
from shards.closed import Closed
from shards.errors import FmctError

COLUMNS = ["study_description", "kvp", "kernel"]

Combination = tuple[str | None, float | None, str | None]
"""Study Description (0008,1030), KVP (0018,0060) in kV, Convolution Kernel (0018,1210); None: any value."""


class Combinations(Closed):
    """The rows of a table: their content, not the path, is part of a configuration and its digest."""

    rows: tuple[Combination, ...]
    """Normalised, without duplicates, in a fixed order."""

    @cached_property
    def _known(self) -> frozenset[Combination]:
        return frozenset(self.rows)

    def allows(self, study_description: str, kvp: float | None, kernel: str) -> bool:
        """Whether a row matches these header values.

        Whole texts are compared, ignoring case and the number of spaces. If a kernel has several values
        (Siemens appends the iterative strength, "J40s\\3"), all of them, or the first, must match.
        """
        descriptions = (None, normalised(study_description))
        kernels = (None, normalised(kernel), normalised(kernel.split("\\")[0]))
        return any(
            (description, voltage, name) in self._known
            for description in descriptions
            for voltage in (None, kvp)
            for name in kernels
        )


def normalised(text: str) -> str:
    """`text` in one case, with single spaces between its words."""
    return " ".join(text.split()).casefold()


def read_combinations(path: Path) -> Combinations:
    """Read a CSV (UTF-8) with the columns of `COLUMNS`; an empty cell matches any value.

    Raises FmctError that names file and row for anything else.
    """
    lines = csv_lines(path, f"select.table is a CSV of {', '.join(COLUMNS)}")
    header = [name.strip() for name in next(lines, (0, []))[1]]
    if sorted(header) != sorted(COLUMNS):
        raise FmctError(f"{path}: the columns are {', '.join(header)}; expected {', '.join(COLUMNS)}")
    rows = {_combination(path, line, header, cells) for line, cells in lines if any(cells)}
    if not rows:
        raise FmctError(f"{path}: the table has no rows and would select nothing; add rows or remove it")
    return Combinations(rows=tuple(sorted(rows, key=repr)))


def _combination(path: Path, line: int, header: list[str], cells: list[str]) -> Combination:
    if len(cells) != len(header):
        raise FmctError(f"{path} row {line}: {len(cells)} cells, the header has {len(header)}; correct it")
    texts = dict(zip(header, map(normalised, cells), strict=True))
    try:
        kvp = float(texts["kvp"]) if texts["kvp"] else None
    except ValueError:
        raise FmctError(f"{path} row {line}: kvp is not a number; give kV or leave it empty") from None
    return texts["study_description"] or None, kvp, texts["kernel"] or None


def _from_path(value: Any) -> Any:
    return read_combinations(Path(value)) if isinstance(value, str | Path) else value


Table = Annotated[Combinations, BeforeValidator(_from_path)]
"""In recipes, the path of a CSV, relative to the working directory; read when the configuration is built."""
