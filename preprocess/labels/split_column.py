"""The column split of a table of labels, from the parts of `fmct shards split`."""

from dataclasses import replace
from pathlib import Path

from preprocess.labels.table import LabelTable
from preprocess.privacy.deidentify import Pseudonymizer
from shards.errors import FmctError
from shards.parts import PartsTable


def with_parts(table: LabelTable, source: Path, parts: Path, names: Pseudonymizer) -> LabelTable:
    """The labels of studies that are in a part, with the part's name as split; the others are counted.

    Raises FmctError if the table `source` has splits itself, a part's name is not a split, a study is in two
    parts, or no study is in a part.
    """
    if table.splits is not None:
        raise FmctError(f"{source}: has a column split, and so has {parts}: omit one")
    read = PartsTable.read(parts)
    read.require_splits()
    part = read.part_of(read.studies)
    splits = {study: part[key] for study in table.rows if (key := names.study(study)) in part}
    if not splits:
        raise FmctError(
            f"{parts}: none of the {len(table.rows)} studies of {source} have a part; were both made with "
            "the same key file, of the same patients?"
        )
    absent = len(table.rows) - len(splits)
    notes = (*table.notes, *([f"{absent} studies have no part and are left out"] if absent else []))
    rows = {study: table.rows[study] for study in splits}
    return replace(table, rows=rows, splits=splits, notes=notes)
