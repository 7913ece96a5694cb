"""Results of probes for a report: averaged over seeds, with budgets and features as text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np

POOLS = {"cls": "CLS", "mean": "mean of patches", "both": "CLS and mean"}
SAMPLES = {"best": "best series of a study", "study": "all series of a study"}


@dataclass(frozen=True)
class Averaged:
    """One encoder, method and task, averaged over seeds."""

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
        """From the rows of all seeds; `own` are the fields of a subclass."""
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
class Result(Averaged):
    """The result of a binary label: means over seeds of values and of interval limits."""

    positives: int
    auc: tuple[float, float, float]
    spread: tuple[float, float] | None
    """Lowest and highest AUC of the seeds; None with one seed."""
    auprc: float
    auprc_ends: tuple[float, float]
    """Limits of its interval; NaN if a seed has none."""
    balanced_accuracy: float
    """NaN if a seed has none."""
    threshold_reason: str | None
    """Why there is no threshold for it, as a code (fmct_hpc.probe.reasons)."""
    ece: float
    brier: float
    reliability: tuple[list[float], list[float]]
    """Predicted and observed shares of positives per bin, of the first seed."""

    @property
    def place(self) -> tuple[str, ...]:
        """What identifies a result apart from the encoder and the label budget."""
        return self.task, self.method, self.features, self.tested


def split_in_words(split: str) -> str:
    """The name of a test set in a sweep's tables, as text."""
    kind, _, name = split.partition(":")
    text = {"id": "in distribution", "ood": "out of distribution"}.get(kind, kind)
    return f"{text}: {name}" if name else text


def features(row: Mapping[str, Any]) -> str:
    """A row's features as text; with the sample if it is the same on both sides of a comparison."""
    layer = {None: "", -1: "last layer"}.get(row["layer"], f"layer {row['layer']}")
    parts = [part for part in (POOLS.get(row["pool"], ""), layer) if part] or ["all weights"]
    sample = row.get("sample")
    if sample in SAMPLES and row.get("versus_sample") in (None, sample):
        parts.append(SAMPLES[sample])
    return ", ".join(parts)


def sides(row: Mapping[str, Any]) -> tuple[str, str]:
    """The two sides of a comparison: encoders, or samples of one encoder."""
    names = row["encoder"], row["versus"]
    samples = row.get("sample"), row.get("versus_sample")
    if samples[0] == samples[1]:
        return names
    first, second = (
        f"{name}, {SAMPLES.get(of or '', 'volumes')}" for name, of in zip(names, samples, strict=True)
    )
    return first, second


def labels(row: Mapping[str, Any]) -> str:
    """A row's label budget as text."""
    return f"{row['shots']} of each class" if row["shots"] is not None else f"{100 * row['fraction']:g} %"


def averaged(rows: Iterable[Mapping[str, Any]]) -> list[Result]:
    """Rows of results.parquet that have figures, averaged over seeds, in the order of the table."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["reason"] is None and row.get("figures") is None:
            key = (row["encoder"], row["task"], row["method"], features(row), labels(row), row["split"])
            groups.setdefault(key, []).append(row)
    return [_result(of_seeds) for of_seeds in groups.values()]


@dataclass(frozen=True)
class KindResult(Averaged):
    """A figure of a non-binary label: means over seeds of values and of interval limits."""

    kind: str
    figure: str
    """Its key."""
    at: float | None
    """The time of evaluation, mean over seeds; None for a figure without one."""
    value: tuple[float, float, float]

    @property
    def place(self) -> tuple[str, ...]:
        """All but the encoder."""
        return self.task, self.method, self.features, self.labels, self.tested, self.figure


@dataclass(frozen=True)
class KindCurve(Averaged):
    """A reliability curve of a non-binary label, of the first seed; lists over bins."""

    kind: str
    name: str
    at: float | None
    """The time by which events are counted; None for other kinds."""
    predicted: list[float]
    observed: list[float]
    low: list[float]
    high: list[float]
    """Limits of the interval of `observed`."""

    @property
    def place(self) -> tuple[str, ...]:
        """All but the encoder and the label budget; the class or grade, where there are several curves."""
        own = "" if self.name in ("value", "event") else self.name
        return self.task, self.method, self.features, self.tested, own


Placed = TypeVar("Placed", bound=Result | KindResult | KindCurve)


def of_kinds(rows: Iterable[Mapping[str, Any]]) -> list[KindResult]:
    """Rows of results.parquet of non-binary labels, one result per figure, in the order of the table."""
    groups: dict[tuple[str, ...], list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for row in rows:
        for figure in row.get("figures") or ():
            key = (row["encoder"], row["task"], row["method"], features(row), labels(row), row["split"])
            groups.setdefault((*key, figure["name"]), []).append((row, figure))
    results = []
    for of_figure in groups.values():
        row, figure = of_figure[0]
        at = [own["at"] for _, own in of_figure if own["at"] is not None]
        results.append(
            KindResult.of(
                [own for own, _ in of_figure],
                kind=row["kind"],
                figure=figure["name"],
                at=float(np.mean(at)) if at else None,
                value=_means(own for _, own in of_figure),
            )
        )
    return results


def curves(rows: Iterable[Mapping[str, Any]]) -> list[KindCurve]:
    """The reliability curves in rows of results.parquet, in the order of the table."""
    curves_: dict[tuple[str, ...], KindCurve] = {}
    for row in rows:
        for curve in row.get("curves") or ():
            own = {name: curve[name] for name in ("name", "at", "predicted", "observed", "low", "high")}
            one = KindCurve.of([row], kind=row["kind"], **own)
            curves_.setdefault((one.encoder, one.labels, *one.place), one)
    return list(curves_.values())


def side_by_side(results: Sequence[Placed]) -> list[Placed]:
    """In the order in which their places first occur, so that encoders are adjacent."""
    places = {place: number for number, place in enumerate(dict.fromkeys(one.place for one in results))}
    return sorted(results, key=lambda one: places[one.place])


def _means(figures: Iterable[Mapping[str, Any]]) -> tuple[float, float, float]:
    intervals = [(figure["value"], figure["low"], figure["high"]) for figure in figures]
    value, low, high = np.mean(intervals, axis=0).tolist()
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
    """The mean over rows; NaN if a row has no value."""
    return float(np.mean([np.nan if row[name] is None else row[name] for row in rows]))


def with_most_labels(results: Iterable[Placed]) -> list[Placed]:
    """For each encoder and place, the result with the most training volumes."""
    chosen: dict[tuple[str, ...], Placed] = {}
    one: Placed
    for one in results:
        key = (one.encoder, *one.place)
        if key not in chosen or one.n_train > chosen[key].n_train:
            chosen[key] = one
    return list(chosen.values())
