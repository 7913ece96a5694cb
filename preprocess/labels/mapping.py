"""A CSV that maps names to studies."""

from pathlib import Path

from preprocess.csv_file import csv_lines
from preprocess.labels.plain import STUDY_COLUMN
from shards.errors import FmctError


def read_mapping(path: Path, column: str) -> dict[str, str]:
    """Study Instance UID by the values of `column`; other columns are ignored.

    Raises FmctError if one of the two columns is missing, or a name has two studies.
    """
    wanted = f"give a CSV with {column} and {STUDY_COLUMN}"
    lines = csv_lines(path, wanted)
    header = [name.strip() for name in next(lines, (0, []))[1]]
    if not {column, STUDY_COLUMN} <= set(header):
        raise FmctError(f"{path}: no column {column} or no column {STUDY_COLUMN}; {wanted}")
    places = header.index(column), header.index(STUDY_COLUMN)
    mapping: dict[str, str] = {}
    for line, cells in lines:
        if not cells:
            continue
        if len(cells) <= max(places):
            raise FmctError(
                f"{path} row {line}: {len(cells)} cells, the header has {len(header)}; correct it"
            )
        name, study = (cells[place].strip() for place in places)
        if mapping.setdefault(name, study) != study:
            raise FmctError(
                f"{path} row {line}: its {column} has another study in an earlier row; correct it"
            )
    return mapping
