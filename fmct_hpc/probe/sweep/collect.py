"""Collecting the units of a sweep, and pairwise comparison of its encoders."""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from fmct_hpc.probe.cohort import Cohort
from fmct_hpc.probe.config import Sample, SweepConfig
from fmct_hpc.probe.kinds import BINARY, Kind
from fmct_hpc.probe.leakage import Leakage
from fmct_hpc.probe.samples import StudyCohort
from fmct_hpc.probe.statistics.paired import compare, holm
from fmct_hpc.probe.statistics.predictions import ScoredPredictions, paired, resampled
from fmct_hpc.probe.statistics.scored import Scored
from fmct_hpc.probe.sweep.ledger import Plan, UnitFiles
from fmct_hpc.probe.sweep.tables import COMPARISONS, PREDICTIONS, RESULTS, read
from shards.atomic import atomic_path, write_text
from shards.closed import Closed

log = logging.getLogger(__name__)

_SAME = ("method", "pool", "layer", "fraction", "shots")
"""Attributes that the units of a comparison have in common, in addition to tasks and seeds."""
_FAMILY = (*_SAME, "seed", "split", "sample", "versus_sample")


class Summary(Closed):
    """Summary of a sweep's tables: summary.json."""

    units: int
    done: int
    """Units in the tables; fewer than `units` until the sweep is complete."""
    results: int
    refused: int
    """Results without metrics; their row gives the reason."""
    reasons: dict[str, int] = Field(default_factory=dict)
    """Number of these by reason code."""
    comparisons: int
    cohort_digest: str
    confidence: float
    leakage: tuple[Leakage, ...]
    torn_studies: int = 0
    """Studies left out because their volumes have several Patient IDs."""

    def __str__(self) -> str:
        partial = "" if self.done == self.units else f" ({self.done} of {self.units} units done so far)"
        refused = f", {self.refused} of them without figures" if self.refused else ""
        torn = f"; {self.torn_studies} studies of several Patient IDs left out" if self.torn_studies else ""
        return f"{self.results} results{refused}, {self.comparisons} comparisons{partial}{torn}"


def collect_tables(
    out: Path,
    plan: Plan,
    done: list[int],
    config: SweepConfig,
    cohorts: Mapping[Sample, Cohort],
    cohort: Cohort,
) -> Summary:
    """Write the tables of the units numbered `done`, in the grid's order, and the summary last.

    cohorts: by sample; cohort: the cohort of volumes.
    """
    files = {number: UnitFiles(out, plan.digests[number]) for number in done}
    results = [read(files[number].table("results"), RESULTS) for number in done]
    joined = pa.concat_tables(results) if results else RESULTS.empty_table()
    _write(joined, out / "results.parquet")
    with (
        atomic_path(out / "predictions.parquet") as temporary,
        pq.ParquetWriter(temporary, PREDICTIONS, compression="zstd") as writer,
    ):
        for number in done:
            writer.write_table(read(files[number].table("predictions"), PREDICTIONS))
    compared = _comparisons(plan, files, config, cohort)
    _write(pa.Table.from_pylist(compared, COMPARISONS), out / "comparisons.parquet")
    summary = Summary(
        units=len(plan.units),
        done=len(done),
        results=joined.num_rows,
        refused=joined.num_rows - joined["reason"].null_count,
        reasons=dict(Counter(code for code in joined["reason_code"].to_pylist() if code)),
        comparisons=len(compared),
        cohort_digest=cohort.digest,
        confidence=config.confidence,
        leakage=plan.leakage,
        torn_studies=max(one.torn if isinstance(one, StudyCohort) else 0 for one in cohorts.values()),
    )
    write_text(out / "summary.json", summary.model_dump_json(indent=1) + "\n")
    return summary


