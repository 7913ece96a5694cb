"""`fmct retrieval`: comparison of a sweep's encoders by retrieval of volumes with the same label."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmct_hpc.probe.cohort import Cohort, tested_rows
from fmct_hpc.probe.config import Pool
from fmct_hpc.probe.source import Source
from fmct_hpc.probe.statistics.scored import IntArray
from fmct_hpc.probe.sweep.run import Sweep
from fmct_hpc.retrieval.config import RetrievalConfig
from fmct_hpc.retrieval.measure import KS, drawn, evaluate_queries
from fmct_hpc.retrieval.search import Search, search_for
from fmct_hpc.retrieval.stored_features import StoredFeatures
from shards import Dataset
from shards.atomic import atomic_path
from shards.errors import FmctError
from shards.info import sha256
from shards.lock import writing
from shards.output_paths import require_folder
from shards.subject import Origin, Subject, claim

TABLE = "retrieval.parquet"
FOUND = ("binary", "multiclass", "ordinal")
"""Kinds of label for which two volumes can have the same value."""
FIGURES = ("map", *(f"recall_{k}" for k in KS))
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("encoder", "task", "pool")),
        ("layer", pa.int32()),
        ("split", pa.string()),
        *((name, pa.int64()) for name in ("n", "positives", "asked", "patients")),
        *(
            (f"{figure}{end}", pa.float64())
            for figure in FIGURES
            for end in ("", "_low", "_high", "_by_chance")
        ),
        ("reason", pa.string()),
        ("search", pa.string()),
        ("candidates", pa.int64()),
        ("search_recall", pa.float64()),
    ]
)
"""`search` is exact, or an index of faiss (`fmct_hpc.retrieval.index.CODES`), of which `candidates` are
ranked for each query, and `search_recall` is the share of the 10 truly nearest volumes among its first 10.
Tables of earlier versions lack these three, and were exact."""


def retrieval(
    config: RetrievalConfig, out: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> pa.Table:
    """Evaluate the encoders, layers and pools of a sweep on each label; write `out`/retrieval.parquet.

    The volumes of a test set are queries and candidates, without pairs of the same patient; without a split
    all labelled volumes are. There is no training, so the sweep's methods, budgets and seeds are ignored.
    Missing features are extracted to the sweep's folder of features. Returns the table.

    Raises FmctError as a sweep does, and if `out` has the results of another dataset or labels.
    """
    require_folder(out)
    config = config.model_copy(update={"methods": ("neighbours",)})
    for task, kind in config.kinds.items():
        if task in (config.tasks or config.kinds) and kind not in FOUND:
            raise FmctError(
                f"kinds.{task}: retrieval only supports labels of the kinds {', '.join(FOUND)}; select other "
                "tasks"
            )
    sweep = Sweep(config, out)
    sweep.extract(progress=progress)
    cohort = sweep.cohort
    rows: list[dict[str, object]] = []
    for spec in config.encoders:
        source = Source(spec, config, cohort)
        for layer in config.layers:
            for pool in config.pools:
                rows += [
                    {"encoder": spec.name, "layer": layer, "pool": pool, "split": split, **row}
                    for split, volumes in _tests(cohort).items()
                    for row in _rows(source, layer, pool, volumes, config)
                ]
    table = pa.Table.from_pylist(rows, SCHEMA)
    about = {
        "dataset": Origin.of(config.data, Dataset.open(config.data).content_digest()),
        "labels": Origin.of(config.labels, sha256(config.labels)),
    }
    with writing(out, "fmct retrieval"):
        claim(out, Subject(command="retrieval", sources=about), [TABLE])
        with atomic_path(out / TABLE) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    return table


def _tests(cohort: Cohort) -> dict[str, IntArray]:
    """Rows of the cohort by test set; raises FmctError if there are none."""
    if cohort.splits is None:
        return {"id": np.arange(len(cohort.keys))}
    tests = tested_rows(cohort.splits)
    if not tests:
        raise FmctError("no labelled patient is in a test set")
    return tests


def _rows(
    source: Source, layer: int, pool: Pool, volumes: IntArray, config: RetrievalConfig
) -> list[dict[str, object]]:
    cohort = source.cohort
    stored = StoredFeatures.of(source.store, layer, pool, cohort.places_in(source.store))
    training = np.arange(len(stored)) if cohort.splits is None else np.flatnonzero(cohort.splits == "train")
    chosen = stored.standardised_over(training).chosen(volumes)
    search = search_for(chosen, len(volumes), None, config.search)
    patients = np.unique(cohort.patient_keys[volumes], return_inverse=True)[1].astype(np.int64)
    labels = cohort.values[volumes]
    rows = []
    classes = [number for number, task in enumerate(cohort.tasks) if task in cohort.specs]
    by_task = evaluate_queries(search, patients, labels, classes)
    for task, own, evaluated in zip(cohort.tasks, labels.T, by_task, strict=True):
        row: dict[str, object] = {
            "task": task,
            "n": int((~np.isnan(own)).sum()),
            "positives": None if task in cohort.specs else int((own == 1).sum()),
            "asked": len(evaluated.patients),
            "patients": len(np.unique(evaluated.patients)),
            **_described(search),
        }
        if not len(evaluated.patients):
            rows.append({**row, "reason": "no two patients with the label"})
            continue
        chances = evaluated.by_chance.mean(axis=0)
        for name, figure, chance in zip(FIGURES, drawn(evaluated, config.bootstrap), chances, strict=True):
            interval = figure.interval(config.confidence)
            row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            row[f"{name}_by_chance"] = float(chance)
        rows.append(row)
    return rows


def _described(search: Search) -> dict[str, object]:
    """The columns that describe a search."""
    if search.recall is None:
        return {"search": search.name}
    return {"search": search.name, "candidates": search.depth, "search_recall": search.recall}


def printed(table: pa.Table) -> str:
    """The table's figures as aligned text."""
    wide = max([4, *map(len, table["split"].to_pylist())])
    lines = [
        f"{'task':<20} {'encoder':<14} {'pool':<5} {'set':<{wide}} {'asked':>6}  mAP (chance)  recall at 10"
    ]
    for row in table.to_pylist():
        name = f"{row['task']:<20} {row['encoder']:<14} {row['pool']:<5} {row['split']:<{wide}} "
        name += f"{row['asked']:>6}"
        if row["reason"]:
            lines.append(f"{name}  {row['reason']}")
            continue
        precision, recall = (
            f"{row[key]:.3f} [{row[f'{key}_low']:.3f}, {row[f'{key}_high']:.3f}] "
            f"({row[f'{key}_by_chance']:.3f})"
            for key in ("map", "recall_10")
        )
        lines.append(f"{name}  {precision}  {recall}")
    for row in {row["search"]: row for row in table.to_pylist() if row["candidates"]}.values():
        lines.append(
            f"searched with an index ({row['search']}), {row['candidates']:,} candidates: mAP is over these; "
            f"recall of the 10 nearest {row['search_recall']:.3f}"
        )
    return "\n".join(lines)
