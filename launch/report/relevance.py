"""`fmct relevance`: relevance maps of classifier scores, as files and on a page, and evaluated on masks."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fmct_hpc.inference.parts import Part, inputs_of, parts_of
from fmct_hpc.relevance.evaluate import Evaluation
from fmct_hpc.relevance.maps import Explainer
from launch.report.document import Document, facts
from launch.report.relevance_pictures import pictures_section, scan_section
from launch.report.relevance_table import MEASURES, figures_section
from launch.report.relevance_unit import Made, MapRow, Unit
from shards.atomic import atomic_path, write_text
from shards.errors import FmctError
from shards.info import sha256
from shards.ledger import Ledger, mark, marked
from shards.listed import register_files
from shards.lock import writing
from shards.output_paths import require_folder
from shards.share import WHOLE, Share
from shards.subject import Origin, Subject, claim

TABLE, PAGE, UNITS = "relevance.parquet", "relevance.html", "units"
PART_VOLUMES, PART_PATHS = 8, 4
"""Volumes of a dataset, and other paths (usually one exam each), per unit: some minutes of work on a core."""
VERSION = 1
"""Increase it with every change of the maps or their record for the same inputs; all are then recomputed."""
MAX_SHOWN = 40
"""Maximum number of scans on the page, about 100 KB each; the files have all. Only as many units keep
pictures, so that the page does not depend on the number of shares."""
SCHEMA = pa.schema(
    [
        ("path", pa.int32()),
        *((name, pa.string()) for name in ("key", "study_key", "patient_key", "task", "method", "file")),
        ("score", pa.float64()),
        ("probability", pa.float64()),
        ("positive", pa.bool_()),
        ("reason", pa.string()),
        *((name, pa.string()) for name in ("kind", "role")),
        ("value", pa.float64()),
    ]
)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """The result for all paths."""

    scans: int
    maps: int
    measures: pa.Table | None
    """`Evaluation.table`, if masks were given."""
    refused: tuple[str, ...]
    """One line per path without maps: its number and the reason."""
    parts: int
    done: int


class Relevance:
    """The maps of a classifier, or of an encoder, for the scans at some paths, in a folder."""

    def __init__(
        self,
        paths: Sequence[Path],
        explainer: Explainer,
        out: Path,
        evaluation: Evaluation | None = None,
        beside: Explainer | None = None,
        key_file: Path | None = None,
    ) -> None:
        """evaluation: measures each scan that has a mask; beside: another classifier of the same labels.

        Raises FmctError if `out` is not writable, or if `beside` has another preprocessing or sample.
        """
        require_folder(out)
        if beside is not None and beside.reads.preprocess_digest != explainer.reads.preprocess_digest:
            raise FmctError("--beside: its encoder was trained with another preprocessing")
        if beside is not None and beside.sample != explainer.sample:
            raise FmctError(
                f"--beside: its sample is {beside.sample}, that of the first classifier {explainer.sample}"
            )
        self._out, self._evaluation = out, evaluation
        self._per_scan = len(explainer.readings) * len(explainer.methods)
        self._unit = Unit(explainer, out, evaluation, beside, key_file)
        of_first, of_beside = _digest(explainer), _digest(beside) if beside else "none"
        sources = {
            "classifier": Origin.of(None, of_first),
            "classifier beside": Origin.of(None, of_beside),
        }
        self._subject = Subject(command="relevance", sources=sources)
        parts = parts_of(paths, PART_VOLUMES, PART_PATHS, explainer.sample != "volume")
        self._parts = sorted(parts, key=lambda part: part[0].number)  # pictures are of the first paths
        about = [VERSION, of_first, of_beside, list(explainer.readings), list(explainer.methods)]
        about += [sha256(key_file) if key_file else ""]
        about += [[evaluation.digest, evaluation.tolerance_mm]] if evaluation else []
        self._files = [
            _file(out, [*about, number < MAX_SHOWN], part) for number, part in enumerate(self._parts)
        ]

    def run(self, share: Share = WHOLE, progress: Progress = lambda done, total: None) -> int:
        """Compute missing units, all or those of a share; returns their number.

        A map is KEY-NUMBER-LABEL-METHOD.nii.gz on the grid of the scan's preprocessed volume, in patient
        coordinates: each voxel has the value of its patch, 0 where no patch is encoded. Each scan of a study
        has its own maps of the common score. A unit is kept for the same classifiers, paths, datasets, masks
        and key, and computed again if a path in it was refused. Exams that changed in place are not read
        again, except into another `out`. progress: called with the number of units made and to make.

        Raises FmctError if `out` holds maps of another classifier.
        """
        with writing(self._out, "fmct relevance", shared=share != WHOLE):
            claim(self._out, self._subject, [TABLE, PAGE, MEASURES])
            register_files(self._out, self._files, share)
            units = Ledger(range(len(self._parts)), self._finished).share(share)
            return units.make(self._make, progress)

    def collect(self) -> Written:
        """Join the finished units: the table, the page of the first scans, and the measures.

        relevance.parquet has one row per map, and one with the reason for each path without maps, in the
        order of the paths. measures.parquet has `Evaluation.table`. Neither the tables nor the page name a
        patient or a path.

        Raises FmctError if no unit is finished, if `out` holds maps of other scans, and if no scan has a
        mask.
        """
        made = [one for one in map(self._whole, range(len(self._parts))) if one is not None]
        if not made:
            raise FmctError(f"{self._out}: no maps of these paths yet; run without --collect")
        # Several parts of a path may be rejected for the same reason.
        once = dict.fromkeys(row for one in made for row in one.rows)
        rows = sorted(once, key=lambda row: row.path)
        shown = sorted((scan for one in made for scan in one.shown), key=lambda scan: scan.path)[:MAX_SHOWN]
        refused = [line for row in rows if row.reason for line in _lines(row, row.reason)]
        maps = sum(row.reason is None for row in rows)
        scans = maps // self._per_scan
        measures = None
        with writing(self._out, "fmct relevance --collect"):
            _require_all(rows, self._out, refused)
            _write_table(pa.Table.from_pylist([row.model_dump() for row in rows], SCHEMA), self._out / TABLE)
            sections = [
                pictures_section(len(shown)),
                *(scan_section(scan.title, scan.pictures) for scan in shown),
            ]
            measured = [each for one in made for each in one.measured]
            if self._evaluation is not None and (measured or len(made) == len(self._parts)):
                if not measured:
                    message = "the table of --masks has no mask for any of the scans"
                    raise FmctError("\n".join([message, *refused]))
                measures = self._evaluation.table(measured)
                _write_table(measures, self._out / MEASURES)
                sections.insert(0, figures_section(measures))
            if scans:
                summary = facts("Maps", {"scans": scans, "maps": maps, "refused": len(refused)})
                write_text(self._out / PAGE, Document("Relevance maps", summary, tuple(sections)).html())
        return Written(scans, maps, measures, tuple(refused), len(self._parts), len(made))

    def _make(self, number: int) -> None:
        pictures = MAX_SHOWN if number < MAX_SHOWN else 0
        mark(self._files[number], self._unit.make(self._parts[number], pictures))

    def _whole(self, number: int) -> Made | None:
        """The record of a unit; None unless all its maps exist."""
        made = marked(self._files[number], Made)
        if made is None or not all((self._out / row.file).is_file() for row in made.rows if row.file):
            return None
        return made

    def _finished(self, number: int) -> bool:
        made = self._whole(number)
        return made is not None and not made.refused


def _file(out: Path, about: Sequence[object], part: Part) -> Path:
    """The record of a unit; its name is a digest of everything on which its contents depend."""
    digest = hashlib.sha256(f"{json.dumps(about)} {inputs_of(part)}".encode()).hexdigest()
    return out / UNITS / f"{digest[:32]}.json"


def _lines(row: MapRow, reason: str) -> list[str]:
    named = reason.startswith(f"path {row.path}: ")
    return (reason if named else f"path {row.path}: {reason}").splitlines()


def _digest(explainer: Explainer) -> str:
    if explainer.classifier is None:
        return explainer.encoder.digest
    return hashlib.sha256(explainer.classifier.record.model_dump_json().encode()).hexdigest()


def _require_all(rows: Iterable[MapRow], out: Path, refused: list[str]) -> None:
    """Raise FmctError if the existing table has maps that the new one would lack."""
    if not (out / TABLE).exists():
        return
    before = pq.read_table(out / TABLE, columns=["file"])["file"].drop_null().to_pylist()
    lost = set(before) - {row.file for row in rows}
    if lost:
        message = f"{out}: contains {len(lost)} maps that were not requested now; use another folder"
        raise FmctError("\n".join([message, *refused]))


def _write_table(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
