"""The evaluated classifiers: those of a sweep, fitted on its features, or exported ones."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.classifier.predict import Classifier, load_classifier
from fmct_hpc.probe.budget import Budget
from fmct_hpc.probe.cohort import Cohort, read_cohort
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.encoders import Encoder, open_encoder
from fmct_hpc.probe.heads import Head
from fmct_hpc.probe.methods.registry import METHODS, reads
from fmct_hpc.probe.source import Source
from fmct_hpc.probe.sweep.cell import Cell, Row
from fmct_hpc.probe.sweep.grid import Unit, units
from fmct_hpc.probe.sweep.unit import cells, problem_of
from shards.errors import FmctError


@dataclass(frozen=True)
class EvaluatedClassifier:
    """The classifier of a cell, or one per fold."""

    row: Row
    """encoder, method, pool and layer, as in a sweep's tables."""
    cell: Cell
    layer: int
    """From 0, or from the end."""
    pools: tuple[str, ...]
    """Poolings concatenated as input of its heads; empty if they read patch tokens."""

    def tests(self, fold: int) -> NDArray[np.int64]:
        """Rows of the cohort on which the fold's classifier is tested, test sets concatenated."""
        return np.concatenate(list(self.cell.folds[fold].tests.values()))


@dataclass(frozen=True)
class ClassifierGroup:
    """Classifiers with the same encoder."""

    name: str
    """The encoder's name."""
    classifiers: tuple[EvaluatedClassifier, ...]
    refused: tuple[Row, ...]
    """Rows of cells without a classifier."""
    digest: str
    """Digest of everything on which the heads and the encoder depend."""
    open: Callable[[], Encoder]
    fit: Callable[[], list[list[Head]]]
    """One head per classifier and fold."""
    rounded: bool = False
    """Whether views are rounded to half precision, as in fine-tuning."""


def of_sweep(config: SweepConfig, cohort: Cohort) -> list[ClassifierGroup]:
    """The classifiers with the full label budget and the first seed; features must be extracted.

    Raises FmctError for fine-tuning, which requires exported classifiers, and for missing features.
    """
    if "volumes" in reads(config.methods):
        raise FmctError(
            "methods: fine-tuned classifiers must be exported; remove finetune, and use --classifier FOLDER "
            "of `fmct export-classifier`"
        )
    whole = config.model_copy(update={"fractions": (1.0,), "shots": (), "seeds": config.seeds[:1]})
    return [_of_encoder(Source(spec, whole, cohort), units(whole, cohort.tasks)) for spec in config.encoders]


def _of_encoder(source: Source, grid: Sequence[Unit]) -> ClassifierGroup:
    cohort, spec = source.cohort, source.spec
    own = [unit for unit in grid if unit.encoder == spec.name]
    digest = hashlib.sha256(source.store.info.source_digest.encode())
    classifiers, refused, fitting = [], [], []
    for unit in own:
        digest.update(unit.digest(source.config, cohort).encode())
        chosen, rows = cells(unit, cohort)
        shared: Row = {"encoder": spec.name, "method": unit.method, "pool": unit.pool, "layer": unit.layer}
        refused += [{**shared, "task": row["task"], "reason": row["reason"]} for row in rows]
        pools: tuple[str, ...] = () if METHODS[unit.method].reads == "tokens" else source.store.info.poolings
        pools = (unit.pool,) if unit.pool not in ("both", None) else pools
        assert unit.layer is not None
        classifiers += [EvaluatedClassifier(shared, cell, unit.layer, pools) for cell in chosen]
        fitting.append((unit, chosen))

    def fit() -> list[list[Head]]:
        found: list[list[Head]] = []
        for unit, chosen in fitting:
            problems = [problem_of(cell, parts, cohort) for cell in chosen for parts in cell.folds]
            fitted = source.fit(unit.method, unit.layer, unit.pool, problems) if problems else []
            heads = iter([one.head for one in fitted])
            found += [[next(heads) for _ in cell.folds] for cell in chosen]
        return found

    def opened() -> Encoder:
        return open_encoder(spec)

    return ClassifierGroup(spec.name, tuple(classifiers), tuple(refused), digest.hexdigest(), opened, fit)


def of_exported(folders: Sequence[Path], config: SweepConfig, cohort: Cohort) -> list[ClassifierGroup]:
    """Exported classifiers, evaluated on the tested volumes of the sweep from which they were exported.

    Raises FmctError for a classifier of another dataset, labels or split, whose training patients may be
    among the tested ones, of an encoder that is not in the sweep, or not with these weights (fine-tuned ones
    have their own), and for two of the same encoder, method and task.
    """
    groups, there = [], set()
    for folder in folders:
        group = _of_folder(folder, load_classifier(folder), config, cohort)
        for classifier in group.classifiers:
            place = (*classifier.row.values(), classifier.cell.task)
            if place in there:
                raise FmctError(
                    f"{folder}: its encoder, method and task {classifier.cell.task} are given already"
                )
            there.add(place)
        groups.append(group)
    return groups


def _of_folder(folder: Path, kept: Classifier, config: SweepConfig, cohort: Cohort) -> ClassifierGroup:
    record = kept.record
    tasks = tuple(task.task for task in record.tasks)
    on_volumes = METHODS[record.method].reads == "volumes"
    spec = next((spec for spec in config.encoders if spec.name == record.encoder), None)
    if spec is None:
        raise FmctError(f"{folder}: a classifier of encoder {record.encoder}, which is not in the sweep")
    if not on_volumes and open_encoder(spec).digest != record.encoder_digest:
        raise FmctError(
            f"{folder}: a classifier of another encoder {record.encoder} than the sweep's; export it again, "
            "or name the weights it was fitted on"
        )
    narrow = read_cohort(
        config.data, config.labels, tasks, config.split, config.folds, config.parts, config.kinds
    )
    if record.cohort_digest not in (cohort.digest, narrow.digest):
        raise FmctError(
            f"{folder}: fitted on another dataset, labels or split than the sweep's, so that its training "
            "patients may be among the tested ones; use the sweep from which it was exported"
        )
    pool = None if on_volumes or not record.pools else "both" if len(record.pools) > 1 else record.pools[0]
    shared: Row = {
        "encoder": record.encoder,
        "method": record.method,
        "pool": pool,
        "layer": None if on_volumes else record.layer,
    }
    budget, classifiers = Budget(record.fraction, record.shots), []
    for task in tasks:
        folds = narrow.parts(task, budget, record.seed)
        if not folds[0].tests:
            raise FmctError(f"{folder}: no patient with label {task} is in a test set")
        cell = Cell(task, record.seed, folds, narrow.targets(task), narrow.kind(task))
        classifiers.append(EvaluatedClassifier(shared, cell, record.layer, record.pools))
    digest = hashlib.sha256(f"{record.text()} {narrow.digest}".encode()).hexdigest()
    heads = [[head] for head in kept.heads]
    return ClassifierGroup(
        record.encoder, tuple(classifiers), (), digest, lambda: kept.encoder, lambda: heads, on_volumes
    )
