"""`fmct predict`: predictions for many scans as a table, in parts, so that a stopped run can be resumed."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fmct_hpc.classifier.folder import read_record
from fmct_hpc.classifier.predict import Classifier, Prediction, load_classifier
from fmct_hpc.inference.parts import Part, Piece, inputs_of, parts_of
from fmct_hpc.inference.readers import read_scans
from fmct_hpc.inference.write import of_path
from shards import info
from shards import progress as progresses
from shards.atomic import atomic_path
from shards.errors import FmctError
from shards.ledger import Ledger
from shards.lock import writing
from shards.output_paths import require_folder
from shards.share import WHOLE, Share
from shards.subject import Origin, Subject, claim

TABLE = "predictions.parquet"
PARTS = "parts"
PART_VOLUMES, PART_PATHS = 256, 16
"""Volumes of a dataset, and other paths (usually one exam each), per part: about a minute of work."""
SCHEMA = pa.schema(
    [
        ("path", pa.int32()),
        ("key", pa.string()),
        ("study_key", pa.string()),
        ("patient_key", pa.string()),
        ("flags", pa.list_(pa.string())),
        ("task", pa.string()),
        ("score", pa.float64()),
        ("probability", pa.float64()),
        ("positive", pa.bool_()),
        ("reason", pa.string()),
        ("kind", pa.string()),
        ("value", pa.float64()),
        ("probabilities", pa.list_(pa.float64())),
        ("roles", pa.list_(pa.string())),
        ("missing_roles", pa.list_(pa.string())),
    ]
)
Progress = Callable[[int, int], None]


class Summary(NamedTuple):
    """Summary of the table."""

    scans: int
    """Number of samples."""
    parts: int
    done: int
    refused: tuple[str, ...]
    """Reasons for paths without prediction, one line each, with the path's number and not its name."""
    what: str = "scans"
    """`scans` or `studies`: the classifier's unit of a sample."""


@dataclass(frozen=True)
class Predictions:
    """A classifier's predictions for the scans at `paths`, in the folder `out`."""

    paths: Sequence[Path]
    classifier: Path
    out: Path
    batch: int = 4
    device: str = "cpu"
    key_file: Path | None = None
    """The site's key file, for the keys of studies and patients in DICOM."""

    @cached_property
    def _loaded(self) -> Classifier:
        return load_classifier(self.classifier)

    @cached_property
    def _parts(self) -> list[Part]:
        return parts_of(self.paths, PART_VOLUMES, PART_PATHS, self._of_studies)

    @cached_property
    def _of_studies(self) -> bool:
        """Whether parts of datasets consist of whole studies; False if the classifier does not exist yet."""
        try:
            return read_record(self.classifier).of_studies is not None
        except FmctError:
            return False

    @property
    def parts(self) -> int:
        """Number of parts; does not load the classifier's weights."""
        return len(self._parts)

    def run(self, share: Share = WHOLE, progress: Progress = lambda done, total: None) -> int:
        """Compute missing parts, all or those of a share; returns their number.

        A part is reused for the same classifier, paths, datasets and key, and recomputed if a path in it was
        rejected. Exams that changed in place are not read again, except into another `out`. progress: called
        with the number of finished parts and the total. Raises FmctError if the classifier cannot be loaded,
        if `out` is not writable or has predictions of another classifier, and for a damaged dataset. Paths
        that cannot be used have rows with the reason.
        """
        require_folder(self.out)
        about = Subject(command="predict", sources={"classifier": Origin.of(None, self._classified_by)})
        claim(self.out, about, [TABLE])
        with writing(self.out, "fmct predict", shared=True):
            own, of_all = self._ledger.share(share), len(self._parts)
            progresses.register("predict", self.out, share, total=len(own.units), of_all=of_all)
            return own.make(self._make, progress)

    @property
    def _ledger(self) -> Ledger[int, bool]:
        """Ledger of part numbers; the file of a part is its marker."""
        return Ledger(range(len(self._parts)), lambda number: _whole(self._file(number)))

    def _make(self, number: int) -> None:
        rows = [row for piece in self._parts[number] for row in self._rows(piece)]
        with atomic_path(self._file(number)) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary, compression="zstd")

    def collect(self) -> Summary:
        """Join the finished parts to `out`/predictions.parquet, in the order of the paths.

        One row per scan and task; a path without any scan has one row, with the reason. Raises FmctError if
        no part is finished.
        """
        files = [self._file(i) for i in range(len(self._parts))]
        done = [file for file in files if file.is_file()]
        if not done:
            raise FmctError(f"{self.out}: no predictions of these paths yet; run without --collect")
        table = pa.concat_tables(pq.read_table(file, schema=SCHEMA) for file in done)
        table = table.take(pc.sort_indices(table, [("path", "ascending")]))
        with writing(self.out, "fmct predict --collect"), atomic_path(self.out / TABLE) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        reasons = [reason for reason in table["reason"].to_pylist() if reason]
        record = self._loaded.record
        samples = (table.num_rows - len(reasons)) // len(record.tasks)
        what = "scans" if record.of_studies is None else "studies"
        return Summary(samples, len(files), len(done), tuple(reasons), what)

    @cached_property
    def _classified_by(self) -> str:
        return hashlib.sha256(self._loaded.record.text().encode()).hexdigest()

    @cached_property
    def _keyed_by(self) -> str:
        return info.sha256(self.key_file) if self.key_file else ""

    def _file(self, number: int) -> Path:
        made_of = inputs_of(self._parts[number])
        digest = hashlib.sha256(f"{self._classified_by} {made_of} {self._keyed_by}".encode()).hexdigest()
        return self.out / PARTS / f"{number:06d}-{digest[:16]}.parquet"

    def _rows(self, piece: Piece) -> Iterator[dict[str, Any]]:
        loaded = self._loaded
        by_study = loaded.record.of_studies is not None
        scans = read_scans(piece.path, loaded.reads, self.key_file, piece.rows, by_study)
        predictions = loaded.of_scans(scans, self.batch, self.device)
        try:
            for prediction in of_path(piece.number, piece.path, predictions):
                yield from _of_scan(piece.number, prediction)
        except FmctError as error:
            if piece.rows is not None:
                raise
            yield {"path": piece.number, "reason": str(error)}


def _whole(file: Path) -> bool:
    """Whether a part exists and none of its paths was rejected, since rejected paths are tried again."""
    if not file.is_file():
        return False
    reasons = pq.read_table(file, columns=["reason"])["reason"]
    return bool(reasons.null_count == len(reasons))


def progress(out: Path, share: Share = WHOLE) -> progresses.Progress:
    """Number of finished parts of a share in `out`."""
    numbers = (int(file.name.split("-")[0]) for file in (out / PARTS).glob("[0-9]*.parquet"))
    return progresses.Progress(sum(map(share.has, numbers)), unit="prediction")


def _of_scan(path: int, prediction: Prediction) -> Iterator[dict[str, Any]]:
    if prediction.reason:
        yield {"path": path, "study_key": prediction.study_key, "reason": prediction.reason}
        return
    names = ("key", "study_key", "patient_key", "flags", "roles", "missing_roles")
    of_scan = {"path": path, **{name: getattr(prediction, name) for name in names}}
    for task, answer in prediction.answers.items():
        yield {**of_scan, "task": task, **answer._asdict()}
