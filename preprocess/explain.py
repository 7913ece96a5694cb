"""A table of selection's decision on every series of a catalog, with its numbers, without reading pixels.

Rows have the pseudonyms of preprocessing and no text of the source, so the table can be shared; `fmct trace`
finds the source. Identifiers and descriptions are added only on request.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from preprocess.build.study import expected_outcomes
from preprocess.config import PreprocessConfig
from preprocess.csv_file import write_csv
from preprocess.dicom.catalog import SERIES_KEY, Series, SeriesKey, commonest, read_groups, texts_of
from preprocess.privacy.deidentify import Pseudonymizer
from preprocess.reasons import Rejection
from preprocess.select.candidate import Candidate
from preprocess.select.contrast import any_contrast
from preprocess.select.divided import divided_of
from preprocess.select.kernels import common_sharpness
from preprocess.select.outcome import Outcome
from preprocess.select.rules import SelectConfig
from preprocess.select.series import Selected
from preprocess.select.study import select_study, studies
from preprocess.select.unmatched import unmatched_texts
from shards.atomic import atomic_path
from shards.errors import FmctError

VOLUME, JOINED = "volume", "joined"
"""Decisions besides the `Reason`s: a separate volume, or part of another series' volume."""

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("study_key", pa.string()),
        ("decision", pa.string()),
        ("role", pa.string()),
        ("detail", pa.string()),
        ("volume_key", pa.string()),
        ("instances", pa.int64()),
        ("kernel", pa.string()),
        ("kvp", pa.float64()),
        ("contrast", pa.bool_()),
        ("slices", pa.int64()),
        ("thickness_mm", pa.float64()),
        ("coverage_mm", pa.float64()),
        ("greatest_gap_mm", pa.float64()),
        ("tilt_deg", pa.float64()),
        ("obliquity_deg", pa.float64()),
    ]
)
"""Pseudonyms; `volume`, `joined` or the reason, with the volume's role and the numbers; the volume that the
series became, is part of, or was replaced by; and the inputs of the rules. Columns from `slices` on are null
if no instance passed its own rules."""
_TEXTS = ("study_description", "series_description", "protocol", "body_part")
IDENTIFIED = pa.schema(
    [*SCHEMA, *((name, pa.string()) for name in (*SERIES_KEY, *_TEXTS, "contrast_agent", "kernel_name"))]
)
"""`SCHEMA` with identifiers and texts as in the catalog."""


class Explained(NamedTuple):
    """Selection's decisions, and the texts that it did not recognise."""

    table: pa.Table
    """Table of `SCHEMA` or `IDENTIFIED`."""
    unread: Counter[tuple[str, str]]
    """Number of CT series by attribute and text, for source texts without a known term."""


def explain(
    catalog: Path,
    config: PreprocessConfig,
    identified: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Explained:
    """A table of `SCHEMA` (or `IDENTIFIED`) of all series of `catalog`, sorted by study key and series key.

    The catalog's own order, by Patient ID, may follow the order of admission. Pixels may still reject series
    that headers select: a volume here is one that preprocessing will try to build. Memory holds a few hundred
    studies at a time, and about 300 bytes per series. progress: called with (series done, all series).

    Raises FmctError if the catalog or the key file cannot be used.
    """
    groups = read_groups(catalog)
    names = Pseudonymizer(config.key_file)
    refused = divided_of(catalog)
    total = pq.read_metadata(catalog).num_rows
    schema = IDENTIFIED if identified else SCHEMA
    tables = [schema.empty_table()]
    unread: Counter[tuple[str, str]] = Counter()
    done = 0
    for whole in whole_studies(groups):
        rows = [
            row
            for study in whole
            for row in _explained(study, config.select, refused, names, identified, unread)
        ]
        done += len(rows)
        tables.append(pa.Table.from_pylist(rows, schema))
        if progress:
            progress(done, total)
    order = [("study_key", "ascending"), ("key", "ascending")]
    return Explained(pa.concat_tables(tables).sort_by(order), unread)


def whole_studies(groups: Iterator[list[Series]]) -> Iterator[list[list[Series]]]:
    """Complete studies after each row group: the last study of a group may continue in the next."""
    held: list[Series] = []
    for group in groups:
        complete = studies(held + group)
        held = complete.pop()
        yield complete
    yield [held] if held else []


def _explained(
    study: list[Series],
    config: SelectConfig,
    refused: Mapping[SeriesKey, Rejection],
    names: Pseudonymizer,
    identified: bool,
    unread: Counter[tuple[str, str]],
) -> Iterator[dict[str, Any]]:
    for outcome in expected_outcomes(select_study(study, config, refused), config.keep):
        series = outcome.series
        images = outcome.judged.instances
        unread.update(unmatched_texts(images, config.lexicon))
        volume = outcome.candidate or outcome.chosen
        row = {
            "key": _key(series, names),
            "study_key": names.study(series.study_uid),
            "decision": _decision(outcome),
            "role": outcome.candidate.role if outcome.candidate else None,
            "detail": outcome.rejection.detail if outcome.rejection else str(outcome.candidate),
            "volume_key": _key(volume.series, names) if volume else None,
            "instances": len(series.instances),
            "kernel": common_sharpness(images, config.lexicon),
            "kvp": series.kvp,
            "contrast": any_contrast(texts_of(images), config.lexicon),
            **_geometry(series, outcome.usable),
        }
        if identified:
            texts = outcome.judged.texts
            row |= {name: getattr(series, name) for name in SERIES_KEY}
            row |= {name: getattr(texts, name) for name in _TEXTS}
            row |= {"contrast_agent": texts.contrast, "kernel_name": commonest(i.kernel for i in images)}
        yield row


def _decision(outcome: Outcome) -> str:
    if outcome.rejection:
        return str(outcome.rejection.reason)
    first = outcome.candidate and outcome.candidate.keys[0] == outcome.series.key
    return VOLUME if first else JOINED


def _key(series: Series, names: Pseudonymizer) -> str:
    return names.series(series.patient_id, series.study_uid, series.series_uid)


def _geometry(series: Series, usable: Selected | None) -> dict[str, float | int]:
    """The inputs of the rules for whole stacks."""
    if not usable:
        return {}
    slices = usable.slices
    if len(usable.positions) < 2:
        return {"slices": 1, "obliquity_deg": slices.obliquity_deg}
    candidate = Candidate(series, usable)
    return {
        "slices": len(usable.positions),
        "thickness_mm": candidate.thickness_mm,
        "coverage_mm": round(candidate.coverage_mm, 1),
        "greatest_gap_mm": round(float(slices.gaps.max()), 3),
        "tilt_deg": round(slices.tilt_deg, 2),
        "obliquity_deg": round(slices.obliquity_deg, 2),
    }


def require_name(path: Path) -> None:
    """Raise FmctError unless `write` knows the suffix."""
    if path.suffix not in (".csv", ".parquet"):
        raise FmctError(f"{path}: not .csv or .parquet; give the table one of these suffixes")


def write(table: pa.Table, path: Path) -> None:
    """Write a table atomically to a .csv file, for a spreadsheet, or to a .parquet file.

    Only its owner can read it (mode 0600): excluded patients and the reasons are confidential.
    """
    require_name(path)
    with atomic_path(path, 0o600) as temporary:
        if path.suffix == ".csv":
            write_csv(table, temporary)
        else:
            pq.write_table(table, temporary)
