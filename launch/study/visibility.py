"""The visibility of a study's findings: each head compared with the same head without the finding."""

from dataclasses import dataclass
from itertools import count, islice

import numpy as np

from launch.study.cohort import Split, make_subject, make_volume
from launch.study.config import CohortConfig
from launch.study.findings import Finding

HEADS = 6
"""Number of heads for each median."""
MIDDLE_MM = 112.0
"""Edge of the cube in which the brain's standard deviation is computed: within the skull of most heads."""
BRAIN_WINDOW = (0, 80)
"""HU range in which changes are measured: level 40, width 80."""


@dataclass(frozen=True)
class Visibility:
    """Medians over some heads."""

    voxels: float
    """Number of stored voxels that the finding changes by at least half of its maximum change."""
    change: float
    """Mean absolute change in these voxels in the brain window, HU."""
    spread: float
    """Standard deviation of the surrounding brain and CSF, HU: anatomy and noise."""

    @property
    def ratio(self) -> float:
        """Ratio of change to spread."""
        return self.change / self.spread


def visibility(config: CohortConfig, finding: Finding) -> Visibility:
    """The visibility of `finding` in validation heads that have it."""
    having = (
        number for number in count() if finding in make_subject(config, Split.VALIDATION, number).findings
    )
    rows = []
    for number in islice(having, HEADS):
        shown, healthy = (
            make_volume(config, Split.VALIDATION, number, without)[0].astype(np.float32)
            for without in (None, finding)
        )
        change = np.abs(shown.clip(*BRAIN_WINDOW) - healthy.clip(*BRAIN_WINDOW))
        changed = change >= change.max() / 2
        margin = max(0, round((config.edge - MIDDLE_MM / config.spacing_mm) / 2))
        middle = healthy[(slice(margin, config.edge - margin),) * 3]
        brain = middle[(middle > -10) & (middle < 60)]
        rows.append((changed.sum(), change[changed].mean(), brain.std()))
    return Visibility(*(float(value) for value in np.median(rows, axis=0)))
