"""`fmct subgroups`: metrics of a probe or sweep by scanner, kernel, slices, and groups of the site."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fmct_hpc.probe.labels import STUDY_COLUMN
from fmct_hpc.probe.statistics.area import Ranking
from fmct_hpc.probe.statistics.bootstrap import bootstrap
from fmct_hpc.probe.statistics.scored import Scored
from fmct_hpc.probe.sweep.tables import PREDICTIONS, read
from shards import Dataset
from shards.atomic import atomic_path
from shards.errors import FmctError, raise_refusal
from shards.patients import tied_patients
from shards.table_file import read_table

TABLE = "subgroups.parquet"
OF_RESULT = ("encoder", "method", "pool", "layer", "task", "split", "sample")
SCHEMA = pa.schema(
    [
        *((name, pa.int32() if name == "layer" else pa.string()) for name in (*OF_RESULT, "by", "group")),
        *((name, pa.int64()) for name in ("n", "positives", "patients")),
        *((name, pa.float64()) for name in ("auc", "auc_low", "auc_high")),
        *((name, pa.float64()) for name in ("auprc", "auprc_low", "auprc_high", "brier", "predicted")),
        *((name, pa.float64()) for name in ("auc_others", "gap", "gap_low", "gap_high")),
        ("reason", pa.string()),
    ]
)
BANDS: Mapping[str, tuple[float, ...]] = {
    "slice_thickness_mm": (1.5, 3.5),  # thin (bone and vessels); intermediate; thick
    "slices": (64, 200),  # sequential, thick; helical, thick; thin
    "kvp": (110, 130),  # 80 and 100; 120; 140
}
"""Bounds of groups of a numeric attribute; a value equal to a bound is in the upper group."""
NAMED = ("manufacturer", "kernel_class")
MAX_GROUPS = 50
"""For one column of the site's table; more distinct values are keys or free text, and not groups."""


