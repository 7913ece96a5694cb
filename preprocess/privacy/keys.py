"""The pseudonyms of a series, its patient and its study."""

from typing import NamedTuple, Self

from preprocess.dicom.catalog import Series
from preprocess.privacy.deidentify import Pseudonymizer


class Keys(NamedTuple):
    """Pseudonyms of 32 hexadecimal digits each."""

    key: str
    """The pseudonym of the series and its volume."""
    patient_key: str
    study_key: str

    @classmethod
    def of(cls, series: Series, names: Pseudonymizer) -> Self:
        """The pseudonyms of a series."""
        return cls(
            key=names.series(series.patient_id, series.study_uid, series.series_uid),
            patient_key=names.patient(series.patient_id, series.study_uid),
            study_key=names.study(series.study_uid),
        )
