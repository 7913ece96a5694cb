"""The table of labels that `fmct labels` wrote, and its join with volumes."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.errors import FmctError, raise_refusal
from shards.table_file import read_table

log = logging.getLogger(__name__)

STUDY_COLUMN = "study_key"
SPLIT_COLUMN = "split"
"""May say, study by study, which split it belongs to."""
OOD = "ood"
"""A second test set, of another distribution than training's: another hospital, scanner or year."""
SPLITS = ("train", "validation", "test", OOD)


class Joined(NamedTuple):
    """Volumes with labels."""

    rows: NDArray[np.int64]
    """(N,): their places among the volumes that were asked for."""
    values: NDArray[np.float32]
    """(N, tasks): 0, 1, or NaN where unknown."""
    splits: NDArray[np.str_] | None
    """(N,), of `SPLITS`; None where the table gives none."""


class LabelTable:
    """Labels by study key."""

    def __init__(self, path: Path, table: pa.Table):
        self.path = path
        self.tasks = tuple(name for name in table.column_names if name not in (STUDY_COLUMN, SPLIT_COLUMN))
        self._place = {key: row for row, key in enumerate(table[STUDY_COLUMN].to_pylist())}
        columns = [table[task].cast(pa.float32()).to_numpy(zero_copy_only=False) for task in self.tasks]
        self._values = np.stack(columns, axis=1)
        self._splits = None
        if SPLIT_COLUMN in table.column_names:
            self._splits = np.asarray(table[SPLIT_COLUMN].to_pylist(), dtype=np.str_)

    @classmethod
    def read(cls, path: Path) -> "LabelTable":
        """Read what `fmct labels` wrote; FmctError for anything else."""
        remedy = "make it with `fmct labels`"
        try:
            table = read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise_refusal(error, path)
            raise FmctError(f"{path}: no readable label table; {remedy}") from None
        if STUDY_COLUMN not in table.column_names or set(table.column_names) <= {STUDY_COLUMN, SPLIT_COLUMN}:
            raise FmctError(f"{path}: expected study_key and label columns; {remedy}")
        for name in table.column_names:
            if not name.isprintable():
                raise FmctError(f"{path}: column {name!r} is no printable name; {remedy}")
        no_labels = FmctError(f"{path}: a column holds something else than 0, 1 or null; {remedy}")
        try:
            labels = cls(path, table)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise no_labels from None
        if not (np.isin(labels._values, (0, 1)) | np.isnan(labels._values)).all():
            raise no_labels
        if unknown := set(() if labels._splits is None else labels._splits.tolist()) - set(SPLITS):
            raise FmctError(f"{path}: a split is one of {', '.join(SPLITS)}, not {min(unknown)!r}")
        return labels

    @property
    def gives_splits(self) -> bool:
        """Whether it says which split a study belongs to."""
        return self._splits is not None

    def of_study(self, study_key: str) -> dict[str, float] | None:
        """A study's labels, 0, 1, or NaN where unknown; None where the table has no row for it."""
        place = self._place.get(study_key)
        return None if place is None else dict(zip(self.tasks, self._values[place].tolist(), strict=True))

    def join(self, study_keys: NDArray[np.str_]) -> Joined:
        """Those of the volumes, given by their studies, that the table has a row for.

        Raises FmctError where there are none.
        """
        places = np.array([self._place.get(key, -1) for key in study_keys.tolist()], dtype=np.int64)
        rows = np.flatnonzero(places >= 0)
        if not len(rows):
            raise FmctError(
                f"{self.path}: none of its studies is in the dataset; were both made with the same key file?"
            )
        log.info(
            "%d of %d volumes have labels; %d labelled studies", len(rows), len(places), len(self._place)
        )
        found = places[rows]
        return Joined(rows, self._values[found], None if self._splits is None else self._splits[found])
