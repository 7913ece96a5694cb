"""Candidates for volumes, and their ranking within a study."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from preprocess.dicom.catalog import Series, SeriesKey
from preprocess.dicom.geometry import AXIAL_DEG, SAME_POSITION_MM
from preprocess.select.rules import SelectConfig
from preprocess.select.series import Selected, coverage_mm
from shards.roles import role_of
from shards.schema import Role

WHOLE = 0.75
"""A candidate that covers less than this share of its study's largest coverage shows part of a head: a thin
scan of the posterior fossa is not better than a thick scan of the whole head."""


@dataclass(frozen=True)
class Part:
    """One series of a joined candidate, with the range of its slices."""

    series: Series
    slices: int
    low_mm: float
    """Projection of the first slice's position on the slice normal, LPS mm."""
    high_mm: float
    """The same for the last slice."""


@dataclass(frozen=True)
class Candidate:
    """A series of the catalog, or several joined series."""

    series: Series
    """For joined parts: the attributes of the first, and the selected instances of all."""
    selected: Selected
    parts: tuple[Part, ...] = ()
    """The joined parts along the slice normal; empty for a single series."""

    @property
    def sources(self) -> tuple[Series, ...]:
        """Its series of the catalog."""
        return tuple(part.series for part in self.parts) or (self.series,)

    @cached_property
    def keys(self) -> tuple[SeriesKey, ...]:
        """Keys of its sources: they differ for each candidate of a study."""
        return tuple(source.key for source in self.sources)

    @cached_property
    def coverage_mm(self) -> float:
        """See `preprocess.select.series.coverage_mm`."""
        return coverage_mm(self.selected.slices)

    @cached_property
    def top_mm(self) -> float:
        """Position of the centre of the uppermost slice along the patient's long axis, LPS mm."""
        slices = self.selected.slices
        halves = (np.array(slices.matrix) - 1) / 2 * slices.spacing
        across = halves[0] * slices.row_step + halves[1] * slices.column_step
        return float((slices.positions[[0, -1]] + across)[:, 2].max())

    @property
    def is_axial(self) -> bool:
        """Whether its plane is axial."""
        return self.selected.slices.obliquity_deg <= AXIAL_DEG

    @property
    def space(self) -> str:
        """Frame of Reference UID (0020,0052): positions in different frames are unrelated."""
        return self.series.frame_of_reference_uid

    def may_show_more_than(self, other: "Candidate") -> bool:
        """Whether it may show parts of the head that `other` lacks: it ends higher or has a wider field."""
        if not self.space or self.space != other.space or not (self.is_axial and other.is_axial):
            return True
        return self.top_mm > other.top_mm + SAME_POSITION_MM or self._field_mm > 1.01 * other._field_mm

    @property
    def _field_mm(self) -> float:
        """The shorter edge of a slice."""
        slices = self.selected.slices
        return float((np.array(slices.matrix) * slices.spacing).min())

    @cached_property
    def thickness_mm(self) -> float:
        """Median Slice Thickness (0018,0050), or the mean slice distance if greater, rounded to 0.1 mm.

        1 mm slices every 10 mm are not thin.
        """
        stated = [group[0].thickness or 0.0 for group in self.selected.positions]
        return round(max(float(np.median(stated)), float(self.selected.slices.gaps.mean())), 1)

    @property
    def role(self) -> Role:
        """Role among the series of its study, by kernel and thickness."""
        return role_of(self.selected.sharpness, self.thickness_mm)

    def __str__(self) -> str:
        """The values that decide its rank."""
        return f"{self.selected.sharpness}, {self.thickness_mm:g} mm, covers {self.coverage_mm:.0f} mm"


def ranked(candidates: list[Candidate], config: SelectConfig) -> list[Candidate]:
    """Best first: axial candidates of the whole head by `config.prefer`, partial ones, then other planes.

    Candidates that end below another one of the same frame of reference, or are named for a part of the head,
    come after it, and monoenergetic images come after scans.

    Ties are decided by larger coverage, more slices, and finally the smaller Series Instance UID, so that the
    order is the same on every machine.
    """
    tops: dict[str, float] = {}
    for one in candidates:
        if one.is_axial and one.space:
            tops[one.space] = max(one.top_mm, tops.get(one.space, one.top_mm))

    def is_below(candidate: Candidate) -> bool:
        return (
            candidate.is_axial
            and candidate.top_mm < tops.get(candidate.space, -np.inf) - config.profile.below_mm
        )

    widest = max((one.coverage_mm for one in candidates if not is_below(one)), default=0.0)

    def merit(candidate: Candidate) -> tuple[float | str, ...]:
        by_criterion = {
            "kernel": config.kernels.index(candidate.selected.sharpness),
            "thinnest": candidate.thickness_mm,
            "widest": -round(candidate.coverage_mm),
        }
        return (
            not candidate.is_axial,
            is_below(candidate),
            candidate.coverage_mm < WHOLE * widest,
            candidate.selected.part,
            candidate.selected.monoenergetic,
            *(by_criterion[criterion] for criterion in config.prefer),
            -round(candidate.coverage_mm),
            -len(candidate.selected.positions),
            candidate.series.series_uid,
        )

    return sorted(candidates, key=merit)
