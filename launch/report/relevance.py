"""`fmct relevance`: relevance maps of classifier scores, as files and on a page, and evaluated on masks."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fmct_hpc.classifier.studies import SEVERAL_PATIENTS
from fmct_hpc.inference.readers import read_scans
from fmct_hpc.inference.write import of_path
from fmct_hpc.relevance.evaluate import Evaluation
from fmct_hpc.relevance.maps import Explainer, ScanMaps
from launch.report.document import Document, Section, facts
from launch.report.relevance_pictures import pictures_section, scan_section
from launch.report.relevance_table import MEASURES, figures_section
from shards.atomic import atomic_path, write_bytes, write_text
from shards.errors import FmctError
from shards.lock import writing
from shards.names import inside
from shards.nifti import nifti_bytes
from shards.output_paths import require_folder
from shards.subject import Origin, Subject, claim

TABLE, PAGE = "relevance.parquet", "relevance.html"
MAX_SHOWN = 40
"""Maximum number of scans on the page, about 100 KB each; the files have all."""
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


@dataclass(frozen=True)
class Written:
    """The result for all paths."""

    scans: int
    maps: int
    measures: pa.Table | None
    """`Evaluation.table`, if masks were given."""
    refused: tuple[str, ...]
    """One line per path without maps: its number and the reason."""


def relevance(
    paths: Sequence[Path],
    explainer: Explainer,
    out: Path,
    evaluation: Evaluation | None = None,
    beside: Explainer | None = None,
    key_file: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write the maps of all scans at `paths` to the folder `out`, with a table and a page of the first 40.

    A map is KEY-NUMBER-LABEL-METHOD.nii.gz on the grid of the scan's preprocessed volume, in patient
    coordinates: each voxel has the value of its patch, 0 where no patch is encoded.
    relevance.parquet has one row per map, and one with the reason for each path without maps. evaluation:
    evaluates each scan that has a mask, into measures.parquet; beside: another classifier of the same labels
    for comparison. Neither the table nor the page names a patient or a path.

    Each scan of a study has its own maps of the common score; a study whose series have two Patient IDs has a
    row with the reason.

    Raises FmctError if `out` is not writable or holds maps of another classifier or of other scans, if
    `beside` has another preprocessing or sample or lacks a label, and if no scan has a mask.
    """
    require_folder(out)
    if beside is not None and beside.reads.preprocess_digest != explainer.reads.preprocess_digest:
        raise FmctError("--beside: its encoder was trained with another preprocessing")
    if beside is not None and beside.sample != explainer.sample:
        raise FmctError(
            f"--beside: its sample is {beside.sample}, that of the first classifier {explainer.sample}"
        )
    sources = {
        "classifier": Origin.of(None, _digest(explainer)),
        "classifier beside": Origin.of(None, _digest(beside) if beside else "none"),
    }
    rows: list[dict[str, Any]] = []
    sections: list[Section] = []
    refused: list[str] = []
    scans = masked = 0
    with writing(out, "fmct relevance"):
        claim(out, Subject(command="relevance", sources=sources), [TABLE, PAGE, MEASURES])
        for number, path in enumerate(paths):
            by_study = explainer.sample != "volume"
            read = read_scans(path, explainer.reads, key_file, by_study=by_study)
            try:
                for sample in explainer.samples(of_path(number, path, read)):
                    if by_study and any(scan.several_patients for scan in sample):
                        refused.append(f"path {number}: {SEVERAL_PATIENTS}")
                        rows.append({"path": number, "key": sample[0].key, "reason": SEVERAL_PATIENTS})
                        continue
                    others = beside.of_sample(sample) if beside and evaluation else [None] * len(sample)
                    for maps, other in zip(explainer.of_sample(sample), others, strict=True):
                        scans += 1
                        rows += [{"path": number, **row} for row in _write(maps, out)]
                        if len(sections) < MAX_SHOWN:
                            sections.append(scan_section(maps))
                        if evaluation is not None:
                            masked += evaluation.add(maps, other)
            except FmctError as error:
                refused.append(str(error))
                rows.append({"path": number, "reason": str(error)})
            progress(number + 1, len(paths))
        _require_all(rows, out, refused)
        _write_table(pa.Table.from_pylist(rows, SCHEMA), out / TABLE)
        sections.insert(0, pictures_section(len(sections)))
        measures = None
        if evaluation is not None:
            if not masked:
                raise FmctError(
                    "\n".join(["the table of --masks has no mask for any of the scans", *refused])
                )
            measures = evaluation.table()
            _write_table(measures, out / MEASURES)
            sections.insert(0, figures_section(measures))
        if scans:
            summary = facts(
                "Maps", {"scans": scans, "maps": len(rows) - len(refused), "refused": len(refused)}
            )
            write_text(out / PAGE, Document("Relevance maps", summary, tuple(sections)).html())
    return Written(scans, len(rows) - len(refused), measures, tuple(refused))


def _digest(explainer: Explainer) -> str:
    if explainer.classifier is None:
        return explainer.encoder.digest
    return hashlib.sha256(explainer.classifier.record.model_dump_json().encode()).hexdigest()


def _write(maps: ScanMaps, out: Path) -> list[dict[str, Any]]:
    """Write a scan's maps; returns their rows."""
    scan, rows = maps.scan, []
    of_scan = {name: getattr(scan, name) for name in ("key", "study_key", "patient_key", "role")}
    tasks = list(dict.fromkeys(task for task, _ in maps.maps))
    for (task, method), values in maps.maps.items():
        word = re.sub(r"[^A-Za-z0-9_]", "_", task)[:60]  # the number keeps names unique
        name = f"{scan.key}-{tasks.index(task)}-{word}-{method}.nii.gz"
        voxels = maps.grid.on_volume(values, scan.voxels.shape)
        write_bytes(inside(out, name), nifti_bytes(voxels, scan.affine))
        answer = maps.answers[task]._asdict() if task in maps.answers else {}
        rows.append({**of_scan, "task": task, "method": method, "file": name, **answer})
    return rows


def _require_all(rows: list[dict[str, Any]], out: Path, refused: list[str]) -> None:
    """Raise FmctError if the existing table has maps that the new one would lack."""
    if not (out / TABLE).exists():
        return
    before = pq.read_table(out / TABLE, columns=["file"])["file"].drop_null().to_pylist()
    lost = set(before) - {row.get("file") for row in rows}
    if lost:
        message = f"{out}: contains {len(lost)} maps that were not requested now; use another folder"
        raise FmctError("\n".join([message, *refused]))


def _write_table(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
