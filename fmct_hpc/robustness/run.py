"""`fmct robustness`: metrics of a sweep's or exported classifiers on degraded test volumes."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fmct_hpc.probe.cohort import Cohort
from fmct_hpc.probe.leakage import check_leakage
from fmct_hpc.probe.sweep.run import Sweep
from fmct_hpc.robustness.classifiers import ClassifierGroup, of_exported, of_sweep
from fmct_hpc.robustness.config import RobustnessConfig
from fmct_hpc.robustness.figures import SCHEMA, Row, rows_of
from fmct_hpc.robustness.score import (
    UNCHANGED,
    read_scores,
    scores_file,
    tested_volumes,
    write_scores,
)
from shards import Dataset
from shards.atomic import atomic_path
from shards.errors import FmctError
from shards.info import sha256
from shards.ledger import Ledger
from shards.listed import register_files
from shards.lock import writing
from shards.output_paths import require_folder
from shards.share import WHOLE, Share
from shards.subject import Origin, Subject, claim

TABLE = "robustness.parquet"


def robustness(
    config: RobustnessConfig,
    out: Path,
    classifiers: Sequence[Path] = (),
    share: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pa.Table | None:
    """Evaluate metrics over the severities of each change; write `out`/robustness.parquet and return it.

    The classifiers are those of the sweep with the full label budget and the first seed, or the exported ones
    in the folders `classifiers`; they are never fitted on changed volumes. One row per encoder, method, pool,
    layer, task, test set, change and severity: the first metric of the label's kind (`auc` for binary labels)
    with its bootstrap interval over patients, and its difference to the unchanged volumes over the same
    resamples; severity 0 is the unchanged volumes. Scores of an encoder for a change and severity are stored
    in `out`/units, and recomputed only if their inputs change. share: (i, n) computes only the i-th of n
    shares of these, for a job array, and returns None; the sweep's features must be extracted then.

    Raises FmctError as a sweep does, for fine-tuning without `classifiers`, for a classifier of another
    cohort or encoder, for slices no thicker than the grid's, and if `out` has the results of another dataset
    or labels.
    """
    require_folder(out)
    _require_thicker(config)
    if classifiers:
        config = config.model_copy(update={"methods": ("logistic",)})  # the cohort is checked for these
    sweep = Sweep(config, out)
    cohort, allowed = sweep.cohort, (config.allow_pretraining_patients, config.allow_unknown_pretraining)
    tested = cohort.tested()
    for spec in config.encoders:
        check_leakage(spec.name, tested, spec.pretraining_patients, *allowed)
    if not classifiers and share is None:
        sweep.extract(progress=progress)
    groups = of_exported(classifiers, config, cohort) if classifiers else of_sweep(config, cohort)
    about = {
        "dataset": Origin.of(config.data, Dataset.open(config.data).content_digest()),
        "labels": Origin.of(config.labels, sha256(config.labels)),
    }
    with writing(out, "fmct robustness", shared=share is not None):
        claim(out, Subject(command="robustness", sources=about), [TABLE])
        _score(groups, config, cohort, out, share, progress)
        if share is not None:
            return None
        rows = [row for group in groups for row in _rows(group, config, cohort, out)]
        table = pa.Table.from_pylist(rows, SCHEMA)
        with atomic_path(out / TABLE) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    return table


def extracted(
    config: RobustnessConfig,
    out: Path,
    classifiers: Sequence[Path] = (),
    task: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Extract the features required by shares, as `Sweep.extract`; exported classifiers require none."""
    if not classifiers:
        Sweep(config, out).extract(task, progress)


def _require_thicker(config: RobustnessConfig) -> None:
    """Raise FmctError if slices would be no thicker than those of the grid, which has no effect."""
    grid = Dataset.open(config.data).info.spacing_mm[0]
    if thin := [severity for severity in config.changes.thicker if severity <= grid]:
        raise FmctError(
            f"changes.thicker: slices of {thin[0]:g} mm are no thicker than those of {config.data}, {grid:g} "
            "mm; use thicker ones, or thicker: []"
        )


def _score(
    groups: Sequence[ClassifierGroup],
    config: RobustnessConfig,
    cohort: Cohort,
    out: Path,
    share: tuple[int, int] | None,
    progress: Callable[[int, int], None],
) -> None:
    """Compute missing scores, of all or of a share; one encoder is in memory at a time."""
    steps = [
        (group, *step, scores_file(out, group, *step, config.changes.seed))
        for group in groups
        if group.classifiers
        for step in _steps(config)
    ]
    whole = Ledger(steps, lambda step: step[-1].is_file())  # the file of the scores is the marker
    own_share = Share(*share) if share else WHOLE
    register_files(out, [step[-1] for step in steps], own_share)
    missing = whole.share(own_share).missing()
    total, done = sum(tested_volumes(group) for group, *_ in missing), 0

    def advance(volumes: int) -> None:
        nonlocal done
        done += volumes
        progress(done, total)

    for group in groups:
        own = [step for step in missing if step[0] is group]
        if not own:
            continue
        encoder, heads = group.open(), group.fit()
        for _, change, severity, path in own:
            write_scores(path, group, encoder, heads, change, severity, config, cohort, advance)


def _steps(config: RobustnessConfig) -> tuple[tuple[str, float], ...]:
    return (UNCHANGED, *config.changes.steps)


def _rows(group: ClassifierGroup, config: RobustnessConfig, cohort: Cohort, out: Path) -> Iterator[Row]:
    steps = _steps(config) if group.classifiers else ()
    files = [scores_file(out, group, *step, config.changes.seed) for step in steps]
    kept = [read_scores(file, group) for file in files]
    yield from rows_of(group, steps, kept, config, cohort)