def subgroups(
    results: Path,
    data: Path,
    groups: Path | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> pa.Table:
    """Compute the metrics of each group of volumes; write `results`/subgroups.parquet and return it.

    results: the output folder of `fmct probe` or `fmct sweep`; the predictions with the full label budget and
    the first seed are used. data: the dataset of the predictions. groups: a Parquet file with study_key and
    text columns that the site permits to store; each column defines one grouping.

    One row per result, attribute and group: area and average precision with bootstrap intervals over
    patients, Brier score, mean prediction, and the difference of its area to that of all other volumes, over
    the same resamples. A group with a single class has only the counts and a reason.

    Raises FmctError if there are no predictions or they are of another dataset, and for a table of groups
    without study_key, without any of the studies, or with more than `MAX_GROUPS` groups in a column.
    """
    predictions = _predictions(results)
    index = Dataset.open(data).index
    place = {key: row for row, key in enumerate(index["key"].to_pylist())}
    try:
        rows = np.array([place[key] for key in predictions["key"].to_pylist()])
    except KeyError as error:
        raise FmctError(f"{results}: volume {error.args[0]} of its predictions is not in {data}") from None
    by = _facts(index) | (_of_site(groups, index["study_key"].to_pylist()) if groups else {})
    patients = np.unique(tied_patients(index), return_inverse=True)[1][rows]
    found = []
    for result, chosen in _results(predictions):
        scored = Scored(
            predictions["score"].to_numpy()[chosen],
            predictions["label"].to_numpy(zero_copy_only=False)[chosen],
            np.unique(patients[chosen], return_inverse=True)[1].astype(np.int64),
            predictions["fold"].to_numpy()[chosen].astype(np.int64),
        )
        for fact, names in by.items():
            for row in _rows(scored, names[rows[chosen]], resamples, confidence):
                found.append({**result, "by": fact, **row})
    table = pa.Table.from_pylist(found, SCHEMA)
    with atomic_path(results / TABLE) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return table


def _predictions(results: Path) -> pa.Table:
    """The predictions with the full label budget and the first seed."""
    try:
        table = read(results / "predictions.parquet", PREDICTIONS)
    except (OSError, pa.ArrowInvalid) as error:
        raise_refusal(error, results)
        raise FmctError(f"{results}: no predictions; run `fmct probe` or `fmct sweep`") from None
    table = table.filter(
        pc.and_(pc.equal(table["fraction"], 1.0), pc.equal(table["seed"], pc.min(table["seed"])))
    )
    if not table.num_rows:
        raise FmctError(f"{results}: no predictions with all labels; sweep with fractions=[1.0]")
    table = table.filter(pc.is_valid(table["label"]))  # null for labels that are not binary
    if not table.num_rows:
        raise FmctError(f"{results}: no predictions of binary labels; subgroups supports no others")
    return table


def _results(predictions: pa.Table) -> Iterator[tuple[dict[str, Any], NDArray[np.int64]]]:
    """Yield each result with its rows."""
    keys = list(zip(*(predictions[name].to_pylist() for name in OF_RESULT), strict=True))
    places: dict[tuple[Any, ...], list[int]] = {}
    for row, key in enumerate(keys):
        places.setdefault(key, []).append(row)
    for key, rows in places.items():
        yield dict(zip(OF_RESULT, key, strict=True)), np.array(rows)


def _facts(index: pa.Table) -> dict[str, NDArray[np.str_]]:
    """The group of each volume for each acquisition attribute."""
    facts = {name: np.asarray(index[name].to_pylist(), np.str_) for name in NAMED}
    for name, bounds in BANDS.items():
        values = index[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
        ends = [f"{bound:g}" for bound in bounds]
        names = [f"below {ends[0]}", f"{ends[0]} to {ends[1]}", f"{ends[1]} and more"]
        facts[name] = np.where(np.isnan(values), "unknown", np.array(names)[np.digitize(values, bounds)])
    return facts


def _of_site(path: Path, studies: Sequence[str]) -> dict[str, NDArray[np.str_]]:
    """The group of each volume for each column of the site; "unknown" where missing."""
    try:
        table = read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise_refusal(error, path)
        raise FmctError(f"{path}: not a readable Parquet table of groups") from None
    columns = [name for name in table.column_names if name != STUDY_COLUMN]
    if STUDY_COLUMN not in table.column_names or not columns:
        raise FmctError(f"{path}: expected {STUDY_COLUMN} and columns of groups")
    place = {key: row for row, key in enumerate(table[STUDY_COLUMN].to_pylist())}
    if not place.keys() & set(studies):
        raise FmctError(f"{path}: none of its studies is in the dataset; both need the same key file")
    groups = {}
    for name in columns:
        if not pa.types.is_string(table[name].type):
            raise FmctError(f"{path}: column {name} is not text; use groups such as 40-59 for ages")
        column = table[name].to_pylist()
        if len(set(column)) > MAX_GROUPS:
            raise FmctError(f"{path}: column {name} has {len(set(column))} groups, {MAX_GROUPS} at most")
        values = [column[place[study]] if study in place else None for study in studies]
        groups[name] = np.array([value or "unknown" for value in values], np.str_)
    return groups


def _rows(
    scored: Scored, names: NDArray[np.str_], resamples: int, confidence: float
) -> Iterator[dict[str, Any]]:
    count = int(scored.patients.max()) + 1
    for group in np.unique(names).tolist():
        inside = names == group
        own, others = _part(scored, inside), _part(scored, ~inside)
        row: dict[str, Any] = {
            "group": group,
            "n": len(own.labels),
            "positives": int(own.labels.sum()),
            "patients": len(np.unique(own.patients)),
            "brier": float(np.mean((own.scores - own.labels) ** 2)),
            "predicted": float(own.scores.mean()),
        }
        if not own.both_classes:
            yield {**row, "reason": "volumes of one class only"}
            continue
        compared = [own, others] if others.both_classes else [own]
        roc, precision = bootstrap([Ranking(part) for part in compared], count, resamples, seed=0)
        area, average = roc[0].interval(confidence), precision[0].interval(confidence)
        row |= {"auc": area.value, "auc_low": area.low, "auc_high": area.high}
        row |= {"auprc": average.value, "auprc_low": average.low, "auprc_high": average.high}
        if len(roc) > 1:
            gap = (roc[0] - roc[1]).interval(confidence)
            row |= {"auc_others": roc[1].value, "gap": gap.value, "gap_low": gap.low, "gap_high": gap.high}
        yield row


def _part(scored: Scored, rows: NDArray[np.bool_]) -> Scored:
    """A subset of the volumes; patients keep their numbers, so that all parts share their resamples."""
    return Scored(scored.scores[rows], scored.labels[rows], scored.patients[rows], scored.folds[rows])


def printed(table: pa.Table) -> str:
    """The groups whose interval of the gap excludes 0, sorted by decreasing gap."""
    rows = [row for row in table.to_pylist() if row["gap"] is not None]
    apart = [row for row in rows if row["gap_low"] > 0 or row["gap_high"] < 0]
    lines = [
        f"{len(rows)} groups compared with all other volumes; for {len(apart)} the interval excludes 0, for "
        "some of them by chance (no correction for multiple tests)"
    ]
    for row in sorted(apart, key=lambda row: -abs(row["gap"])):
        lines.append(
            f"{row['task']:<18} {row['encoder']:<12} {row['method']:<10} {row['sample']:<6} "
            f"{row['by']} {row['group']}: "
            f"AUC {row['auc']:.3f} of {row['n']}, others {row['auc_others']:.3f}, "
            f"gap {row['gap']:+.3f} [{row['gap_low']:+.3f}, {row['gap_high']:+.3f}]"
        )
    return "\n".join(lines)
