"""parts.parquet: the part of a split (train, test, ...) of each patient of a dataset."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shards.atomic import atomic_path
from shards.dataset import Dataset
from shards.errors import FmctError, raise_refusal
from shards.names import all_keys
from shards.split_names import EXPECTED, is_split
from shards.table_file import read_table

PARTS_NAME = "parts.parquet"
PART_COLUMN = "split"
_REMEDY = "give the parts.parquet of `fmct shards split`"


@dataclass(frozen=True)
class PartsTable:
    """The part of each study and patient; rows in the file's order."""

    path: Path
    studies: tuple[str, ...]
    patients: tuple[str, ...]
    parts: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "PartsTable":
        """Read the file of `write_parts`.

        Raises FmctError for anything else, and for a patient in two parts, with the row, from 1.
        """
        try:
            table = read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise_refusal(error, path)
            raise FmctError(f"{path}: not a readable table of parts; {_REMEDY}") from None
        names = ("study_key", "patient_key", PART_COLUMN)
        if missing := [name for name in names if name not in table.column_names]:
            raise FmctError(f"{path}: no column {missing[0]}; {_REMEDY}")
        if any(table.schema.field(name).type != pa.string() or table[name].null_count for name in names):
            raise FmctError(f"{path}: expected text in every row of {', '.join(names)}; {_REMEDY}")
        if not all(all_keys(table[name]) for name in names[:2]):
            raise FmctError(f"{path}: a key is not 32 hexadecimal digits; {_REMEDY}")
        table_ = cls(path, *(tuple(table[name].to_pylist()) for name in names))
        table_.part_of(table_.patients)  # raises for a patient in two parts
        return table_

    def require_splits(self) -> None:
        """Raise FmctError, with its row, for a part that is not a split (shards.split_names)."""
        for row, part in enumerate(self.parts, 1):
            if not is_split(part):
                raise FmctError(
                    f"{self.path} row {row}: part {part!r:.80} is not one of {EXPECTED}; "
                    "split with these names"
                )

    def part_of(self, keys: Sequence[str]) -> dict[str, str]:
        """The part of each patient or study, by the key; `keys`: `patients` or `studies`.

        Raises FmctError, with the row, if a key is in two parts.
        """
        parts: dict[str, str] = {}
        for row, (key, part) in enumerate(zip(keys, self.parts, strict=True), 1):
            if parts.setdefault(key, part) != part:
                raise FmctError(
                    f"{self.path} row {row}: {key} is in part {part!r:.80}, and in an earlier row in "
                    f"{parts[key]!r:.80}; {_REMEDY}"
                )
        return parts

    def parts_of_patients(self, patients: Iterable[str]) -> list[str]:
        """The part of each patient, in order; FmctError if a patient has no part."""
        part, wanted = self.part_of(self.patients), list(patients)
        missing = sorted({key for key in wanted if key not in part})
        if wanted and len(missing) == len(set(wanted)):
            raise FmctError(
                f"{self.path}: has none of the {len(missing)} patients, for example {missing[0]}; "
                "give the parts of this dataset, made with the same key file"
            )
        if missing:
            raise FmctError(
                f"{self.path}: {len(missing)} patients have no part, for example {missing[0]}; split the "
                "current dataset again"
            )
        return [part[key] for key in wanted]


def write_parts(path: Path, dataset: Dataset, parts: Mapping[str, Sequence[int]]) -> None:
    """Write one row per study and patient, sorted by them: study_key, patient_key, split (the part's name).

    parts: the numbers of each part's volumes.
    """
    studies, patients = (dataset.index[name].to_pylist() for name in ("study_key", "patient_key"))
    rows = sorted({(studies[i], patients[i], name) for name, volumes in parts.items() for i in volumes})
    names = ("study_key", "patient_key", PART_COLUMN)
    columns = zip(names, zip(*rows, strict=True), strict=True)
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns}), temporary)
