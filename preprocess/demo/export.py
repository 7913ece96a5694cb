"""Writing the synthetic export: dicom/ like a PACS export, tables of labels, and truth.json."""

import csv
import io
import json
import logging
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from preprocess.demo.axial import axial_files
from preprocess.demo.companions import (
    coronal_files,
    dose_report_file,
    localizer_file,
    resonance_files,
    screen_capture_file,
)
from preprocess.demo.identity import MARK, Identity, identity, uid
from preprocess.demo.job import File, SeriesJob
from preprocess.demo.layout import file_path, study_folder
from preprocess.demo.lesions import Bleed
from preprocess.demo.masks import write_masks
from preprocess.demo.measures import COLUMNS, measures
from preprocess.demo.plan import Kind, Quirk, StudyPlan, plan_studies
from preprocess.demo.writer import SeriesFacts, media_directory, transfer_syntax
from preprocess.reasons import Reason
from shards.atomic import TEMPORARY_SUFFIX
from shards.errors import FmctError
from shards.output_paths import require_folder
from shards.parallel import process_pool

log = logging.getLogger(__name__)

DICOM, LABELS, MEASURES, TRUTH = "dicom", "labels.csv", "measures.csv", "truth.json"
MASKS, MASK_TABLE = "masks", "masks.csv"
REAL_FOLDER = "real"
FRACTURE = "fracture"
"""Label column, if fractures are requested."""
TORN_BYTES = 400
"""Length of a torn file: it ends in its header, before its UIDs."""

_MAKERS: dict[Kind, Callable[[SeriesJob], Iterator[File]]] = {
    Kind.SOFT: axial_files,
    Kind.BONE: axial_files,
    Kind.LOCALIZER: localizer_file,
    Kind.DOSE_REPORT: dose_report_file,
    Kind.SCREEN_CAPTURE: screen_capture_file,
    Kind.CORONAL: coronal_files,
    Kind.MAGNETIC_RESONANCE: resonance_files,
}


@dataclass(frozen=True)
class ExportSummary:
    """Summary of an export."""

    studies: int
    series: int
    files: int
    bytes: int
    real_files: int

    def __str__(self) -> str:
        """One line for the console."""
        real = f" and {self.real_files} files of a real series" if self.real_files else ""
        size = self.bytes / 2**20
        return f"{self.studies} studies, {self.series} series, {self.files} files ({size:.0f} MiB){real}"


