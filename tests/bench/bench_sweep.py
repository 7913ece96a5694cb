"""1,000 linear probes and their intervals, compared with scikit-learn: `python tests/bench/bench_sweep.py`.

10,000 volumes of 768 features with a spectrum like a vision transformer's (variances over six orders of
magnitude, correlated channels), 10 labels × 5 folds × 20 strengths. scikit-learn fits the same problems one
by one; by default only a sample, spread evenly over strengths, folds and labels, from whose mean the total
is extrapolated; `--all` fits all thousand. Both use OMP_NUM_THREADS threads. Then the bootstrap over patients
of 10 labels.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from markdown_table import heading, row
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tiny import parsed

from fmct_hpc.probe.heads import Scaling
from fmct_hpc.probe.logistic import fit_path
from fmct_hpc.probe.statistics.area import Ranking
from fmct_hpc.probe.statistics.bootstrap import bootstrap
from fmct_hpc.probe.statistics.scored import Scored

LABELS, FOLDS = 10, 5
STRENGTHS = np.logspace(-5, 1, 20).tolist()


def cohort(volumes: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (volumes, width), and labels (volumes, LABELS) of 5 to 50 % positives."""
    random = np.random.default_rng(0)
    causes = random.normal(size=(volumes, width))
    turn = np.linalg.qr(random.normal(size=(width, width)))[0]
    features = (causes * np.logspace(0, -3, width)) @ turn + random.normal(0, 0.3, width)
    tell = causes[:, : width // 2] @ random.normal(0, 2 / np.sqrt(width), (width // 2, LABELS))
    labels = random.random(tell.shape) < expit(1.5 * tell - np.linspace(0, 3.5, LABELS))
    return features.astype(np.float32), labels


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", action="store_true", help="fit all 1,000 with scikit-learn too")
    parser.add_argument("--sample", type=int, default=50, help="fits of scikit-learn's otherwise")
    parser.add_argument("--volumes", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--resamples", type=int, default=2000)
    options = parsed(parser, arguments, volumes=500, width=16, sample=10, resamples=20)
    volumes, width = options.volumes, options.width
    features, labels = cohort(volumes, width)
    folds = np.arange(volumes) % FOLDS
    parts = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(FOLDS)]
    warm = torch.zeros(64, width).normal_()
    fit_path(warm, (warm[:, :1] > 0).float(), torch.ones(64, 1), [1.0])

    wall, cpu = time.perf_counter(), time.process_time()
    ours = np.empty((FOLDS, len(STRENGTHS), LABELS))
    for fold, (train, test) in enumerate(parts):
        x = torch.from_numpy(Scaling.over(features, train)(features))
        y = torch.from_numpy(labels[train]).float()
        weights, _ = fit_path(x[train], y, torch.ones_like(y), STRENGTHS)
        scores = torch.einsum("nd,sdk->skn", x[test], weights).numpy()
        for strength, label in np.ndindex(len(STRENGTHS), LABELS):
            ours[fold, strength, label] = roc_auc_score(labels[test, label], scores[strength, label])
    own = time.perf_counter() - wall, time.process_time() - cpu

    cells = list(np.ndindex(len(STRENGTHS), FOLDS, LABELS))
    step = 1 if options.all else len(cells) // options.sample
    # Shifted by one each time, so that all labels and folds occur.
    chosen = [cells[n * step + n % step] for n in range(len(cells) // step)]
    scaled = {}
    differences = []
    wall, cpu = time.perf_counter(), time.process_time()
    for strength, fold, label in chosen:
        train, test = parts[fold]
        if fold not in scaled:  # once for all, as anyone would
            exact = features.astype(np.float64)
            scaled[fold] = (exact - exact[train].mean(axis=0)) / exact[train].std(axis=0)
        model = LogisticRegression(C=STRENGTHS[strength], max_iter=5000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(scaled[fold][train], labels[train, label])
        area = roc_auc_score(labels[test, label], model.decision_function(scaled[fold][test]))
        differences.append(area - ours[fold, strength, label])
        if sys.stderr.isatty():
            print(f"{len(differences)} of {len(chosen)}", file=sys.stderr)
    theirs = np.array([time.perf_counter() - wall, time.process_time() - cpu]) * len(cells) / len(chosen)

    print(f"{torch.get_num_threads()} thread(s), {len(cells)} results of {volumes:,} volumes")
    heading("work", "wall s", "CPU s", "ratio of CPU")
    row(f"scikit-learn, one by one ({len(chosen)} fitted)", f"{theirs[0]:.2f}", f"{theirs[1]:.2f}", 1)
    row("all at once", f"{own[0]:.2f}", f"{own[1]:.2f}", f"{theirs[1] / own[1]:.0f}")

    patients, once = np.arange(volumes), np.zeros(volumes, dtype=np.int64)
    random = np.random.default_rng(1)
    rankings = [
        Ranking(Scored(labels[:, n] + random.normal(0, 1, volumes), labels[:, n], patients, once))
        for n in range(LABELS)
    ]
    bootstrap(rankings, volumes, 2, seed=0)  # compiles
    wall, cpu = time.perf_counter(), time.process_time()
    bootstrap(rankings, volumes, options.resamples, seed=0)
    passed = time.perf_counter() - wall, time.process_time() - cpu
    row(f"bootstrap of {LABELS} labels, {options.resamples:,} resamples", *(f"{s:.2f}" for s in passed), "")
    print(f"\nAUC {ours.min():.3f} to {ours.max():.3f}; greatest difference {np.abs(differences).max():.1e}")


if __name__ == "__main__":
    main()
