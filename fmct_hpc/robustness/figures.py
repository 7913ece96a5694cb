"""Rows of robustness.parquet: a metric at each severity, and its difference to the unchanged volumes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fmct_hpc.probe.cohort import Cohort
from fmct_hpc.probe.kinds import BINARY
from fmct_hpc.probe.statistics.area import Ranking
from fmct_hpc.probe.statistics.bootstrap import Draws
from fmct_hpc.probe.statistics.predictions import Measure, ScoredPredictions, resampled
from fmct_hpc.probe.statistics.scored import Scored
from fmct_hpc.robustness.changes import CHANGES
from fmct_hpc.robustness.classifiers import ClassifierGroup, EvaluatedClassifier
from fmct_hpc.robustness.config import RobustnessConfig
from fmct_hpc.robustness.score import Scores

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("encoder", "method", "pool")),
        ("layer", pa.int32()),
        *((name, pa.string()) for name in ("task", "split", "change")),
        ("severity", pa.float64()),
        *((name, pa.string()) for name in ("unit", "kind", "figure")),
        *((name, pa.int64()) for name in ("n", "positives", "patients")),
        *((name, pa.float64()) for name in ("value", "low", "high")),
        *((name, pa.float64()) for name in ("difference", "difference_low", "difference_high")),
        ("confidence", pa.float64()),
        ("reason", pa.string()),
    ]
)
Row = dict[str, Any]


def rows_of(
    group: ClassifierGroup,
    steps: Sequence[tuple[str, float]],
    kept: Sequence[Scores],
    config: RobustnessConfig,
    cohort: Cohort,
) -> Iterator[Row]:
    """One row per classifier, test set, change and severity; without a metric, one row with the reason.

    steps: changes and severities, the unchanged volumes first; kept: the scores for each.
    """
    yield from group.refused
    for number, classifier in enumerate(group.classifiers):
        for split in classifier.cell.folds[0].tests:
            tests = [_Test(classifier, split, predicted[number], cohort) for predicted in kept]
            yield from _of_test(tests, classifier, split, steps, config)


class _Test:
    """A classifier's test set with its scores for one change, in the order of a sweep."""

    def __init__(
        self, classifier: EvaluatedClassifier, split: str, predicted: NDArray[np.float64], cohort: Cohort
    ) -> None:
        rows, own, folds, start = [], [], [], 0
        for fold, parts in enumerate(classifier.cell.folds):
            for name, tested in parts.tests.items():
                if name == split:
                    rows.append(tested)
                    own.append(predicted[start : start + len(tested)])
                    folds.append(np.full(len(tested), fold))
                start += len(tested)
        self.rows, self.folds = np.concatenate(rows), np.concatenate(folds)
        self.predictions = np.concatenate(own)
        self.targets = classifier.cell.labels[self.rows]
        self.patients = np.unique(cohort.patient_keys[self.rows], return_inverse=True)[1].astype(np.int64)

    def measure(self, classifier: EvaluatedClassifier) -> Measure:
        """The first metric of the label's kind."""
        kind = classifier.cell.kind
        if kind != BINARY:
            return kind.measure(
                ScoredPredictions(self.predictions, self.targets, self.patients, self.folds), None
            )
        scored = Scored(self.predictions[:, 0], self.targets, self.patients, self.folds)
        ranking = Ranking(scored)
        return lambda counts: ranking.areas(counts)[0][:, None]


def _of_test(
    tests: Sequence[_Test],
    classifier: EvaluatedClassifier,
    split: str,
    steps: Sequence[tuple[str, float]],
    config: RobustnessConfig,
) -> Iterator[Row]:
    kind, first = classifier.cell.kind, tests[0]
    positives = int(first.targets.sum()) if kind == BINARY else None
    patients = int(first.patients.max()) + 1
    row: Row = {
        **classifier.row,
        **{"task": classifier.cell.task, "split": split, "kind": kind.name, "figure": kind.figures[0]},
        **{"n": len(first.rows), "positives": positives, "patients": patients},
        "confidence": config.confidence,
    }
    drawn: list[Draws] = [
        figures[0]
        for figures in resampled(
            [test.measure(classifier) for test in tests], patients, config.bootstrap, seed=0
        )
    ]
    if np.isnan(drawn[0].value):
        yield {**row, "reason": f"{kind.figures[0]} is not defined for the test volumes"}
        return
    by_step = dict(zip(steps, drawn, strict=True))
    for change in dict.fromkeys(change for change, severity in steps if severity):
        severities = [0.0, *(severity for name, severity in steps if name == change and severity)]
        for severity in severities:
            figure = by_step[change, severity] if severity else drawn[0]
            own = figure.interval(config.confidence)
            apart = (figure - drawn[0]).interval(config.confidence)
            yield {
                **row,
                **{"change": change, "severity": severity, "unit": CHANGES[change].unit},
                **{"value": own.value, "low": own.low, "high": own.high},
                **{"difference": apart.value, "difference_low": apart.low, "difference_high": apart.high},
            }


def printed(table: pa.Table) -> str:
    """The metric at each severity, one line per task, classifier, test set and change."""
    lines: dict[tuple[Any, ...], list[str]] = {}
    for row in table.to_pylist():
        label = f"{row['task']:<18} {row['encoder']:<12} {row['method']:<10} {row['pool'] or '':<5}"
        if row["reason"]:
            lines[label, row["split"]] = [f"{label} {row['reason']}"]
            continue
        place = (label, row["layer"], row["split"], row["change"])
        head = f"{label} {row['split']:<4} {CHANGES[row['change']].what}, {row['unit']}: {row['figure']}"
        text = f"{row['severity']:g} {row['value']:.3f}"
        if row["severity"]:
            text += (
                f" ({row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}])"
            )
        lines.setdefault(place, [head]).append(text)
    return "\n".join(", ".join(parts).replace(f"{parts[0]}, ", f"{parts[0]} ", 1) for parts in lines.values())