def export(
    out: Path,
    studies: int,
    seed: int,
    matrix: int = 192,
    real: Path | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    masks: bool = False,
    fractures: float = 0.0,
) -> ExportSummary:
    """Write `studies` synthetic studies of `matrix` × `matrix` slices to the new folder `out`.

    The bytes depend only on (studies, seed, matrix, real, fractures). `out`/dicom is the export,
    `out`/labels.csv has one row per study (patient_id, study_instance_uid, 0/1 columns), `out`/measures.csv
    these and the columns of `preprocess.demo.measures`, and `out`/truth.json the kind and expected outcome of
    each series. The files of the folder `real` are copied among the others. With `masks`, `out`/masks holds
    NIfTI files of the bleeds, and `out`/masks.csv one row each (path, patient_id, study_instance_uid, class),
    without path and class for a head without bleeds; no other file changes. fractures: share of the studies
    with a skull fracture (`preprocess.demo.fractures`); above 0 there is a label for it, and a thin series of
    a bone kernel in every study. progress: called with (studies done, all studies).
    Raises FmctError if `out` already holds files or cannot be created, `real` is not a folder, or a number is
    out of range.
    """
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FmctError(f"{out}: not an empty folder; give a new one")
    require_folder(out)
    if real is not None and not real.is_dir():
        raise FmctError(f"{real}: no such folder; give the folder of a real series' files")
    for name, value, minimum in (("studies", studies, 1), ("seed", seed, 0), ("matrix", matrix, 32)):
        if value < minimum:
            raise FmctError(f"{name}={value}: give at least {minimum}")
    if not 0 <= fractures <= 1:
        raise FmctError(f"fractures={fractures:g}: expected a share of the studies, from 0 to 1")
    plans = plan_studies(seed, studies, matrix, fractures)
    with _new_folder(out) as temporary:
        write = partial(_write_study, temporary / DICOM, seed, bool(fractures))
        truths: list[dict[str, Any]] = []
        for truth in _each(write, plans, workers):
            truths.append(truth)
            if progress:
                progress(len(truths), studies)
        junk = _write_junk(temporary / DICOM, seed)
        real_files = _copy_real(real, temporary / DICOM / REAL_FOLDER) if real else 0
        found = (FRACTURE,) if fractures else ()
        (temporary / LABELS).write_text(_labels(truths, found))
        (temporary / MEASURES).write_text(_labels(truths, (*found, *COLUMNS)))
        if masks:
            (temporary / MASK_TABLE).write_text(_write_masks(temporary / MASKS, plans, truths, workers))
        truth = {"seed": seed, "matrix": matrix, "mark": MARK, "studies": truths, "other_files": junk}
        (temporary / TRUTH).write_text(json.dumps(truth, indent=1) + "\n")
        sizes = [path.stat().st_size for path in (temporary / DICOM).rglob("*") if path.is_file()]
    series = sum(len(study["series"]) for study in truths)
    return ExportSummary(studies, series, len(sizes), sum(sizes), real_files)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that is renamed to `out` on a clean exit and removed on an error."""
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        (temporary / DICOM).mkdir()
        yield temporary
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _each(
    write: Callable[[StudyPlan], dict[str, Any]], plans: list[StudyPlan], workers: int
) -> Iterator[dict[str, Any]]:
    if workers == 1:
        yield from map(write, plans)
        return
    with process_pool(workers, __name__) as pool:
        # Not pool.map: its cancellation fails with a traceback after a worker's death (CPython 3.11).
        for future in [pool.submit(write, plan) for plan in plans]:
            yield future.result()


def _write_study(dicom: Path, seed: int, fractures: bool, study: StudyPlan) -> dict[str, Any]:
    """Write all files of a study; returns its part of truth.json."""
    patient = identity(seed, study.index, study.patient)
    folder = study_folder(study.layout, patient, study.index)
    return {
        "index": study.index,
        "patient_id": patient.patient_id,
        "study_instance_uid": patient.study_uid,
        "manufacturer": study.scanner.manufacturer,
        "layout": study.layout,
        "labels": study.labels | ({FRACTURE: int(study.fracture is not None)} if fractures else {}),
        "measures": measures(seed, study.index, study.head),
        "series": [_write_series(dicom, folder, seed, study, patient, n) for n in range(len(study.series))],
    }


def _write_series(
    dicom: Path, folder: PurePosixPath, seed: int, study: StudyPlan, patient: Identity, index: int
) -> dict[str, Any]:
    plan = study.series[index]
    facts = SeriesFacts(
        identity=patient,
        scanner=study.scanner,
        uid=uid(patient.study_uid, "series", index),
        number=index + 1,
        description=f"{plan.kind.replace('_', ' ').upper()} {MARK}",
        patient_position=_patient_position(plan.quirks),
        transfer_syntax=transfer_syntax(plan.quirks),
    )
    files = list(_MAKERS[plan.kind](SeriesJob(seed, study, plan, facts)))
    paths = [file_path(study.layout, folder, facts.number, file) for file in files]
    for parent in {path.parent for path in paths}:
        (dicom / parent).mkdir(parents=True, exist_ok=True)
    for path, file in zip(paths, files, strict=True):
        _write_new(dicom / path, file.content)
    return {
        "series_instance_uid": facts.uid,
        "kind": plan.kind,
        "expected": plan.expected,
        "quirks": list(plan.quirks),
        "transfer_syntax": facts.transfer_syntax,
        "files": len(files),
        "dropped": Counter(file.dropped for file in files if file.dropped),
        "truncated_files": [str(path) for path, file in zip(paths, files, strict=True) if _is_cut(file)],
    }


def _is_cut(file: File) -> bool:
    return file.dropped is Reason.TRUNCATED_PIXEL_DATA


def _patient_position(quirks: tuple[Quirk, ...]) -> str:
    """Patient Position (0018,5100)."""
    if Quirk.FEET_FIRST in quirks:
        return "FFS"
    return "HFP" if Quirk.PRONE in quirks else "HFS"


def _write_new(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)


def _write_junk(dicom: Path, seed: int) -> list[dict[str, str]]:
    """Write files that belong to no series; return their paths and kinds."""
    directory = media_directory(uid(seed, "media directory"))
    whole = min(dicom.rglob("*.dcm"))
    junk = {
        "MEDIA/DICOMDIR": ("media_directory", directory),
        "MEDIA/README.TXT": ("text", f"Viewer for {MARK} HOSPITAL\r\n".encode()),
        "unsorted/empty.dcm": ("empty", b""),
        "unsorted/notes.dcm": ("text", f"{MARK}: see the prior examination\n".encode() * 8),
        "unsorted/torn.dcm": ("torn_header", whole.read_bytes()[:TORN_BYTES]),
    }
    for folder in ("MEDIA", "unsorted"):
        (dicom / folder).mkdir(exist_ok=True)
    for path, (_, content) in junk.items():
        _write_new(dicom / path, content)
    return [{"path": path, "kind": kind} for path, (kind, _) in junk.items()]


def _copy_real(real: Path, folder: Path) -> int:
    """Copy the files of `real`, flat; returns their number."""
    sources = sorted(path for path in real.iterdir() if path.is_file())
    folder.mkdir()
    for source in sources:
        shutil.copyfile(source, folder / source.name)
    return len(sources)


def _write_masks(folder: Path, plans: list[StudyPlan], truths: list[dict[str, Any]], workers: int) -> str:
    """Write the files; return their table."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "patient_id", "study_instance_uid", "class"])
    for study, written in zip(
        truths, _each(partial(_write_study_masks, folder), plans, workers), strict=True
    ):
        files = [(f"{MASKS}/{name}", kind) for kind, name in written.items()] or [("", "")]
        writer.writerows(
            [path, study["patient_id"], study["study_instance_uid"], kind] for path, kind in files
        )
    return buffer.getvalue()


def _write_study_masks(folder: Path, study: StudyPlan) -> dict[str, str]:
    return write_masks(folder, f"{study.index:05d}", study.head)


def _labels(truths: list[dict[str, Any]], more: tuple[str, ...] = ()) -> str:
    buffer = io.StringIO()
    columns = ["patient_id", "study_instance_uid", "any_bleed", *(bleed.value for bleed in Bleed), *more]
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**study, **study["labels"], **study["measures"]} for study in truths)
    return buffer.getvalue()
