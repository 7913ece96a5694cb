"""Assignment of the rows of a table of masks to volumes."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from preprocess.masks.table import CLASS, KEY, PATH, PATIENT, SERIES, STUDY, STUDY_KEY, Row
from preprocess.privacy.deidentify import Pseudonymizer
from preprocess.reasons import Reason, Rejection
from shards import Dataset
from shards.errors import FmctError


class Joined:
    """The rows of each volume, and the rejected rows."""

    def __init__(
        self, rows: Sequence[Row], dataset: Dataset, names: Pseudonymizer | None, table: Path
    ) -> None:
        """names: of the site's key file, for rows with identifiers; FmctError if it is missing."""
        self._names, self._table = names, table
        self._by_key = {key: number for number, key in enumerate(dataset.index["key"].to_pylist())}
        self._by_study: dict[str, list[int]] = defaultdict(list)
        self._patients = dataset.index["patient_key"].to_pylist()
        self._studies = dataset.index["study_key"].to_pylist()
        for number, study in enumerate(self._studies):
            self._by_study[study].append(number)
        repeated = Counter(_identity(row) for row in rows)
        self.rows: dict[int, list[Row]] = defaultdict(list)
        """Rows by the number of the volume."""
        self.objections: dict[int, Rejection] = {}
        """Rejections of rows, by row number."""
        for row in rows:
            try:
                self.rows[self._volume(row)].append(row)
                if row.objection:
                    raise Rejection(Reason.INVALID_VALUE, row.objection)
                if repeated[_identity(row)] > 1:
                    raise Rejection(Reason.DUPLICATE_ROW, "another row names the same file, class and volume")
            except Rejection as rejection:
                self.objections[row.number] = rejection

    def _volume(self, row: Row) -> int:
        """The number of a row's volume, checked against the row's patient if given; raises Rejection."""
        number = self._named(row)
        patient = row.of(PATIENT)
        if patient and self._names:
            own = self._names.patient(patient, row.of(STUDY))
            if own != self._patients[number]:
                raise Rejection(Reason.ANOTHER_PATIENT, "the row's patient differs from its volume's")
        return number

    def _named(self, row: Row) -> int:
        """The volume by its series, key or study."""
        key = row.key(KEY)
        study, series, patient = (row.of(columns) for columns in (STUDY, SERIES, PATIENT))
        if not key and series:
            if not study or not patient:
                raise Rejection(Reason.INVALID_VALUE, "a series without its study and patient; fill in both")
            key = self._pseudonymizer.series(patient, study, series)
        study_keys = {row.key(STUDY_KEY)} - {""}
        if study and (self._names or not (key or study_keys)):
            study_keys.add(self._pseudonymizer.study(study))
        if key:
            if key not in self._by_key:
                raise Rejection(Reason.UNKNOWN_VOLUME, "no volume of that series is in the dataset")
            study_keys.add(self._studies[self._by_key[key]])
        if len(study_keys) > 1:
            raise Rejection(Reason.ANOTHER_STUDY, "the row's columns are of different studies")
        if key:
            return self._by_key[key]
        study_key = next(iter(study_keys), "")
        if not study_key:
            raise Rejection(Reason.MISSING_STUDY, "no study: give the study of the mask")
        volumes = self._by_study.get(study_key, [])
        if not volumes:
            raise Rejection(Reason.UNKNOWN_VOLUME, "no volume of that study is in the dataset")
        if len(volumes) > 1:
            detail = f"the study has {len(volumes)} volumes; name the series, or the volume's key"
            raise Rejection(Reason.AMBIGUOUS_VOLUME, detail)
        return volumes[0]

    @property
    def _pseudonymizer(self) -> Pseudonymizer:
        if self._names is None:
            raise FmctError(
                f"{self._table}: identifies studies by their identifiers: give the --key-file of the "
                f"volumes, or the columns {KEY} or {STUDY_KEY}"
            )
        return self._names


def _identity(row: Row) -> tuple[str, ...]:
    given = (row.cells.get(name, "") for name in (PATH, CLASS, KEY, STUDY_KEY))
    return (*given, *(row.of(columns) for columns in (STUDY, SERIES, PATIENT)))
