"""From a table of volume files to a catalog, equivalent to the catalog of a scan."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from preprocess.dicom.catalog import Instance, Texts
from preprocess.dicom.catalog_table import INSTANCE_TABLE, INSTANCE_TYPES, CatalogWriter
from preprocess.dicom.sources import file_source
from preprocess.imports.catalog_series import Listed, listed
from preprocess.imports.reference import reference_rows
from preprocess.imports.table import NUMBERS, TEXTS, read_rows
from preprocess.reasons import Reason, Rejection
from preprocess.select.rejected import refused
from preprocess.volume.formats import format_of, open_volume
from preprocess.volume.given_file import file_status
from preprocess.volume.slices import as_instances
from shards.errors import FmctError
from shards.output_paths import require_file

TableFormat = Literal["plain", "reference"]

BATCH_ROWS = 64
"""Rows of the table whose slices are in memory at a time."""
MODALITY = "CT"
"""Default if the table has no such column."""


@dataclass(frozen=True)
class ImportSummary:
    """Summary of a table."""

    rows: int
    refused: dict[str, int]
    """Unusable rows by reason; each has its row in the quarantine."""
    unread: tuple[str, ...]
    """Ignored columns."""

    def __str__(self) -> str:
        reasons = ", ".join(f"{n} {reason}" for reason, n in self.refused.items()) or "none"
        unread = f"; ignored columns: {', '.join(self.unread)}" if self.unread else ""
        return f"{self.rows} rows; rejected: {reasons}{unread}"


def import_table(
    table: Path,
    catalog: Path,
    format: TableFormat = "plain",
    root: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImportSummary:
    """Read the header of every file in `table`, and write `catalog`.

    format: `plain` (`preprocess.imports.table`), or `reference`, a folder of the reference's split tables
    (`preprocess.split_tables`); root: base of relative paths, by default the table's folder. An unusable row
    becomes a series of the catalog that selection rejects with its reason. The catalog depends only on the
    table and the files' sizes, times and headers. progress: called with (rows done, all rows).
    Raises FmctError if the table is not valid, the catalog cannot be written, or a file server fails.
    """
    require_file(catalog, table)
    if root is not None and not root.is_dir():
        raise FmctError(f"{root}: no such folder; give the base folder of the table's paths")
    rows, unread = read_rows(table) if format == "plain" else (reference_rows(table), ())
    home = table if format == "reference" else table.parent
    ordered = listed(rows, (root or home).absolute())
    reasons: Counter[str] = Counter()
    with CatalogWriter(catalog) as writer:
        for start in range(0, len(ordered), BATCH_ROWS):
            batch = ordered[start : start + BATCH_ROWS]
            flat: list[dict[str, Any]] = []
            for one in batch:
                instances, rejection = _instances(one)
                reasons.update([rejection.reason.value] if rejection else [])
                flat += _flat(one, instances)
            writer.add(pa.Table.from_pylist(flat, INSTANCE_TABLE))
            if progress:
                progress(start + len(batch), len(ordered))
    return ImportSummary(len(ordered), dict(sorted(reasons.items())), unread)


def _instances(one: Listed) -> tuple[list[Instance], Rejection | None]:
    """The slices of a row's file, or a placeholder with the rejection."""
    try:
        if one.rejection:
            raise one.rejection
        return _slices(one), None
    except Rejection as rejection:
        return [refused(_facts(one), rejection)], rejection


def _slices(one: Listed) -> list[Instance]:
    source = file_source(one.path, file_status(one.path))
    volume = open_volume(one.path)
    given, own = one.row.affine(), volume.affine
    if own is not None and given is not None:
        raise Rejection(Reason.INVALID_VALUE, "column affine: the file has its own; leave the cell empty")
    affine = given if own is None else own
    if affine is None:
        raise Rejection(
            Reason.MISSING_GEOMETRY,
            "column affine: empty, and the file does not state its orientation; give 16 numbers",
        )
    kvp, thickness, contrast_ml = map(one.row.number_of, NUMBERS)
    facts = _facts(one, source.size, source.mtime_ns, kvp, thickness, contrast_ml)
    if volume.beside:  # the plan's digests cover UIDs, so a change of this file reruns the task
        status = file_status(volume.beside)
        facts = replace(facts, sop_uid=f"{one.series} {status.st_size} {status.st_mtime_ns}")
    return as_instances(volume, affine, facts)


def _facts(
    one: Listed,
    size: int = 0,
    mtime_ns: int = 0,
    kvp: float | None = None,
    thickness: float | None = None,
    contrast_ml: float | None = None,
) -> Instance:
    """The row's facts, common to all slices."""
    return Instance(
        path=one.path,
        size=size,
        mtime_ns=mtime_ns,
        sop_uid=one.series,
        sop_class="",
        modality=one.row.cells["modality"].upper() or MODALITY,
        frame_of_reference_uid="",
        transfer_syntax=format_of(one.path) or "",
        image_type=(),
        acquisition_number=None,
        instance_number=None,
        kernel=one.row.cells["kernel"],
        kvp=kvp,
        frames=1,
        samples=None,
        rows=None,
        columns=None,
        position=None,
        orientation=None,
        pixel_spacing=None,
        thickness=thickness,
        tilt=None,
        texts=Texts(**{name: one.row.cells[name] for name in TEXTS}, contrast_volume=contrast_ml),
    )


def _flat(one: Listed, instances: list[Instance]) -> Iterator[dict[str, Any]]:
    """Rows of `INSTANCE_TABLE`."""
    patient, study, _ = one.row.identity
    shared = {"patient_id": patient, "study_uid": study, "series_uid": one.series}
    shared |= asdict(instances[0].texts)
    for instance in instances:
        own = {name: getattr(instance, name) for name in INSTANCE_TYPES}
        yield {**shared, **own, "path": os.fsencode(instance.path), "member": b""}
