"""What may become a volume, and which of a study's candidates is the best."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from preprocess.dicom.catalog import Series
from preprocess.dicom.geometry import AXIAL_DEG
from preprocess.select.rules import SelectConfig
from preprocess.select.series import Selected, coverage_mm

WHOLE = 0.75
"""A candidate that covers less than this share of what its study's widest covers is a part of a head: a
thin scan of the posterior fossa is not better than a thick one of all."""


@dataclass(frozen=True)
class Part:
    """One series of a joined candidate, and where its slices are."""

    series: Series
    slices: int
    low_mm: float
    """Projection of the first slice's position on the slice normal, LPS mm."""
    high_mm: float
    """That of the last slice."""


@dataclass(frozen=True)
class Candidate:
    """A series of the catalog, or several that were joined to one."""

    series: Series
    """Of joined parts: the first one's attributes, and those instances of all that selection keeps."""
    selected: Selected
    parts: tuple[Part, ...] = ()
    """Of joined parts, each one, along the slice normal."""

    @property
    def sources(self) -> tuple[Series, ...]:
        """The series of the catalog that it is made of."""
        return tuple(part.series for part in self.parts) or (self.series,)

    @cached_property
    def coverage_mm(self) -> float:
        """See `preprocess.select.series.coverage_mm`."""
        return coverage_mm(self.selected.slices)

    @cached_property
    def thickness_mm(self) -> float:
        """Median Slice Thickness (0018,0050), or mean distance of slices if that is more: 0.1 mm steps.

        A slice of 1 mm every 10 mm is not thin.
        """
        stated = [group[0].thickness or 0.0 for group in self.selected.positions]
        return round(max(float(np.median(stated)), float(self.selected.slices.gaps.mean())), 1)

    def __str__(self) -> str:
        """Its merits in numbers."""
        return f"{self.selected.sharpness}, {self.thickness_mm:g} mm, covers {self.coverage_mm:.0f} mm"


def ranked(candidates: list[Candidate], config: SelectConfig) -> list[Candidate]:
    """Best first: axial ones that show the whole head by `config.prefer`, then other ones, other planes last.

    Those that are named for a part of the head come behind it, and monoenergetic images behind scans.

    Ties go to the wider, the one of more slices, and at last the lesser Series Instance UID, so that
    the order is the same on every machine.
    """
    widest = max((candidate.coverage_mm for candidate in candidates), default=0.0)

    def merit(candidate: Candidate) -> tuple:
        by_criterion = {
            "kernel": config.kernels.index(candidate.selected.sharpness),
            "thinnest": candidate.thickness_mm,
            "widest": -round(candidate.coverage_mm),
        }
        return (
            candidate.selected.slices.obliquity_deg > AXIAL_DEG,
            candidate.coverage_mm < WHOLE * widest,
            candidate.selected.part,
            candidate.selected.monoenergetic,
            *(by_criterion[criterion] for criterion in config.prefer),
            -round(candidate.coverage_mm),
            -len(candidate.selected.positions),
            candidate.series.series_uid,
        )

    return sorted(candidates, key=merit)
