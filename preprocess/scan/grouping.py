"""From findings to the two tables of a scan, through files, with memory independent of the archive's size."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocess.dicom.catalog import SERIES_KEY
from preprocess.dicom.catalog_table import INSTANCE_TABLE, CatalogWriter, PrivateParquet
from preprocess.dicom.equipment import modality
from preprocess.dicom.sources import Source
from preprocess.reasons import Reason, Rejection
from preprocess.scan.already_read import KnownFiles
from preprocess.scan.duplicates import Duplicates, Repeated
from preprocess.scan.findings import (
    FOUND_TABLE,
    REJECTED_TABLE,
    Part,
    Record,
    file_fingerprints,
    rejected_rows,
)
from preprocess.scan.identities import Identities, SeveralPatients
from preprocess.scan.spill import Partitions, splitters
from preprocess.scan.work_folder import WorkFolder


@dataclass
class Findings:
    """All findings in the current tree."""

    records: list[Record]
    """Records of earlier scans."""
    known: KnownFiles
    """The files in `records`."""
    seen: np.ndarray
    """bool, one per known file: whether it still exists unchanged."""
    parts: list[Part] = field(default_factory=list)
    """Parts read by this scan."""
    unlisted: list[tuple[Source, Rejection]] = field(default_factory=list)
    """Folders that cannot be listed."""
    files: int = 0
    unchanged: int = 0

    def tables(self) -> Iterator[pa.Table]:
        """The findings, as `FOUND_TABLE` rows, a few thousand at a time."""
        yield pa.Table.from_pylist(rejected_rows(self.unlisted), schema=FOUND_TABLE)
        for part in self.parts:
            yield from part.tables()
        for number, record in enumerate(self.records):
            for table in record.tables():
                yield table.filter(pa.array(self._kept(number, file_fingerprints(table))))

    def _kept(self, record: int, files: np.ndarray) -> np.ndarray:
        """Whether these files still exist and this record is the valid one for them, bool (n,)."""
        places = self.known.find(files)
        kept = places >= 0
        places = places[kept]
        kept[kept] = self.seen[places] & (self.known.records[places] == record)
        return kept

    def columns(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of all findings, including those of deleted files."""
        for record in [*self.records, *self.parts]:
            yield from record.tables(names)


@dataclass(frozen=True)
class Tables:
    """Totals of the two tables."""

    objects: int
    """DICOM objects in the catalog."""
    series: int
    modalities: dict[str, int]
    """Images by modality, the most frequent first."""
    skipped: int
    """Files and members that are not DICOM objects (and DICOMDIR indexes, which are ignored)."""
    rejected: dict[Reason, int]
    """Number of broken files, members and archives, by reason."""
    repeated: Repeated
    several_patients: SeveralPatients


def write_tables(findings: Findings, work: WorkFolder, executor: Executor) -> Tables:
    """Group the findings into the two tables of `work`; `executor` digests objects with equal UIDs.

    The tables' bytes depend only on the findings, not on their order.
    """
    keys = splitters(_series_key(table) for table in findings.columns(SERIES_KEY))
    images = Partitions(work.scratch / "images", _series_key, keys)
    paths = splitters(table["path"] for table in findings.columns(["path"]))
    rejected = Partitions(work.scratch / "rejected", lambda table: table["path"], paths)
    duplicates = Duplicates(work.scratch / "duplicates")
    objects, modalities, reasons = 0, Counter[str](), Counter[Reason]()
    for table in findings.tables():
        instances = table.filter(pc.is_null(table["reason"])).select(INSTANCE_TABLE.names)
        images.add(instances)
        duplicates.add(instances)
        objects += pc.sum(pc.equal(instances["frame"], 0)).as_py() or 0
        modalities.update(map(modality, instances["modality"].to_pylist()))
        refused = table.filter(pc.is_valid(table["reason"])).select(REJECTED_TABLE.names)
        rejected.add(refused)
        reasons.update(map(Reason, refused["reason"].to_pylist()))
    skipped = reasons.pop(Reason.NOT_DICOM, 0)
    with PrivateParquet(work.made_rejected, REJECTED_TABLE) as file:
        for table in rejected:
            order = ("path", "offset", "member", "reason", "detail")
            file.add(table.sort_by([(name, "ascending") for name in order]))
    identities = Identities(work.scratch / "identities")
    with CatalogWriter(work.made_catalog) as file:
        for table in images:
            identities.add(table)
            file.add(duplicates.digested(table, executor))
    return Tables(
        objects=objects,
        series=pq.read_metadata(work.made_catalog).num_rows,
        modalities=dict(modalities.most_common()),
        skipped=skipped,
        rejected=dict(sorted(reasons.items())),
        repeated=duplicates.count(),
        several_patients=identities.count(),
    )


def _series_key(table: pa.Table) -> pa.ChunkedArray:
    """One string per row that sorts like (patient, study, series): no text of the catalog contains NUL."""
    return pc.binary_join_element_wise(*(table[name] for name in SERIES_KEY), "\0")
