"""How visible a study's findings are: each head beside the same head without the finding."""

from dataclasses import dataclass
from itertools import count, islice

import numpy as np

from launch.study.cohort import Split, make_subject, make_volume
from launch.study.config import CohortConfig
from launch.study.findings import Finding

HEADS = 6
"""That each figure is the median of."""
MIDDLE_MM = 112.0
"""Edge of the cube in which the brain's own spread is taken: within the skull of most heads."""
BRAIN_WINDOW = (0, 80)
"""HU between which changes are looked at: level 40, width 80."""


@dataclass(frozen=True)
class Visibility:
    """Medians over some heads."""

    voxels: float
    """Stored voxels that the finding changes by half of its greatest change or more."""
    change: float
    """Mean change in these in the brain's window, HU; the sign does not count."""
    spread: float
    """Standard deviation of brain and CSF around it, HU: anatomy and noise together."""

    @property
    def ratio(self) -> float:
        """Change to spread, of one voxel."""
        return self.change / self.spread


def visibility(config: CohortConfig, finding: Finding) -> Visibility:
    """Of `finding` in validation heads that have it."""
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
