"""Columns that the tables of probes and of benchmarks have in common."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from launch.report.document import Cell, cell
from launch.report.results import Averaged, features, labels, sides, split_in_words

_OF_RESULTS: dict[str, Callable[[Averaged], Cell]] = {
    "task": lambda one: cell(one.task),
    "encoder": lambda one: cell(one.encoder),
    "method": lambda one: cell(one.method),
    "features": lambda one: cell(one.features),
    "labels": lambda one: Cell(one.labels, one.n_train, number=True),
    "trained on": lambda one: cell(one.n_train),
    "tested on": lambda one: cell(one.tested),
    "volumes": lambda one: cell(one.n),
}
_OF_PAIRS: dict[str, Callable[[Mapping[str, Any]], Cell]] = {
    "task": lambda row: cell(row["task"]),
    "encoder": lambda row: cell(sides(row)[0]),
    "versus": lambda row: cell(sides(row)[1]),
    "method": lambda row: cell(row["method"]),
    "features": lambda row: cell(features(row)),
    "labels": lambda row: cell(labels(row)),
    "seed": lambda row: cell(row["seed"]),
    "tested on": lambda row: cell(split_in_words(row["split"])),
}


def of_results(results: Sequence[Averaged], without: Iterable[str] = ()) -> dict[str, list[Cell]]:
    """The columns that identify a result, by name; without: names of columns to omit."""
    return {name: [make(one) for one in results] for name, make in _OF_RESULTS.items() if name not in without}


def of_pairs(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Cell]]:
    """The columns that identify a comparison, by name."""
    return {name: [make(row) for row in rows] for name, make in _OF_PAIRS.items()}
