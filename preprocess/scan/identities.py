"""Series and studies with several Patient IDs, found over the whole catalog by fingerprints."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from preprocess.dicom.catalog import SERIES_KEY
from preprocess.scan.spill import FINGERPRINT, Buckets, fingerprints

_BORNE = np.dtype([("uid", FINGERPRINT), ("patient", FINGERPRINT)])


@dataclass(frozen=True)
class SeveralPatients:
    """Number of UIDs under more than one Patient ID (0010,0020): a changed ID, or reused UIDs."""

    series: int
    studies: int


class Identities:
    """Collects image rows; all rows of a series come together."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._series = Buckets(folder / "series", _BORNE, by="uid")
        self._studies = Buckets(folder / "studies", _BORNE, by="uid")

    def add(self, images: pa.Table) -> None:
        """Record the patients of the series and studies of `INSTANCE_TABLE` rows."""
        series = images.group_by(list(SERIES_KEY)).aggregate([])
        patients = _fingerprints(series["patient_id"])
        for buckets, name in ((self._series, "series_uid"), (self._studies, "study_uid")):
            buckets.add(np.rec.fromarrays([_fingerprints(series[name]), patients], dtype=_BORNE))

    def count(self) -> SeveralPatients:
        """The totals."""
        return SeveralPatients(_several(self._series), _several(self._studies))


def _fingerprints(texts: pa.ChunkedArray) -> np.ndarray:
    return fingerprints(text.encode() for text in texts.to_pylist())


def _several(buckets: Iterable[np.ndarray]) -> int:
    """UIDs of more than one patient."""
    several = 0
    for bucket in buckets:
        _, patients = np.unique(np.unique(bucket)["uid"], return_counts=True)
        several += int((patients > 1).sum())
    return several
