"""Can a series become a volume? By header facts alone; preprocess.select.study judges it among others."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from operator import ne

import numpy as np

from preprocess.dicom.catalog import Instance, Series, texts_of
from preprocess.dicom.geometry import (
    AXIAL_DEG,
    MOST_PIXELS,
    REGULAR_GAP,
    SAME_POSITION_MM,
    Stack,
    by_position,
    is_axial,
    missing_slices,
    parallel,
    stack,
)
from preprocess.reasons import Reason, Rejection
from preprocess.select.image_kind import is_monoenergetic
from preprocess.select.kernels import common_sharpness
from preprocess.select.passes import without_overlap
from preprocess.select.rules import SelectConfig
from preprocess.select.screen import screen
from shards.schema import KernelClass

SEVERAL_SCANS = 0.25
"""Fraction of positions that may hold different images, as retakes do: more of them are several scans."""
CLOSE = 0.4
"""A slice this much nearer to one neighbour than to the one before it lies between those of another scan."""
REPEATS_OF_A_SERIES_IN_TIME = 3
"""Different images at most positions, this many or more: a perfusion or monitoring series."""


@dataclass(frozen=True)
class Selected:
    """The instances that selection keeps."""

    positions: tuple[tuple[Instance, ...], ...]
    """In geometric order; several instances at one position are copies or retakes."""
    dropped: Counter[Reason]
    """Instances left out, by reason."""
    sharpness: KernelClass
    """The class of the commonest kernel; the series' may be that of what was left out."""
    monoenergetic: bool = False
    """Were any of them computed for one photon energy?"""
    part: bool = False
    """Do their descriptions name a part of the head, and not the head?"""

    @cached_property
    def slices(self) -> Stack:
        """The stack of one instance a position."""
        return stack([group[0] for group in self.positions])


def select(series: Series, config: SelectConfig) -> Selected:
    """Decide from header facts whether `series` becomes a volume, and from which instances.

    Raises Rejection with the rule that decided. An instance that fails a rule on its own (a localizer
    in an axial series) is left out and counted; the series is rejected where none is left.
    """
    selected = usable(series, config)
    require_stack(selected.slices, config)
    return selected


def usable(series: Series, config: SelectConfig) -> Selected:
    """The instances of `series` that can be slices of a volume, be they enough for one or not.

    Beside axial images those of other planes are left out as reformats.

    Raises Rejection with the rule that decided where there are none.
    """
    kept, dropped = screen(series, config)
    axial = [instance for instance in kept if is_axial(instance, AXIAL_DEG)]
    if 0 < len(axial) < len(kept):
        dropped[Reason.REFORMAT] += len(kept) - len(axial)
        kept = axial
    kept, stray = parallel(kept)
    if stray:
        dropped[Reason.INCONSISTENT_GEOMETRY] += stray
    groups = by_position(kept)
    repeated = sum(
        len({(i.sop_uid, i.frame) for i in group}) >= REPEATS_OF_A_SERIES_IN_TIME for group in groups
    )
    if 2 * repeated > len(groups):
        raise Rejection(Reason.REPEATED_POSITIONS, f"{repeated} of {len(groups)} positions repeat in time")
    words = config.lexicon
    said = {texts.series_description for texts in texts_of(kept)}
    selected = Selected(
        positions=tuple(map(tuple, groups)),
        dropped=dropped,
        sharpness=common_sharpness(kept, words),
        monoenergetic=any(is_monoenergetic(instance, words) for instance in kept),
        part=any(map(words.names_only_a_part, said)),
    )
    _require_one_scan(selected)
    return _of_one_pass_a_place(selected)


def _of_one_pass_a_place(selected: Selected) -> Selected:
    """`selected` without slices of one pass over the patient that lie between another's."""
    kept = without_overlap(list(selected.positions))
    overlapping = sum(map(len, selected.positions)) - sum(map(len, kept))
    if not overlapping:
        return selected
    dropped = selected.dropped + Counter({Reason.OVERLAPPING_SLICE: overlapping})
    return replace(selected, positions=tuple(kept), dropped=dropped)


def _require_one_scan(selected: Selected) -> None:
    """Raise Rejection(repeated_positions) for scans of one region whose slices lie between one another's.

    Their positions differ by a fraction of a slice, but not what they show: times, phases of contrast, and
    where the head was. By Acquisition Number (0020,0012), or by steps that are small and large in turn.
    """
    acquisitions = [max(i.acquisition_number or 0 for i in group) for group in selected.positions]
    returns = sum(map(ne, acquisitions, acquisitions[1:])) - (len(set(acquisitions)) - 1)
    close = _close_slices(selected.slices.gaps) if len(acquisitions) > 2 else 0
    # A slice between two of another scan is where that one is left and returned to.
    most = 1 + SEVERAL_SCANS * len(acquisitions)
    if returns > 2 * most or close > most:
        detail = f"of {len(acquisitions)} slices {close} are close to another scan's"
        detail += f", and {returns} times the acquisition is one of before"
        raise Rejection(Reason.REPEATED_POSITIONS, detail)


def _close_slices(gaps: np.ndarray) -> int:
    """How many slices stand close to the one before, and with it in the place of one slice.

    Where slices are absent gaps differ as well, but then two neighbouring ones do not add up to one step.
    """
    steps = gaps[1:] + gaps[:-1]
    in_step = np.abs(steps - np.median(steps)) <= REGULAR_GAP * np.median(steps)
    return int((in_step & (gaps[1:] < CLOSE * gaps[:-1])).sum())


def require_stack(slices: Stack, config: SelectConfig) -> None:
    """Raise Rejection unless the slices are enough, near enough to one another and cover enough."""
    count = len(slices.positions)
    if count < config.min_slices:
        raise Rejection(Reason.TOO_FEW_SLICES, f"{count} positions, fewer than {config.min_slices}")
    if count > config.max_slices:
        raise Rejection(Reason.TOO_MANY_SLICES, f"{count} positions, more than {config.max_slices}")
    if count * slices.matrix[0] * slices.matrix[1] > MOST_PIXELS:
        of = f"{count} of {slices.matrix[0]} by {slices.matrix[1]} pixels"
        raise Rejection(Reason.TOO_MANY_SLICES, f"{of}, more than {MOST_PIXELS} in all")
    gaps = slices.gaps
    widest = int(np.argmax(gaps))
    if gaps[widest] > config.max_slice_gap_mm + SAME_POSITION_MM:
        absent = missing_slices(gaps)[widest]
        reason = Reason.MISSING_SLICES if absent else Reason.SLICE_GAP
        detail = f"a gap of {gaps[widest]:.2f} mm, more than {config.max_slice_gap_mm:g}"
        raise Rejection(reason, detail + (f": {absent} slices absent" if absent else ""))
    covered = coverage_mm(slices)
    if covered < config.min_coverage_mm:
        raise Rejection(Reason.COVERAGE_TOO_SMALL, f"{covered:.1f} mm, less than {config.min_coverage_mm:g}")
    if covered > config.max_coverage_mm:
        raise Rejection(Reason.COVERAGE_TOO_LARGE, f"{covered:.1f} mm, more than {config.max_coverage_mm:g}")


def coverage_mm(slices: Stack) -> float:
    """How much of the patient the slices show, along their travel; at least two slices.

    A slice stands for the slab around it, so the ends count half a gap each.
    """
    gaps = slices.gaps
    return float(gaps.sum() + np.median(gaps))
