"""Series and studies that several Patient IDs bear: found over the whole catalog by fingerprints."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from preprocess.dicom.catalog_table import SERIES_KEY
from preprocess.scan.spill import FINGERPRINT, Buckets, fingerprints

_BORNE = np.dtype([("uid", FINGERPRINT), ("patient", FINGERPRINT)])


@dataclass(frozen=True)
class SeveralPatients:
    """UIDs under more than one Patient ID (0010,0020): an ID that was changed, or UIDs that were repeated."""

    series: int
    studies: int


class Identities:
    """Takes rows of images, of a series all at once."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._series = Buckets(folder / "series", _BORNE, by="uid")
        self._studies = Buckets(folder / "studies", _BORNE, by="uid")

    def add(self, images: pa.Table) -> None:
        """Note whose the series and studies of `INSTANCE_TABLE` rows are."""
        series = images.group_by(list(SERIES_KEY)).aggregate([])
        patients = _fingerprints(series["patient_id"])
        for buckets, name in ((self._series, "series_uid"), (self._studies, "study_uid")):
            buckets.add(np.rec.fromarrays([_fingerprints(series[name]), patients], dtype=_BORNE))

    def count(self) -> SeveralPatients:
        """How many there are in all."""
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
