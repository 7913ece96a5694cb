"""1,000 linear probes and their intervals, beside scikit-learn: `python tests/bench/bench_sweep.py`.

10,000 volumes of 768 features with a spectrum like a vision transformer's (variances over six orders of
magnitude, correlated channels), 10 labels × 5 folds × 20 strengths. scikit-learn fits the same problems one
by one; by default a sample of them, spread evenly over strengths, folds and labels, whose mean time stands
for the rest; `--all` fits all thousand. Both have as many threads as OMP_NUM_THREADS says. Then the
bootstrap over patients of 10 labels.
"""

import argparse
import sys
import time
import warnings

import numpy as np
import torch
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fmct_hpc.probe.heads import Scaling
from fmct_hpc.probe.logistic import fit_path
from fmct_hpc.probe.statistics.area import Ranking
from fmct_hpc.probe.statistics.bootstrap import bootstrap
from fmct_hpc.probe.statistics.scored import Scored

VOLUMES, WIDTH, LABELS, FOLDS = 10_000, 768, 10, 5
STRENGTHS = np.logspace(-5, 1, 20).tolist()


def cohort() -> tuple[np.ndarray, np.ndarray]:
    """Features (VOLUMES, WIDTH), and labels (VOLUMES, LABELS) of 5 to 50 % positives."""
    random = np.random.default_rng(0)
    causes = random.normal(size=(VOLUMES, WIDTH))
    turn = np.linalg.qr(random.normal(size=(WIDTH, WIDTH)))[0]
    features = (causes * np.logspace(0, -3, WIDTH)) @ turn + random.normal(0, 0.3, WIDTH)
    tell = causes[:, : WIDTH // 2] @ random.normal(0, 2 / np.sqrt(WIDTH), (WIDTH // 2, LABELS))
    labels = random.random(tell.shape) < expit(1.5 * tell - np.linspace(0, 3.5, LABELS))
    return features.astype(np.float32), labels


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", action="store_true", help="fit all 1,000 with scikit-learn too")
    parser.add_argument("--sample", type=int, default=50, help="fits of scikit-learn's otherwise")
    options = parser.parse_args()
    features, labels = cohort()
    folds = np.arange(VOLUMES) % FOLDS
    parts = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(FOLDS)]
    warm = torch.zeros(64, WIDTH).normal_()
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
    # Moved on by one each time, so that all labels and folds come.
    chosen = [cells[n * step + n % step] for n in range(len(cells) // step)]
    scaled = {}
    rows = []
    wall, cpu = time.perf_counter(), time.process_time()
    for strength, fold, label in chosen:
        train, test = parts[fold]
        if fold not in scaled:  # once for all, as anyone would
            x = features.astype(np.float64)
            scaled[fold] = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
        model = LogisticRegression(C=STRENGTHS[strength], max_iter=5000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(scaled[fold][train], labels[train, label])
        area = roc_auc_score(labels[test, label], model.decision_function(scaled[fold][test]))
        rows.append(area - ours[fold, strength, label])
        if sys.stderr.isatty():
            print(f"{len(rows)} of {len(chosen)}", file=sys.stderr)
    theirs = np.array([time.perf_counter() - wall, time.process_time() - cpu]) * len(cells) / len(chosen)

    print(f"{torch.get_num_threads()} thread(s); seconds for {len(cells)} results, wall and CPU")
    print(f"scikit-learn, one by one ({len(chosen)} fitted)  {theirs[0]:8.1f} {theirs[1]:8.1f}")
    print(f"all at once                          {own[0]:8.1f} {own[1]:8.1f}")
    print(f"ratio                                {theirs[0] / own[0]:8.1f} {theirs[1] / own[1]:8.1f}")
    print(f"AUC {ours.min():.3f} to {ours.max():.3f}; greatest difference {np.abs(rows).max():.1e}")

    patients, once = np.arange(VOLUMES), np.zeros(VOLUMES, dtype=np.int64)
    random = np.random.default_rng(1)
    rankings = [
        Ranking(Scored(labels[:, n] + random.normal(0, 1, VOLUMES), labels[:, n], patients, once))
        for n in range(LABELS)
    ]
    bootstrap(rankings, VOLUMES, 2, seed=0)  # compiles
    wall, cpu = time.perf_counter(), time.process_time()
    bootstrap(rankings, VOLUMES, 2000, seed=0)
    print(
        f"bootstrap, 2,000 resamples of {VOLUMES:,} patients × {LABELS} labels, AUC and AUPRC: "
        f"{time.perf_counter() - wall:.2f} s, CPU {time.process_time() - cpu:.2f} s"
    )


if __name__ == "__main__":
    main()
