"""`fmct relevance`: maps of where scores come from, as files, as a page, and measured on masks."""

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
from shards.places import require_folder
from shards.subject import Origin, Subject, claim

TABLE, PAGE = "relevance.parquet", "relevance.html"
PICTURED = 40
"""Scans on the page: some 100 KB each; the files have all."""
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
    """What came of the paths."""

    scans: int
    maps: int
    measures: pa.Table | None
    """Of `Evaluation.table`, where masks were given."""
    refused: tuple[str, ...]
    """Why a path has no maps, a line each, which names it by its number."""


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

    A map is KEY-NUMBER-LABEL-METHOD.nii.gz on the grid of the scan's preprocessed volume, which lies where
    the patient lies: each voxel has the value of the patch that it is in, 0 where no patch is encoded.
    relevance.parquet has a row a map, and one for a path that gave none, with the reason. evaluation:
    measures each scan that has a mask, into measures.parquet; beside: another classifier of the same labels,
    whose maps are measured beside. Neither the table nor the page names a patient or a path.

    A study's scans have maps each, of the score of all; one whose series bear two Patient IDs has a row with
    the reason.

    Raises FmctError where `out` takes no files or holds maps of another classifier or of other scans, where
    `beside` has other preprocessing or samples or lacks a label, and where no scan has a mask.
    """
    require_folder(out)
    if beside is not None and beside.reads.preprocess_digest != explainer.reads.preprocess_digest:
        raise FmctError("--beside: its encoder was trained on volumes of another preprocessing")
    if beside is not None and beside.sample != explainer.sample:
        raise FmctError(
            f"--beside: is a classifier of another sample ({beside.sample}), the first of {explainer.sample}"
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
                    for found, other in zip(explainer.of_sample(sample), others, strict=True):
                        scans += 1
                        rows += [{"path": number, **row} for row in _write(found, out)]
                        if len(sections) < PICTURED:
                            sections.append(scan_section(found))
                        if evaluation is not None:
                            masked += evaluation.add(found, other)
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
                raise FmctError("\n".join(["no scan has a mask in the table of --masks", *refused]))
            measures = evaluation.table()
            _write_table(measures, out / MEASURES)
            sections.insert(0, figures_section(measures))
        if scans:
            summary = facts(
                "Maps", {"scans": scans, "maps": len(rows) - len(refused), "refused": len(refused)}
            )
            write_text(out / PAGE, Document("Where scores come from", summary, tuple(sections)).html())
    return Written(scans, len(rows) - len(refused), measures, tuple(refused))


def _digest(explainer: Explainer) -> str:
    if explainer.classifier is None:
        return explainer.encoder.digest
    return hashlib.sha256(explainer.classifier.record.model_dump_json().encode()).hexdigest()


def _write(found: ScanMaps, out: Path) -> list[dict[str, Any]]:
    """Write a scan's maps; returns their rows."""
    scan, rows = found.scan, []
    of_scan = {name: getattr(scan, name) for name in ("key", "study_key", "patient_key", "role")}
    tasks = list(dict.fromkeys(task for task, _ in found.maps))
    for (task, method), values in found.maps.items():
        word = re.sub(r"[^A-Za-z0-9_]", "_", task)[:60]  # the number tells apart what this makes equal
        name = f"{scan.key}-{tasks.index(task)}-{word}-{method}.nii.gz"
        voxels = found.grid.on_volume(values, scan.voxels.shape)
        write_bytes(inside(out, name), nifti_bytes(voxels, scan.affine))
        answer = found.answers[task]._asdict() if task in found.answers else {}
        rows.append({**of_scan, "task": task, "method": method, "file": name, **answer})
    return rows


def _require_all(rows: list[dict[str, Any]], out: Path, refused: list[str]) -> None:
    """Raise FmctError where the table there has maps that the new one would not have."""
    if not (out / TABLE).exists():
        return
    before = pq.read_table(out / TABLE, columns=["file"])["file"].drop_null().to_pylist()
    lost = set(before) - {row.get("file") for row in rows}
    if lost:
        held = f"{out}: holds {len(lost)} maps that are not asked for now; name another folder"
        raise FmctError("\n".join([held, *refused]))


def _write_table(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