def _write(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _comparisons(
    plan: Plan, files: dict[int, UnitFiles], config: SweepConfig, cohort: Cohort
) -> list[dict[str, object]]:
    """One row per pair, task, seed and test set with the same method and budget.

    Pairs are two encoders with the same sample, or `best` and `study` of one encoder, which score the same
    studies. Holm's family consists of the tasks and pairs with the same method, pool, layer, budget, seed,
    test set and samples.
    """
    patients = dict(zip(cohort.keys.tolist(), cohort.patient_keys.tolist(), strict=True))
    groups: dict[str, list[int]] = defaultdict(list)
    for number in files:
        unit = plan.units[number]
        groups[unit.model_dump_json(exclude={"encoder"})].append(number)
        if unit.sample != "volume":
            groups[unit.model_dump_json(exclude={"sample"})].append(number)
    rows: list[dict[str, object]] = []
    for numbers in groups.values():
        if len(numbers) < 2:
            continue
        unit = plan.units[numbers[0]]
        shared = unit.model_dump(include=set(_SAME))
        tests = [(plan.units[number], _read(files[number], patients, cohort)) for number in numbers]
        for (first, ours), (second, theirs) in combinations(tests, 2):
            for test in ours.keys() & theirs.keys():
                task, seed, split = json.loads(test)
                comparison = _compared(ours[test], theirs[test], cohort.kind(task), config)
                if comparison is not None:
                    of_pair = {
                        **{"encoder": first.encoder, "versus": second.encoder},
                        **{"sample": first.sample, "versus_sample": second.sample},
                        **{"task": task, "seed": seed, "split": split},
                    }
                    rows.append({**shared, **of_pair, **comparison})
    families: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        families[json.dumps([row[name] for name in _FAMILY])].append(place)
    for places in families.values():
        adjusted = holm([float(str(rows[place]["p"])) for place in places])
        for place, p in zip(places, adjusted, strict=True):
            rows[place]["p_holm"] = float(p)
    order = ("method", "task", "sample", "versus_sample", "encoder", "versus", "seed", "split")
    return sorted(rows, key=lambda row: [str(row[name]) for name in order])


def _compared(
    ours: Scored | ScoredPredictions, theirs: Scored | ScoredPredictions, kind: Kind, config: SweepConfig
) -> dict[str, object] | None:
    """The columns of a comparison; None if the metric is not defined for the volumes.

    Areas of binary labels are compared by DeLong's test, the first metric of other kinds by a paired
    bootstrap over patients.
    """
    if isinstance(ours, Scored):
        assert isinstance(theirs, Scored)
        if not ours.both_classes:
            return None
        area = compare(ours, theirs, config.confidence)
        counted = {"n": len(ours.labels), "positives": int(ours.labels.sum())}
        areas = {"auc": area.area, "auc_versus": area.other, "value": area.area, "value_versus": area.other}
        of_test = {"difference": area.difference, "difference_low": area.low, "difference_high": area.high}
        test = {"p": area.p, "kind": kind.name, "figure": kind.figures[0], "test": "delong"}
        return {**counted, **areas, **of_test, **test}
    assert isinstance(theirs, ScoredPredictions)
    patients = int(ours.patients.max()) + 1
    measures = [kind.measure(judged, None) for judged in (ours, theirs)]
    first, second = (drawn[0] for drawn in resampled(measures, patients, config.bootstrap, seed=0))
    if np.isnan(first.value):
        return None
    difference = paired(first, second, config.confidence)
    return {
        **{
            "n": len(ours.targets),
            "value": difference.value,
            "value_versus": difference.other,
            "p": difference.p,
        },
        **{
            "difference": difference.difference,
            "difference_low": difference.low,
            "difference_high": difference.high,
        },
        **{"kind": kind.name, "figure": kind.figures[0], "test": "bootstrap"},
    }


def _read(
    files: UnitFiles, patients: dict[str, str], cohort: Cohort
) -> dict[str, Scored | ScoredPredictions]:
    """A unit's test sets by task, seed and split, with volumes sorted by key."""
    table = read(files.table("predictions"), PREDICTIONS)
    keys, tasks, splits = (np.asarray(table[name].to_pylist(), np.str_) for name in ("key", "task", "split"))
    seeds, folds, labels, scores, values, events = (
        table[name].to_numpy() for name in ("seed", "fold", "label", "score", "value", "event")
    )
    numbered = np.unique(np.array([patients[key] for key in keys.tolist()]), return_inverse=True)[1]
    found: dict[str, Scored | ScoredPredictions] = {}
    for task, seed, split in sorted(set(zip(tasks.tolist(), seeds.tolist(), splits.tolist(), strict=True))):
        rows = np.flatnonzero((tasks == task) & (seeds == seed) & (splits == split))
        rows = rows[np.argsort(keys[rows])]
        kind = cohort.kind(task)
        groups = numbered[rows].astype(np.int64), folds[rows].astype(np.int64)
        name = json.dumps([task, seed, split])
        if kind == BINARY:
            found[name] = Scored(scores[rows], labels[rows].astype(bool), *groups)
            continue
        predictions = table["probabilities"].take(rows).to_pylist() if kind.classes else scores[rows, None]
        truth = kind.from_values(values[rows], events[rows] == True)  # noqa: E712 - null is none
        found[name] = ScoredPredictions(np.array(predictions, np.float64), truth, *groups)
    return found
