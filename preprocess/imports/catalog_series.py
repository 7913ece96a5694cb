"""The rows of a table as series of a catalog: in catalog order, each with a unique name."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from preprocess.imports.table import Row
from preprocess.reasons import Reason, Rejection


@dataclass(frozen=True)
class Listed:
    """A row, and the name of its series in the catalog."""

    row: Row
    series: str
    path: Path
    rejection: Rejection | None = None
    """Why the row is rejected, regardless of its file."""


def listed(rows: Iterable[Row], folder: Path) -> list[Listed]:
    """The rows sorted by patient, study and series; paths are relative to `folder` or absolute.

    A row without patient or study, or with the file or series of an earlier row, is rejected under a separate
    name, so that it is not treated as part of the other series.
    """
    listed_: list[Listed] = []
    named: set[object] = set()
    for row in rows:
        series = row.identity[2]
        path = Path(os.path.normpath(folder / row.cells["path"].replace("\0", "")))
        try:
            _require_row(row)
            if named & {path, row.identity}:  # no row number in outputs: it follows the patients
                raise Rejection(Reason.DUPLICATE_ROW, "names the file or series of an earlier row; keep one")
        except Rejection as rejection:
            listed_.append(Listed(row, f"{series} (row {row.number})", path, rejection))
        else:
            listed_.append(Listed(row, series, path))
            named |= {path, row.identity}
    return sorted(listed_, key=lambda one: (*one.row.identity[:2], one.series))


def _require_row(row: Row) -> None:
    """Raise Rejection unless the row has a patient, a study and a valid path."""
    if row.objection:
        raise Rejection(Reason.INVALID_VALUE, row.objection)
    for name, reason in (("patient", Reason.MISSING_PATIENT), ("study", Reason.MISSING_STUDY)):
        if not row.cells[name]:
            raise Rejection(reason, f"column {name}: empty; give the file's {name}")
    path = row.cells["path"]
    if not path:
        raise Rejection(Reason.MISSING_FILE, "column path: empty; name a file")
    if "\0" in path:
        raise Rejection(Reason.INVALID_VALUE, "column path: contains a zero byte; correct it")
    if not os.path.isabs(path) and os.path.normpath(path).split(os.sep)[0] == os.pardir:
        raise Rejection(
            Reason.PATH_OUTSIDE,
            "column path: is outside the table's folder; give an absolute path, or move the table",
        )
