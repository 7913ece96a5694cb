"""Seconds of one core that the bootstrap of each kind of label takes.

python tests/bench/bench_label_kinds.py [patients] [labels] [resamples]
"""

import sys
import time

import numpy as np

from fmct_hpc.probe.kinds.base import Kind
from fmct_hpc.probe.kinds.multiclass import Multiclass
from fmct_hpc.probe.kinds.ordinal import Ordinal
from fmct_hpc.probe.kinds.regression import Regression
from fmct_hpc.probe.kinds.survival import Survival
from fmct_hpc.probe.statistics.judged import Judged, resampled


def case(kind: Kind, count: int, rng: np.random.Generator) -> tuple[Judged, np.ndarray]:
    truth = rng.normal(size=count)
    said = truth + rng.normal(size=count)
    patients = np.arange(count)
    if kind.classes:
        targets = np.digitize(truth, [-1, 0, 1, 2])
        raw = -((said[:, None] - np.arange(5) + 2) ** 2)
        predictions = Multiclass(kind.classes).predictions(raw)
    elif kind.name == "regression":
        targets, predictions = truth, said[:, None]
    else:
        times, left = rng.exponential(np.exp(-truth)), rng.exponential(1.5, count)
        targets = np.stack([np.minimum(times, left), times <= left], axis=1)
        predictions = said[:, None]
    return Judged(predictions, targets, patients, np.zeros(count, np.int64)), targets


def main(patients: int = 10_000, labels: int = 10, resamples: int = 2_000) -> None:
    rng = np.random.default_rng(0)
    for kind in (Multiclass(tuple(range(5))), Ordinal(tuple(range(5))), Regression(), Survival()):
        warm, targets = case(kind, 50, rng)
        resampled([kind.measure(warm, targets)], 50, 2, seed=0)  # compiles
        began = time.process_time()
        cases = [case(kind, patients, rng) for _ in range(labels)]
        measures = [kind.measure(judged, targets) for judged, targets in cases]
        resampled(measures, patients, resamples, seed=0)
        print(f"{kind.name}: {time.process_time() - began:.1f} s of one core ({', '.join(kind.figures)})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
