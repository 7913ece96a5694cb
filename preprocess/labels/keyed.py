"""Keying a table of labels with the pseudonyms of the volumes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from preprocess.labels import cq500, plain, reference, rsna2019, split_column
from preprocess.labels.table import LabelTable
from preprocess.privacy.deidentify import Pseudonymizer
from shards.atomic import atomic_path
from shards.errors import FmctError
from shards.label_kinds import KindSpec
from shards.output_paths import require_file

LabelFormat = Literal["plain", "rsna2019", "cq500", "reference"]

_KEY = b"fmct.key"
"""Key of the Parquet metadata for `Pseudonymizer.fingerprint`."""


@dataclass(frozen=True)
class KeyedLabels:
    """Summary of the written labels."""

    studies: int
    notes: tuple[str, ...]
    """Parts of the source that are not in it, one line each."""
    counts: dict[str, tuple[int, int, int]]
    """Positive, negative and unknown studies by label."""
    others: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Values of a column of another kind, and the number of studies that have one."""

    def __str__(self) -> str:
        lines = [f"{self.studies} studies"]
        for name, (positive, negative, unknown) in self.counts.items():
            lines.append(f"  {name}: {positive} positive, {negative} negative, {unknown} unknown")
        lines += [f"  {name}: {held}, of {known} studies" for name, (held, known) in self.others.items()]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def key_labels(
    source: Path,
    key_file: Path,
    out: Path,
    format: LabelFormat = "plain",
    catalog: Path | None = None,
    mapping: Path | None = None,
    parts: Path | None = None,
    kinds: Mapping[str, KindSpec] | None = None,
) -> KeyedLabels:
    """Write the labels of `source` as Parquet with the pseudonyms of studies.

    format: `plain` (`preprocess.labels.plain`), or a public dataset's file: stage_2_train.csv of RSNA 2019,
    reads.csv of CQ500. These have no study column and require `catalog`, of that dataset's scan, or
    `mapping`, a CSV. `reference`: the folder of the reference's split tables (`preprocess.split_tables`).
    parts: the parts.parquet of `fmct shards split`. kinds: of columns of a plain table that are not binary.
    The Parquet has study_key, one column per label (int8 for binary labels and classes, else float64; null if
    unknown) and, if source or parts give it, split; rows are sorted by study_key.

    Raises FmctError, without quoting the source, if the source is not of its format, or if `out` is one of
    the inputs, was keyed with another key, or cannot be written.
    """
    require_file(out, source, key_file, catalog, mapping, parts)
    if format in ("plain", "reference"):
        if catalog or mapping:
            raise FmctError(
                f"{source}: a {format} table identifies its studies itself; omit catalog and mapping"
            )
        table = plain.read(source, kinds) if format == "plain" else reference.read(source)
    else:
        if (catalog is None) == (mapping is None):
            raise FmctError(f"{source}: give the catalog of the dataset's scan, or a mapping, with {format}")
        table = (rsna2019 if format == "rsna2019" else cq500).read(source, catalog, mapping)
    if kinds and format != "plain":
        raise FmctError(f"kinds: a table in the format {format} has binary labels; omit kinds")
    names = Pseudonymizer(key_file)
    _require_same_key(out, names, key_file)
    if parts is not None:
        table = split_column.with_parts(table, source, parts, names)
    studies = sorted((names.study(study), study) for study in table.rows)
    columns = {"study_key": pa.array([key for key, _ in studies], pa.string())}
    for number, name in enumerate(table.names):
        rule = table.rules.get(name, "binary")
        kept = pa.float64() if rule in ("regression", "time") else pa.int8()
        values = [table.rows[study][number] for _, study in studies]
        columns[name] = pa.array([v if v is None or kept != pa.int8() else int(v) for v in values], kept)
    if table.splits is not None:
        columns["split"] = pa.array([table.splits[study] for _, study in studies], pa.string())
    labels = pa.table(columns).replace_schema_metadata({_KEY: names.fingerprint})
    with atomic_path(out) as temporary:
        pq.write_table(labels, temporary)
    return KeyedLabels(len(studies), table.notes, *_counts(table))


def _require_same_key(out: Path, names: Pseudonymizer, key_file: Path) -> None:
    """Raise FmctError if `out` holds labels of another key, which belong to other volumes."""
    try:
        made_with = (pq.read_schema(out).metadata or {}).get(_KEY)
    except (OSError, pa.ArrowInvalid):
        return
    if made_with not in (None, names.fingerprint.encode()):
        raise FmctError(f"{out}: was made with another key than {key_file}; give that key, or a new file")


def _counts(
    table: LabelTable,
) -> tuple[dict[str, tuple[int, int, int]], dict[str, tuple[str, int]]]:
    counts: dict[str, tuple[int, int, int]] = {}
    others: dict[str, tuple[str, int]] = {}
    for number, name in enumerate(table.names):
        values = [row[number] for row in table.rows.values()]
        known = [value for value in values if value is not None]
        rule = table.rules.get(name, "binary")
        if rule in ("binary", "event"):
            counts[name] = (values.count(1), values.count(0), values.count(None))
        elif rule in ("multiclass", "ordinal"):
            classes = ", ".join(f"{known.count(value)} of class {int(value)}" for value in sorted(set(known)))
            others[name] = classes, len(known)
        else:
            others[name] = f"{min(known, default=0):g} to {max(known, default=0):g}", len(known)
    return counts, others
