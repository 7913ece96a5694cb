"""Censored time to an event: Cox's proportional hazards model (Cox 1972).

Ties are handled by Efron's method (1977). A head's risk is the logarithm of the relative hazard, without
unit.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.probe.kinds.base import Kind, PredictionColumns, RawArray, Targets
from fmct_hpc.probe.statistics.concordance import Concordance, DynamicArea, uncensored
from fmct_hpc.probe.statistics.curves import Curve, curve_of_events
from fmct_hpc.probe.statistics.predictions import Measure, ScoredPredictions
from fmct_hpc.probe.statistics.scored import FloatArray, IntArray
from fmct_hpc.probe.statistics.survival_brier import (
    STEPS,
    Censored,
    IntegratedBrier,
    cumulative_hazard,
    kaplan_meier,
)

HORIZONS = (0.25, 0.5, 0.75)
"""Quantiles of the training volumes' event times, at which areas are evaluated."""


@dataclass(frozen=True)
class Survival(Kind):
    """Times and events; targets (N, 2) float64, predictions (N, 1) risks."""

    name: ClassVar[str] = "survival"
    figures: ClassVar[tuple[str, ...]] = (
        "c_index",
        *(f"auc_at_{round(100 * q)}" for q in HORIZONS),
        *("ibs", "ibs_skill"),
    )

    def targets(self, values: FloatArray, times: FloatArray) -> Targets:
        """Time, and 1 for an event or 0 for censoring."""
        return np.nan_to_num(np.stack([times, values], axis=1))

    def values(self, targets: Targets) -> tuple[FloatArray, NDArray[np.bool_] | None]:
        """Times and events."""
        return targets[:, 0], targets[:, 1] == 1

    def from_values(self, values: FloatArray, events: NDArray[np.bool_]) -> Targets:
        """Times and events."""
        return np.stack([values, events.astype(np.float64)], axis=1)

    def strata(self, targets: Targets) -> IntArray:
        """Censored volumes, then those with the event."""
        return (targets[:, 1] == 1).astype(np.int64)

    def stratum_names(self) -> tuple[str, ...]:
        """As in `0 event training patients`."""
        return ("event-free", "event")

    def loss(self, raw: Tensor, targets: Targets) -> Tensor:
        """Negative partial log-likelihood; risk sets are within the batch."""
        times, events = targets[:, 0], targets[:, 1] == 1
        order = np.argsort(-times, kind="stable")
        risks = raw[torch.from_numpy(order).to(raw.device), 0].double()
        if not events.any():
            return (risks * 0).sum().to(raw.dtype)
        _, group = np.unique(-times[order], return_inverse=True)  # in descending order of time
        own = np.flatnonzero(events[order])
        sizes = np.bincount(group[own], minlength=group.max() + 1)
        # Rank of each event among those of the same time, from 0.
        rank = np.arange(len(own)) - (np.cumsum(sizes) - sizes)[group[own]]
        last = np.cumsum(np.bincount(group)) - 1
        places = [torch.from_numpy(part).to(raw.device) for part in (own, group[own], last)]
        mine, of_group, ends = places
        top = risks.detach().max()
        hazards = (risks - top).exp()
        at_risk = hazards.cumsum(0)[ends][of_group]
        tied = torch.zeros(len(sizes), dtype=hazards.dtype, device=raw.device)
        tied = tied.index_add(0, of_group, hazards[mine])[of_group]
        share = torch.from_numpy(rank / sizes[group[own]]).to(raw.device)
        return -(risks[mine] - top - (at_risk - share * tied).log()).sum().to(raw.dtype)

    def predictions(self, raw: RawArray) -> FloatArray:
        """The risks."""
        return np.asarray(raw, np.float64)

    def choice_loss(self, predictions: FloatArray, targets: Targets) -> float:
        """Negative partial log-likelihood per event; 0 without events."""
        events = int((targets[:, 1] == 1).sum())
        return float(self.loss(torch.from_numpy(predictions), targets)) / events if events else 0.0

    def measure(self, test: ScoredPredictions, training: Targets | None) -> Measure:
        """Harrell's C, cumulative/dynamic areas at the horizons, the integrated Brier score and its skill.

        Horizons are from the training volumes; the Brier score is integrated to the last one. Event-free
        probabilities are computed from the risks and Breslow's baseline on the validation volumes of the
        fold; NaN if these have no event. The skill is relative to the Kaplan-Meier curve of the training
        volumes.
        """
        return _Measure(test, training)

    def curves(self, test: ScoredPredictions, training: Targets) -> list[Curve]:
        """The probability of an event by the last horizon, as of `measure`; none without a baseline."""
        at = horizons(training)[-1:]
        chances = 1 - event_free(test, at)[:, 0]
        known = ~np.isnan(chances)
        if not known.any():
            return []
        times, events = test.targets[known].T
        own = chances[known], times, events == 1
        return [curve_of_events("event", *own, float(at[0]), test.patients[known])]

    def at(self, training: Targets) -> dict[str, float]:
        """The horizons, in the unit of the times."""
        own = horizons(training).tolist()
        return dict(zip(self.figures[1:], [*own, own[-1], own[-1]], strict=True))

    def columns(self, predictions: FloatArray) -> list[PredictionColumns]:
        """The risk as the score."""
        return [PredictionColumns(float(risk)) for risk in predictions[:, 0]]


def horizons(training: Targets) -> FloatArray:
    """Times (len(HORIZONS),) by which these fractions of the training volumes' events have occurred."""
    return np.quantile(training[training[:, 1] == 1, 0], HORIZONS)


class _Measure:
    def __init__(self, test: ScoredPredictions, training: Targets | None) -> None:
        risks, (times, events) = test.predictions[:, 0], test.targets.T
        seen = events == 1
        self._parts: list[Measure] = [Concordance(risks, times, seen, test.patients, test.folds)]
        if training is None:
            return
        # As in scikit-survival, censoring probabilities are those of the training volumes.
        chance = uncensored(training[:, 0], training[:, 1] == 1, times)
        weights = np.where(seen & (chance > 0), 1 / np.where(chance > 0, chance, 1), 0.0)
        self._parts += [
            DynamicArea(risks, weights * (times <= at), times > at, test.patients, test.folds)
            for at in horizons(training)
        ]
        at = np.linspace(0, horizons(training)[-1], STEPS + 1)
        trained = Censored(training[:, 0], training[:, 1] == 1)
        self._parts.append(
            IntegratedBrier(
                event_free(test, at),
                kaplan_meier(trained.times, trained.events, at),
                at,
                Censored(times, seen),
                trained,
                test.patients,
            )
        )

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        return np.column_stack([part(counts) for part in self._parts])


def event_free(test: ScoredPredictions, at: FloatArray) -> FloatArray:
    """Each volume's probability of no event by the times `at` (T,): (N, T), NaN without a baseline.

    exp(-H(t) exp(risk)), where H is Breslow's estimate on the validation volumes of the volume's fold.
    """
    chances = np.full((len(test.folds), len(at)), np.nan)
    for fold, (risks, targets) in enumerate(test.validation):
        own = test.folds == fold
        middle = risks[:, 0].mean() if len(risks) else 0.0  # so that exponentials stay finite
        hazard = cumulative_hazard(risks[:, 0] - middle, targets[:, 0], targets[:, 1] == 1, at)
        chances[own] = np.exp(-hazard * np.exp(test.predictions[own, :1] - middle))
    return chances
