"""How far probabilities can be taken at their word."""

from dataclasses import dataclass

import numpy as np

from fmct_hpc.probe.statistics.scored import FloatArray, IntArray, Scored

BINS = 10
"""Of about equal numbers of volumes: with the usual ones of equal width, most are empty for a rare label
(Nguyen and O'Connor 2015, section 3)."""


@dataclass(frozen=True)
class Reliability:
    """The reliability curve: (bins,) each, bins in the order of their probabilities."""

    predicted: FloatArray
    """Mean probability of a bin's volumes."""
    observed: FloatArray
    """Share of positives among them."""
    volumes: IntArray

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of the two, weighted by volumes (Guo et al. 2017)."""
        return float(np.abs(self.predicted - self.observed) @ self.volumes / self.volumes.sum())


def reliability(scored: Scored, bins: int = BINS) -> Reliability:
    """The reliability curve in bins of about equal numbers; volumes of one probability are in one bin."""
    order = np.argsort(scored.scores, kind="stable")
    scores, labels = scored.scores[order], scored.labels[order].astype(np.float64)
    wanted = np.arange(1, bins) * len(scores) // bins
    # A bin may only begin where the probability changes.
    starts = np.unique(np.append(0, np.searchsorted(scores, scores[wanted], side="left")))
    volumes = np.diff(np.append(starts, len(scores)))
    return Reliability(
        np.add.reduceat(scores, starts) / volumes, np.add.reduceat(labels, starts) / volumes, volumes
    )


def brier(scored: Scored) -> float:
    """Mean squared distance of probability and label (Brier 1950)."""
    return float(np.mean((scored.scores - scored.labels) ** 2))
