"""A unit of `fmct relevance`: the maps of some scans as files, and their record, which is written last."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Base64Bytes, Field

from fmct_hpc.classifier.studies import SEVERAL_PATIENTS
from fmct_hpc.inference.parts import Part, Piece
from fmct_hpc.inference.readers import read_scans
from fmct_hpc.inference.write import of_path
from fmct_hpc.relevance.evaluate import Evaluation, Measured
from fmct_hpc.relevance.maps import Explainer, ScanMaps
from launch.report.relevance_pictures import scan_pictures, scan_title
from shards.atomic import write_bytes
from shards.closed import Closed
from shards.errors import FmctError
from shards.names import inside
from shards.nifti import nifti_bytes

FileName = Annotated[str, Field(pattern=r"^[0-9a-f]{1,32}-\d{1,6}-[A-Za-z0-9_]{0,60}-[a-z-]{1,40}\.nii\.gz$")]


class MapRow(Closed):
    """One row of relevance.parquet: a map, or a path without maps and the reason."""

    path: int
    key: str | None = None
    study_key: str | None = None
    patient_key: str | None = None
    task: str | None = None
    method: str | None = None
    file: FileName | None = None
    score: float | None = None
    probability: float | None = None
    positive: bool | None = None
    reason: str | None = None
    kind: str | None = None
    role: str | None = None
    value: float | None = None


class Shown(Closed):
    """The pictures of one scan, for the page."""

    path: int
    title: str
    pictures: tuple[tuple[str, Base64Bytes], ...]
    """Caption and PNG of each."""


class Made(Closed):
    """The record of a unit."""

    rows: tuple[MapRow, ...]
    measured: tuple[Measured, ...] = ()
    shown: tuple[Shown, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether a path, or a study in it, has no maps; such a unit is tried again."""
        return any(row.reason is not None for row in self.rows)


class Unit:
    """Computes the maps of a part."""

    def __init__(
        self,
        explainer: Explainer,
        out: Path,
        evaluation: Evaluation | None,
        beside: Explainer | None,
        key_file: Path | None,
    ) -> None:
        """Parameters as of `launch.report.relevance.Relevance`."""
        self._explainer, self._out, self._evaluation = explainer, out, evaluation
        self._baseline, self._key_file = beside, key_file

    def make(self, part: Part, pictures: int) -> Made:
        """Write the maps of the scans of a part, and return its record with the pictures of the first few."""
        rows: list[MapRow] = []
        measured: list[Measured] = []
        shown: list[Shown] = []
        for piece in part:
            try:
                for sample in self._samples(piece):
                    if isinstance(sample, MapRow):
                        rows.append(sample)
                        continue
                    for maps, other in sample:
                        rows += self._write(piece.number, maps)
                        if self._evaluation is not None:
                            measured += self._evaluation.of_scan(maps, other)
                        if len(shown) < pictures:
                            own = tuple(scan_pictures(maps))
                            shown.append(Shown(path=piece.number, title=scan_title(maps), pictures=own))
            except FmctError as error:
                rows.append(MapRow(path=piece.number, reason=str(error)))
        return Made(rows=tuple(rows), measured=tuple(measured), shown=tuple(shown))

    def _samples(self, piece: Piece) -> Iterator[MapRow | list[tuple[ScanMaps, ScanMaps | None]]]:
        """Yield the maps of each sample with those of the other classifier, or the row of a refused study."""
        explainer, beside = self._explainer, self._baseline
        by_study = explainer.sample != "volume"
        read = read_scans(piece.path, explainer.reads, self._key_file, piece.rows, by_study)
        for sample in explainer.samples(of_path(piece.number, piece.path, read)):
            if by_study and any(scan.several_patients for scan in sample):
                yield MapRow(path=piece.number, key=sample[0].key, reason=SEVERAL_PATIENTS)
                continue
            others: Sequence[ScanMaps | None] = [None] * len(sample)
            if beside is not None and self._evaluation is not None:
                others = beside.of_sample(sample)
            yield list(zip(explainer.of_sample(sample), others, strict=True))

    def _write(self, path: int, maps: ScanMaps) -> list[MapRow]:
        """Write a scan's maps; returns their rows."""
        scan, rows = maps.scan, []
        of_scan = {name: getattr(scan, name) for name in ("key", "study_key", "patient_key", "role")}
        tasks = list(dict.fromkeys(task for task, _ in maps.maps))
        for (task, method), values in maps.maps.items():
            word = re.sub(r"[^A-Za-z0-9_]", "_", task)[:60]  # the number keeps names unique
            name = f"{scan.key}-{tasks.index(task)}-{word}-{method}.nii.gz"
            voxels = maps.grid.on_volume(values, scan.voxels.shape)
            write_bytes(inside(self._out, name), nifti_bytes(voxels, scan.affine))
            answer = maps.answers[task]._asdict() if task in maps.answers else {}
            answer.pop("probabilities", None)
            rows.append(MapRow(path=path, **of_scan, task=task, method=method, file=name, **answer))
        return rows
