"""Seconds of the bootstrap of each kind of label, with its reliability curves, on one core.

python tests/bench/bench_label_kinds.py
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
from markdown_table import heading, row
from tiny import parsed

from fmct_hpc.probe.kinds.base import Kind
from fmct_hpc.probe.kinds.multiclass import Multiclass
from fmct_hpc.probe.kinds.ordinal import Ordinal
from fmct_hpc.probe.kinds.regression import Regression
from fmct_hpc.probe.kinds.survival import Survival
from fmct_hpc.probe.statistics.predictions import ScoredPredictions, resampled


def case(kind: Kind, count: int, rng: np.random.Generator) -> tuple[ScoredPredictions, np.ndarray]:
    truth = rng.normal(size=count)
    predicted = truth + rng.normal(size=count)
    patients = np.arange(count)
    targets: np.ndarray
    if kind.classes:
        targets = np.digitize(truth, [-1, 0, 1, 2])
        raw = -((predicted[:, None] - np.arange(5) + 2) ** 2)
        predictions = Multiclass(kind.classes).predictions(raw)
    elif kind.name == "regression":
        targets, predictions = truth, predicted[:, None]
    else:
        times, left = rng.exponential(np.exp(-truth)), rng.exponential(1.5, count)
        targets = np.stack([np.minimum(times, left), times <= left], axis=1)
        predictions = predicted[:, None]
    half = slice(None, None, 2)
    folds, validation = np.zeros(count, np.int64), [(predictions[half], targets[half])]
    return ScoredPredictions(predictions, targets, patients, folds, validation), targets


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=10_000)
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--resamples", type=int, default=2_000)
    options = parsed(parser, arguments, patients=60, labels=1, resamples=5)
    heading("kind of label", "figures", "CPU s")
    rng = np.random.default_rng(0)
    for kind in (Multiclass(tuple(range(5))), Ordinal(tuple(range(5))), Regression(), Survival()):
        warm, targets = case(kind, 50, rng)
        resampled([kind.measure(warm, targets)], 50, 2, seed=0)  # compiles
        began = time.process_time()
        cases = [case(kind, options.patients, rng) for _ in range(options.labels)]
        measures = [kind.measure(judged, targets) for judged, targets in cases]
        measures += [c.observed for judged, targets in cases for c in kind.curves(judged, targets)]
        resampled(measures, options.patients, options.resamples, seed=0)
        row(kind.name, ", ".join(kind.figures), f"{time.process_time() - began:.2f}")


if __name__ == "__main__":
    main()
