"""`fmct predict`: predictions for many scans as a table, part by part, so that a stopped run is resumed."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fmct_hpc.classifier.kept import read_record
from fmct_hpc.classifier.predict import Classifier, Prediction, load_classifier
from fmct_hpc.inference.readers import read_scans
from fmct_hpc.inference.write import of_path
from shards import Dataset, info
from shards import progress as progresses
from shards.atomic import atomic_path
from shards.errors import FmctError
from shards.ledger import Ledger
from shards.lock import writing
from shards.places import require_folder
from shards.share import WHOLE, Share
from shards.studies import studies_of
from shards.subject import Origin, Subject, claim

TABLE = "predictions.parquet"
PARTS = "parts"
PART_VOLUMES, PART_PATHS = 256, 16
"""Of a dataset, and of other paths, an exam each as a rule: a minute's work, which a stopped run loses."""
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


class Piece(NamedTuple):
    """A path, or some volumes of a dataset."""

    number: int
    """Of the path among those given, from 0."""
    path: Path
    rows: Sequence[int] | None
    digest: str
    """Of the dataset; of another path, of where it lies: what is in it is not looked at."""


class Summary(NamedTuple):
    """What is in the table."""

    scans: int
    """Or studies."""
    parts: int
    done: int
    refused: tuple[str, ...]
    """Why a path has no prediction, a line each, which names it by its number and not by its text."""
    what: str = "scans"
    """Or `studies`: what the classifier takes for one sample."""


@dataclass(frozen=True)
class Predictions:
    """A classifier's predictions for the scans at `paths`, in the folder `out`."""

    paths: Sequence[Path]
    classifier: Path
    out: Path
    batch: int = 4
    device: str = "cpu"
    key_file: Path | None = None
    """The site's, for the keys of DICOM's studies and patients."""

    @cached_property
    def _loaded(self) -> Classifier:
        return load_classifier(self.classifier)

    @cached_property
    def _parts(self) -> list[list[Piece]]:
        parts: list[list[Piece]] = []
        others: list[Piece] = []
        for number, path in enumerate(self.paths):
            if (path / info.FILE_NAME).is_file():
                dataset = Dataset.open(path)
                cut = _by_studies(dataset) if self._of_studies else _by_volumes(dataset)
                parts += [[Piece(number, path, rows, dataset.info.digest)] for rows in cut]
            else:
                where = hashlib.sha256(str(path.absolute()).encode(errors="surrogateescape")).hexdigest()
                others.append(Piece(number, path, None, where))
        return parts + [others[start : start + PART_PATHS] for start in range(0, len(others), PART_PATHS)]

    @cached_property
    def _of_studies(self) -> bool:
        """Whether parts of datasets hold whole studies; not, where the classifier is yet to come."""
        try:
            return read_record(self.classifier).of_studies is not None
        except FmctError:
            return False

    @property
    def parts(self) -> int:
        """How many parts there are; found without the classifier's weights."""
        return len(self._parts)

    def run(self, share: tuple[int, int] = (0, 1), progress: Progress = lambda done, total: None) -> None:
        """Make the parts that are missing, of (i, n) the i-th of n shares alone.

        A part is kept for the same classifier, paths, datasets and key, and made again where a path in it was
        refused; exams that changed where they lie are read again into another `out` only. progress: called
        with parts done and in all. Raises FmctError where the classifier cannot be loaded, `out` takes no
        files or holds another's predictions, and for a damaged dataset; a path that cannot be used is told in
        its rows.
        """
        require_folder(self.out)
        about = Subject(command="predict", sources={"classifier": Origin.of(None, self._classified_by)})
        claim(self.out, about, [TABLE])
        with writing(self.out, "fmct predict", shared=True):
            own, of_all = self._ledger.share(Share(*share)), len(self._parts)
            progresses.register("predict", self.out, Share(*share), total=len(own.units), of_all=of_all)
            own.make(self._make, progress)

    @property
    def _ledger(self) -> Ledger[int, bool]:
        """Numbers of the parts; the file of a part is its marker."""
        return Ledger(range(len(self._parts)), lambda number: _whole(self._file(number)))

    def _make(self, number: int) -> None:
        rows = [row for piece in self._parts[number] for row in self._rows(piece)]
        with atomic_path(self._file(number)) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary, compression="zstd")

    def collect(self) -> Summary:
        """Join the parts that are done to `out`/predictions.parquet, in the order of the paths.

        A row a scan and task; a path without any scan has one row, with the reason. Raises FmctError where
        none is done.
        """
        files = [self._file(i) for i in range(len(self._parts))]
        done = [file for file in files if file.is_file()]
        if not done:
            raise FmctError(f"{self.out}: has no predictions of these paths yet; run without --collect")
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
        made_of = [(piece.number, piece.rows, piece.digest) for piece in self._parts[number]]
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


def _by_volumes(dataset: Dataset) -> Iterator[range]:
    for start in range(0, len(dataset), PART_VOLUMES):
        yield range(start, min(start + PART_VOLUMES, len(dataset)))


def _by_studies(dataset: Dataset) -> Iterator[list[int]]:
    """Rows of whole studies, of as many that they have `PART_VOLUMES` or some more."""
    held: list[int] = []
    found = studies_of(dataset.index)
    for rows in (*found.rows.values(), *found.torn.values()):
        held += rows.tolist()
        if len(held) >= PART_VOLUMES:
            yield held
            held = []
    if held:
        yield held


def _whole(file: Path) -> bool:
    """Whether a part is there, and none of its paths was refused: that may have been mended since."""
    if not file.is_file():
        return False
    reasons = pq.read_table(file, columns=["reason"])["reason"]
    return bool(reasons.null_count == len(reasons))


def progress(out: Path, share: Share = WHOLE) -> progresses.Progress:
    """How many parts of a share are done in `out`."""
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
