"""The masks of one shard's volumes, and their record, by which a rerun finds finished shards."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from preprocess.masks.classes import Classes
from preprocess.masks.table import PATH, Row
from preprocess.masks.volume import merged, place_of
from preprocess.privacy.deidentify import Pseudonymizer
from preprocess.reasons import Reason, Rejection
from shards import Dataset, ShardWriter, VolumeRecord, crc32, ledger
from shards.closed import Closed
from shards.formats import shard_path
from shards.index import sidecar_path
from shards.masks import unpacked

WORK = "work"
"""Folder of the records, beside the shards."""
MASKS_VERSION = 1
"""Increase this when the same rows give other masks or rejections; all shards are then made again."""


class Stored(Closed):
    """One stored mask."""

    key: str
    patient_key: str
    study_key: str
    files: int
    ml: tuple[float, ...]
    """Of each class."""
    mean_hu: tuple[float | None, ...]
    """Mean HU of the volume in each class, which shows a misplaced mask; None for an empty class."""


class Done(Closed):
    """The result of one shard's rows."""

    digest: str
    """Digest of everything that it depends on."""
    stored: tuple[Stored, ...]
    refused: tuple[tuple[int, Reason, str], ...]
    """Row, reason, detail."""


class Job(NamedTuple):
    """The work for one shard."""

    name: str
    rows: Mapping[int, list[Row]]
    """Rows by the volume's number in the dataset."""
    objections: Mapping[int, Rejection]
    """Rejections of rows, by row number."""


@dataclass(frozen=True)
class ShardWork:
    """The work of a worker process."""

    data: Path
    out: Path
    classes: Classes
    root: Path
    key_file: Path | None
    config_digest: str

    def __call__(self, job: Job) -> tuple[str, Done, int]:
        """Write the masks of a shard, unless the existing ones are current.

        Returns its name, its result, and its number of volumes.
        """
        name, rows, objections = job
        dataset = Dataset.open(self.data)
        digest = self._digest(dataset, rows, objections)
        done = self._kept(name, dataset, digest) or self._write(name, dataset, rows, objections, digest)
        return name, done, len(rows)

    def _write(
        self,
        name: str,
        dataset: Dataset,
        rows: Mapping[int, list[Row]],
        objections: Mapping[int, Rejection],
        digest: str,
    ) -> Done:
        names = Pseudonymizer(self.key_file) if self.key_file else None
        stored: list[Stored] = []
        refused: list[tuple[int, Reason, str]] = []
        shard, sidecar = shard_path(self.out, name, dataset.info.format), sidecar_path(self.out, name)
        with ShardWriter(self.out, name, dataset.info.format) as writer:
            for number in sorted(rows):
                record = dataset.record(number)
                mask = merged(rows[number], record, self.classes, self.root, names, objections)
                refused += [(row, why.reason, why.detail) for row, why in sorted(mask.refused.items())]
                if mask.bits is not None:
                    writer.add(self._record(record, mask.bits), mask.bits)
                    files = sum(bool(row.cells[PATH]) for row in rows[number])
                    stored.append(self._measured(record, mask.bits, dataset.read(number), files))
        if not stored:
            sidecar.unlink()
            shard.unlink()
        done = Done(digest=digest, stored=tuple(stored), refused=tuple(refused))
        ledger.mark(self._marker(name), done)
        return done

    def _record(self, volume: VolumeRecord, bits: NDArray[np.int16]) -> VolumeRecord:
        """The volume's record, with the checksum of the mask's voxels."""
        return volume.model_copy(update={"crc32": crc32(bits), "config_digest": self.config_digest})

    def _measured(
        self, record: VolumeRecord, bits: NDArray[np.int16], hu: NDArray[np.int16], files: int
    ) -> Stored:
        planes = unpacked(bits, len(self.classes.names))
        voxel_ml = float(np.prod(record.spacing_mm)) / 1000
        return Stored(
            key=record.key,
            patient_key=record.patient_key,
            study_key=record.study_key,
            files=files,
            ml=tuple(int(plane.sum()) * voxel_ml for plane in planes),
            mean_hu=tuple(float(hu[plane].mean()) if plane.any() else None for plane in planes),
        )

    def _marker(self, name: str) -> Path:
        return self.out / WORK / f"{name}.json"

    def _kept(self, name: str, dataset: Dataset, digest: str) -> Done | None:
        """The result of an earlier call for the same input; None if there is none or its shard is missing."""
        done = ledger.marked(self._marker(name), Done)
        if done is None or done.digest != digest:
            return None
        shard = shard_path(self.out, name, dataset.info.format)
        whole = not done.stored or (shard.is_file() and sidecar_path(self.out, name).is_file())
        return done if whole else None

    def _digest(
        self, dataset: Dataset, rows: Mapping[int, list[Row]], objections: Mapping[int, Rejection]
    ) -> str:
        """Digest of version, classes, volumes, rows, and the files' sizes and times."""
        facts: list[Any] = [MASKS_VERSION, self.config_digest, dict(self.classes.values)]
        facts.append(self.key_file is not None)
        for number in sorted(rows):
            for row in rows[number]:
                facts.append([dataset.index["key"][number].as_py(), row.number, dict(row.cells)])
                facts.append([str(objections.get(row.number)), self._status(row)])
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _status(self, row: Row) -> list[int] | None:
        try:
            status = place_of(row, self.root).stat()
        except (OSError, Rejection):
            return None
        return [status.st_size, status.st_mtime_ns]
