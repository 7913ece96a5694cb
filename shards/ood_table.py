"""A site's table of out-of-distribution test sets: another hospital, scanner or year."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from shards.errors import FmctError, raise_refusal
from shards.names import is_component
from shards.split_names import OOD
from shards.table_file import read_table

STUDY_COLUMN = "study_key"


def read_ood(path: Path) -> dict[str, str]:
    """The split (`ood:NAME`) of each study in a set.

    The Parquet table has study_key and one text column: the name of the study's set, or null. Raises
    FmctError for anything else, with the row, from 1, of a name that is not plain.
    """
    try:
        table = read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise_refusal(error, path)
        raise FmctError(f"{path}: not a readable Parquet table of out-of-distribution sets") from None
    columns = [name for name in table.column_names if name != STUDY_COLUMN]
    if STUDY_COLUMN not in table.column_names or len(columns) != 1:
        raise FmctError(f"{path}: expected {STUDY_COLUMN} and one column with the name of each study's set")
    if not pa.types.is_string(table[columns[0]].type):
        raise FmctError(f"{path}: column {columns[0]} is not text; give names such as hospital-b")
    sets: dict[str, str] = {}
    rows = zip(table[STUDY_COLUMN].to_pylist(), table[columns[0]].to_pylist(), strict=True)
    for row, (study, name) in enumerate(rows, 1):
        if name is None:
            continue
        if not is_component(name):
            raise FmctError(f"{path} row {row}: a set's name may have letters, digits and . _ + -; rename it")
        if sets.setdefault(study, f"{OOD}:{name}") != f"{OOD}:{name}":
            raise FmctError(f"{path} row {row}: an earlier row puts its study into another set; correct it")
    return sets


def ood_of_patients(path: Path, studies: Sequence[str], patients: Sequence[str]) -> list[str | None]:
    """The set of each volume's patient, or None: all studies of a patient are in the same set.

    studies, patients: keys of each volume. Raises FmctError as `read_ood`, if the table has none of the
    studies, and for a patient in two sets.
    """
    by_study = read_ood(path)
    sets: dict[str, str] = {}
    for study, patient in zip(studies, patients, strict=True):
        split = by_study.get(study)
        if split is not None and sets.setdefault(patient, split) != split:
            raise FmctError(
                f"{path}: patient {patient} is in {sets[patient]} and in {split}; name one set for all "
                "studies of a patient, and of patients who share a scan"
            )
    if not sets:
        raise FmctError(f"{path}: names no study of the dataset; were both made with the same key file?")
    return [sets.get(patient) for patient in patients]
