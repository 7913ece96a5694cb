"""Results of probes as a report tells them: seeds taken together, budgets and features in words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

POOLS = {"cls": "CLS", "mean": "mean of patches", "both": "CLS and mean"}
SAMPLES = {"best": "best series of a study", "study": "all series of a study"}


@dataclass(frozen=True)
class Told:
    """One encoder under one method on one task, seeds taken together."""

    encoder: str
    task: str
    method: str
    features: str
    labels: str
    tested: str
    seeds: int
    n_train: int
    n: int

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], **own: Any) -> Self:
        """Of the rows of all seeds, with what a subclass has of its own."""
        first = rows[0]
        return cls(
            encoder=first["encoder"],
            task=first["task"],
            method=first["method"],
            features=features(first),
            labels=labels(first),
            tested=split_in_words(first["split"]),
            seeds=len(rows),
            n_train=round(_mean(rows, "n_train")),
            n=round(_mean(rows, "n")),
            **own,
        )


@dataclass(frozen=True)
class Result(Told):
    """Of a binary label: the mean over seeds of values and of interval ends."""

    positives: int
    auc: tuple[float, float, float]
    spread: tuple[float, float] | None
    """Least and greatest AUC of the seeds; None of a single one."""
    auprc: float
    auprc_ends: tuple[float, float]
    """Of its interval; NaN where a seed has none."""
    balanced_accuracy: float
    """NaN where a seed has none."""
    threshold_reason: str | None
    """Why there is no threshold to take it at, by code (fmct_hpc.probe.reasons)."""
    ece: float
    brier: float
    reliability: tuple[list[float], list[float]]
    """Predicted and observed shares of positives, bin by bin, of the first seed."""

    @property
    def place(self) -> tuple[str, ...]:
        """All but the encoder and the number of labels."""
        return self.task, self.method, self.features, self.tested


def split_in_words(split: str) -> str:
    """What a test set of a sweep's tables is, in words."""
    kind, _, name = split.partition(":")
    said = {"id": "in distribution", "ood": "out of distribution"}.get(kind, kind)
    return f"{said}: {name}" if name else said


def features(row: Mapping[str, Any]) -> str:
    """Which features a row is about, and of what, where that is the same for both sides of a comparison."""
    layer = {None: "", -1: "last layer"}.get(row["layer"], f"layer {row['layer']}")
    found = [part for part in (POOLS.get(row["pool"], ""), layer) if part] or ["all weights"]
    sample = row.get("sample")
    if sample in SAMPLES and row.get("versus_sample") in (None, sample):
        found.append(SAMPLES[sample])
    return ", ".join(found)


def sides(row: Mapping[str, Any]) -> tuple[str, str]:
    """What a comparison compares: encoders, or samples of one encoder."""
    names = row["encoder"], row["versus"]
    samples = row.get("sample"), row.get("versus_sample")
    if samples[0] == samples[1]:
        return names
    first, second = (
        f"{name}, {SAMPLES.get(of or '', 'volumes')}" for name, of in zip(names, samples, strict=True)
    )
    return first, second


def labels(row: Mapping[str, Any]) -> str:
    """How many labels a row's classifiers learnt from."""
    return f"{row['shots']} of each class" if row["shots"] is not None else f"{100 * row['fraction']:g} %"


def together(rows: Iterable[Mapping[str, Any]]) -> list[Result]:
    """Rows of results.parquet that have figures, their seeds taken together, in the order of the table."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["reason"] is None and row.get("figures") is None:
            key = (row["encoder"], row["task"], row["method"], features(row), labels(row), row["split"])
            groups.setdefault(key, []).append(row)
    return [_result(found) for found in groups.values()]


@dataclass(frozen=True)
class KindResult(Told):
    """A figure of a label that is not binary: the mean over seeds of values and of interval ends."""

    kind: str
    figure: str
    """With where it is taken."""
    value: tuple[float, float, float]


def of_kinds(rows: Iterable[Mapping[str, Any]]) -> list[KindResult]:
    """Rows of results.parquet of labels that are not binary, a result a figure, in the table's order."""
    groups: dict[tuple[str, ...], list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for row in rows:
        for figure in row.get("figures") or ():
            key = (row["encoder"], row["task"], row["method"], features(row), labels(row), row["split"])
            groups.setdefault((*key, figure["name"]), []).append((row, figure))
    found = []
    for of_figure in groups.values():
        row, figure = of_figure[0]
        at = [own["at"] for _, own in of_figure if own["at"] is not None]
        found.append(
            KindResult.of(
                [own for own, _ in of_figure],
                kind=row["kind"],
                figure=figure["name"] + (f" (t = {np.mean(at):g})" if at else ""),
                value=_means(own for _, own in of_figure),
            )
        )
    return found


def _means(figures: Iterable[Mapping[str, Any]]) -> tuple[float, float, float]:
    told = [(figure["value"], figure["low"], figure["high"]) for figure in figures]
    value, low, high = np.mean(told, axis=0).tolist()
    return value, low, high


def _result(rows: list[Mapping[str, Any]]) -> Result:
    def mean(name: str) -> float:
        return _mean(rows, name)

    first, areas = rows[0], [row["auc"] for row in rows]
    return Result.of(
        rows,
        positives=round(mean("positives")),
        auc=(mean("auc"), mean("auc_low"), mean("auc_high")),
        spread=(min(areas), max(areas)) if len(rows) > 1 else None,
        auprc=mean("auprc"),
        auprc_ends=(mean("auprc_low"), mean("auprc_high")),
        balanced_accuracy=mean("balanced_accuracy"),
        threshold_reason=next((why for row in rows if (why := row.get("threshold_reason"))), None),
        ece=mean("ece"),
        brier=mean("brier"),
        reliability=(first["reliability_predicted"], first["reliability_observed"]),
    )


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """NaN where a row has none."""
    return float(np.mean([np.nan if row[name] is None else row[name] for row in rows]))


def with_most_labels(results: Iterable[Result]) -> list[Result]:
    """Of each encoder and place the result that learnt from most volumes."""
    most: dict[tuple[str, ...], Result] = {}
    for result in results:
        key = (result.encoder, *result.place)
        if key not in most or result.n_train > most[key].n_train:
            most[key] = result
    return list(most.values())
