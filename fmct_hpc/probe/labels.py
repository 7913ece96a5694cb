"""The label table of `fmct labels`, and its join with volumes."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.errors import FmctError, raise_refusal
from shards.label_kinds import EXPECTED, KindSpec, Survival, require_several, rules, valid
from shards.split_names import EXPECTED as EXPECTED_SPLITS
from shards.split_names import is_split
from shards.table_file import read_table

log = logging.getLogger(__name__)

STUDY_COLUMN = "study_key"
SPLIT_COLUMN = "split"
"""Optional column with the split of each study."""


class Joined(NamedTuple):
    """Volumes with labels."""

    rows: NDArray[np.int64]
    """(N,): their positions among the volumes passed to `join`."""
    values: NDArray[np.float64]
    """(N, tasks): 0 or 1, or the value of another kind of label; NaN where unknown."""
    times: NDArray[np.float64]
    """(N, tasks): time to event or censoring; NaN for labels without times."""
    splits: NDArray[np.str_] | None
    """(N,), names from `shards.split_names`; None if the table has no splits."""


class LabelTable:
    """Labels by study key."""

    def __init__(self, path: Path, table: pa.Table, tasks: tuple[str, ...], kinds: Mapping[str, KindSpec]):
        self.path = path
        self.tasks = tasks
        self._place = {key: row for row, key in enumerate(table[STUDY_COLUMN].to_pylist())}
        self._values = np.stack([_numbers(table, task) for task in tasks], axis=1)
        self._times = np.full_like(self._values, np.nan)
        for number, task in enumerate(tasks):
            if isinstance(spec := kinds.get(task), Survival):
                self._times[:, number] = _numbers(table, spec.survival)
        self._splits = None
        if SPLIT_COLUMN in table.column_names:
            self._splits = np.asarray(table[SPLIT_COLUMN].to_pylist(), dtype=np.str_)

    @classmethod
    def read(
        cls,
        path: Path,
        kinds: Mapping[str, KindSpec] | None = None,
        tasks: tuple[str, ...] | None = None,
        binary_only: bool = False,
    ) -> "LabelTable":
        """Read a table of `fmct labels`; raises FmctError for anything else.

        kinds: kinds of the columns that are not binary. tasks: label columns to read, all by default.
        binary_only: read the columns of 0 and 1 and ignore the others.
        """
        remedy = "create it with `fmct labels`"
        try:
            table = read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise_refusal(error, path)
            raise FmctError(f"{path}: not a readable label table; {remedy}") from None
        columns = tuple(name for name in table.column_names if name not in (STUDY_COLUMN, SPLIT_COLUMN))
        if STUDY_COLUMN not in table.column_names or not columns:
            raise FmctError(f"{path}: expected study_key and label columns; {remedy}")
        for name in table.column_names:
            if not name.isprintable():
                raise FmctError(f"{path}: column name {name!r} is not printable; {remedy}")
        _require_a_row_a_study(path, table[STUDY_COLUMN].to_pylist())
        kinds = kinds or {}
        by_rule = rules(kinds, columns, path)
        wanted = tuple(name for name in columns if by_rule[name] != "time")
        if unknown := set(tasks or ()) - set(wanted):
            raise FmctError(f"{path}: no task {min(unknown)}; found {', '.join(wanted)}")
        chosen = tasks or wanted
        if binary_only:
            chosen = tuple(name for name in wanted if by_rule[name] == "binary" and _is_binary(table, name))
            if not chosen:
                raise FmctError(f"{path}: no column of 0 and 1; {remedy}")
        for name in chosen:
            _require(path, table, name, by_rule[name], remedy)
            if isinstance(spec := kinds.get(name), Survival):
                _require(path, table, spec.survival, "time", remedy)
                _require_times(path, table, name, spec.survival)
        labels = cls(path, table, chosen, kinds)
        splits = set(() if labels._splits is None else labels._splits.tolist())
        if unknown := {split for split in splits if not is_split(split)}:
            raise FmctError(f"{path}: expected {EXPECTED_SPLITS} as split, not {min(unknown)!r:.80}")
        return labels

    @property
    def gives_splits(self) -> bool:
        """Whether the table has the split of each study."""
        return self._splits is not None

    def of_study(self, study_key: str) -> dict[str, float] | None:
        """A study's labels, 0, 1, or NaN where unknown; None if the table has no row for it."""
        place = self._place.get(study_key)
        return None if place is None else dict(zip(self.tasks, self._values[place].tolist(), strict=True))

    def join(self, study_keys: NDArray[np.str_]) -> Joined:
        """The volumes, given by their studies, for which the table has a row.

        Raises FmctError if there are none.
        """
        places = np.array([self._place.get(key, -1) for key in study_keys.tolist()], dtype=np.int64)
        rows = np.flatnonzero(places >= 0)
        if not len(rows):
            raise FmctError(
                f"{self.path}: none of its studies is in the dataset; both need the same key file"
            )
        log.info(
            "%d of %d volumes have labels; %d labelled studies", len(rows), len(places), len(self._place)
        )
        joined = places[rows]
        splits = None if self._splits is None else self._splits[joined]
        return Joined(rows, self._values[joined], self._times[joined], splits)


def _require_a_row_a_study(path: Path, studies: list[str | None]) -> None:
    """Raise FmctError for a study with two rows, which could contradict each other."""
    seen: set[str | None] = set()
    for number, study in enumerate(studies, 1):
        if study in seen:
            raise FmctError(f"{path} row {number}: duplicate study; keep one row per study")
        seen.add(study)


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column's values, (N,), NaN where unknown; raises pyarrow's errors for a column that is not numeric.

    Text is rejected: `fmct labels` parses the numbers of a CSV, and rejects ambiguous ones.
    """
    kind = table[name].type
    if not any(is_kind(kind) for is_kind in _NUMERIC):
        raise pa.ArrowInvalid(f"{name}: {kind}")
    values: NDArray[np.float64] = table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


_NUMERIC = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean),
    *(pa.types.is_decimal, pa.types.is_null),
)


def _is_binary(table: pa.Table, name: str) -> bool:
    try:
        return bool(valid("binary", _numbers(table, name)).all())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False


def _require(path: Path, table: pa.Table, name: str, rule: str, remedy: str) -> None:
    """Raise FmctError if a column violates the rule of its kind (shards.label_kinds)."""
    try:
        values = _numbers(table, name)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        kind = table[name].type
        raise FmctError(f"{path}: column {name} is {kind} and not numeric; {remedy}") from None
    wrong = np.flatnonzero(~valid(rule, values))
    if rule == "binary":
        if len(wrong):
            raise FmctError(
                f"{path} row {wrong[0] + 1}: column {name} has values other than 0, 1 and null; {remedy}, or "
                f"set its kind, for example kinds={{{name}: regression}}"
            )
        return
    if len(wrong):
        raise FmctError(f"{path} row {wrong[0] + 1}, column {name}: not {EXPECTED[rule]}; {remedy}")
    require_several(path, name, rule, values)


def _require_times(path: Path, table: pa.Table, name: str, column: str) -> None:
    """Raise FmctError if an event has no time, or a time no event."""
    apart = np.flatnonzero(np.isnan(_numbers(table, name)) != np.isnan(_numbers(table, column)))
    if len(apart):
        raise FmctError(f"{path} row {apart[0] + 1}: only one of {name} and {column} is given")
