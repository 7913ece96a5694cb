"""The grid of a sweep, divided into units that are computed, stored and resumed as a whole."""

import hashlib
import heapq
import json
from collections.abc import Sequence
from itertools import product
from typing import Any

from fmct_hpc.probe.budget import Budget
from fmct_hpc.probe.cohort import Cohort
from fmct_hpc.probe.config import Pool, Sample, SweepConfig
from fmct_hpc.probe.kinds import kind_class
from fmct_hpc.probe.methods.registry import METHODS, MethodName
from shards.label_kinds import LabelKinds
from shards.section import Section

VERSION = 1
"""Increase it with every change of the results for the same grid and data; all units are then recomputed."""
OVERHEAD_SECONDS = 2.0
"""For opening features, and the bootstrap."""


class Unit(Section):
    """Results with the same features and label budget; one row per task, seed and test set."""

    encoder: str
    method: MethodName
    layer: int | None
    """None for fine-tuning."""
    pool: Pool | None
    """None for methods that read tokens or volumes."""
    fraction: float | None
    shots: int | None
    """Exactly one of fraction and shots is None."""
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    sample: Sample = "volume"

    @property
    def budget(self) -> Budget:
        """The label budget of its classifiers."""
        return Budget(self.fraction, self.shots)

    def digest(self, config: SweepConfig, cohort: Cohort) -> str:
        """SHA-256 of everything on which its results depend, except the encoder's weights."""
        settings: dict[str, Any] = {
            "bootstrap": config.bootstrap,
            "confidence": config.confidence,
            "least_specificity": config.min_specificity,  # by the first names, which digests keep
            "least_sensitivity": config.min_sensitivity,
            self.method: getattr(config, self.method).recorded(),
        }
        kinds = {
            task: config.kinds[task] for task in self.tasks if config.kinds.get(task, "binary") != "binary"
        }
        if self.sample == "study" and self.pool is not None:
            settings["series_pool"] = config.series_pool
        if kinds:
            settings["kinds"] = LabelKinds(kinds=kinds).model_dump(mode="json")["kinds"]
            settings["figures"] = {task: kind_class(spec).figures for task, spec in kinds.items()}
        document = [VERSION, cohort.digest, self.recorded(), settings]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    def seconds(self, cohort: Cohort, config: SweepConfig) -> float:
        """Estimated cost in seconds."""
        volumes = len(cohort.keys)
        share = self.fraction or min(1.0, 2 * (self.shots or 0) / volumes)
        method = METHODS[self.method]
        problems = len(self.seeds) * len(self.tasks) * cohort.folds
        return OVERHEAD_SECONDS + problems * method.seconds * method.length(config, share * volumes)


def units(config: SweepConfig, tasks: Sequence[str]) -> list[Unit]:
    """All units of the grid, in order; expensive methods have one unit per seed and task."""
    budgets = [Budget(fraction, None) for fraction in config.fractions]
    budgets += [Budget(None, shots) for shots in config.shots]
    units_ = []
    for spec, sample, method in product(config.encoders, config.samples, config.methods):
        reads = METHODS[method].reads
        layers: tuple[int | None, ...] = (None,) if reads == "volumes" else config.layers
        pools: tuple[Pool | None, ...] = config.pools if reads == "vectors" else (None,)
        for layer, pool, budget in product(layers, pools, budgets):
            seeds = config.seeds if budget.shots is None else tuple(range(config.repeats))
            if budget.fraction == 1 and not METHODS[method].draws:
                seeds = seeds[:1]
            parts = (
                [((seed,), (task,)) for task in tasks for seed in seeds]
                if reads != "vectors"
                else [(seeds, tuple(tasks))]
            )
            for own_seeds, own_tasks in parts:
                units_.append(
                    Unit(
                        encoder=spec.name,
                        method=method,
                        layer=layer,
                        pool=pool,
                        fraction=budget.fraction,
                        shots=budget.shots,
                        seeds=own_seeds,
                        tasks=own_tasks,
                        sample=sample,
                    )
                )
    return units_


def balanced_tasks(costs: Sequence[float], task_cost: float) -> list[list[int]]:
    """Assign units to tasks with a cost of about `task_cost` each; returns the unit numbers of each task.

    In descending order of cost, each unit is assigned to the task with the lowest cost so far (Graham 1969).
    """
    count = min(len(costs), max(1, round(sum(costs) / task_cost)))
    tasks: list[list[int]] = [[] for _ in range(count)]
    loads = [(0.0, number) for number in range(count)]
    for unit in sorted(range(len(costs)), key=lambda unit: -costs[unit]):
        load, number = heapq.heappop(loads)
        tasks[number].append(unit)
        heapq.heappush(loads, (load + costs[unit], number))
    return [sorted(task) for task in tasks]
