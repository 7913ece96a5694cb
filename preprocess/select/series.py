"""Whether a series can become a volume, by its headers; preprocess.select.study compares it with others."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from operator import ne

import numpy as np

from preprocess.dicom.catalog import Instance, Series, texts_of
from preprocess.dicom.geometry import (
    AXIAL_DEG,
    MAX_PIXELS,
    REGULAR_GAP,
    SAME_POSITION_MM,
    Stack,
    by_position,
    in_line,
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
"""Fraction of positions that may hold different images (retakes); above it, they are several scans."""
CLOSE = 0.4
"""A slice this much closer to one neighbour than to the previous one lies between slices of another scan."""
REPEATS_OF_A_SERIES_IN_TIME = 3
"""This many different images at most positions indicate a perfusion or monitoring series."""


@dataclass(frozen=True)
class Selected:
    """The instances that selection keeps."""

    positions: tuple[tuple[Instance, ...], ...]
    """In geometric order; several instances at one position are copies or retakes."""
    dropped: Counter[Reason]
    """Number of left-out instances, by reason."""
    sharpness: KernelClass
    """The class of the most frequent kernel of the kept instances; the series' may be of left-out ones."""
    monoenergetic: bool = False
    """Whether any of them is a monoenergetic image."""
    part: bool = False
    """Whether their descriptions name a part of the head, and not the head."""

    @cached_property
    def slices(self) -> Stack:
        """The stack of one instance per position."""
        return stack([group[0] for group in self.positions])


def select(series: Series, config: SelectConfig) -> Selected:
    """Decide from headers whether `series` becomes a volume, and from which instances.

    Raises Rejection with the deciding rule. An instance that fails a rule by itself (a localizer in an axial
    series) is left out and counted; the series is rejected if none is left.
    """
    selected = usable(series, config)
    require_whole(selected, config)
    return selected


def usable(series: Series, config: SelectConfig) -> Selected:
    """The instances of `series` that can be slices of a volume, even if too few for one.

    If there are axial images, those of other planes are left out as reformats.

    Raises Rejection with the deciding rule if there are none.
    """
    kept, dropped = screen(series, config)
    axial = [instance for instance in kept if is_axial(instance, AXIAL_DEG)]
    if 0 < len(axial) < len(kept):
        dropped[Reason.REFORMAT] += len(kept) - len(axial)
        kept = axial
    kept, stray = parallel(kept)
    kept, beside = in_line(kept)
    if stray + beside:
        dropped[Reason.INCONSISTENT_GEOMETRY] += stray + beside
    groups = by_position(kept)
    repeated = sum(
        len({(i.sop_uid, i.frame) for i in group}) >= REPEATS_OF_A_SERIES_IN_TIME for group in groups
    )
    if 2 * repeated > len(groups):
        raise Rejection(Reason.REPEATED_POSITIONS, f"{repeated} of {len(groups)} positions repeat in time")
    words = config.lexicon
    descriptions = {texts.series_description for texts in texts_of(kept)}
    selected = Selected(
        positions=tuple(map(tuple, groups)),
        dropped=dropped,
        sharpness=common_sharpness(kept, words),
        monoenergetic=any(is_monoenergetic(instance, words) for instance in kept),
        part=any(map(words.names_only_a_part, descriptions)),
    )
    _require_one_scan(selected)
    return _without_overlapping_passes(selected)


def _without_overlapping_passes(selected: Selected) -> Selected:
    """`selected` without slices of one pass that lie between slices of another pass."""
    kept = without_overlap(list(selected.positions))
    overlapping = sum(map(len, selected.positions)) - sum(map(len, kept))
    if not overlapping:
        return selected
    dropped = selected.dropped + Counter({Reason.OVERLAPPING_SLICE: overlapping})
    return replace(selected, positions=tuple(kept), dropped=dropped)


def _require_one_scan(selected: Selected) -> None:
    """Raise Rejection(repeated_positions) for scans of one region with interleaved slices.

    Their positions differ by a fraction of a slice, but they show different times, contrast phases or head
    positions. Detected by Acquisition Number (0020,0012), or by alternating small and large steps.
    """
    acquisitions = [max(i.acquisition_number or 0 for i in group) for group in selected.positions]
    returns = sum(map(ne, acquisitions, acquisitions[1:])) - (len(set(acquisitions)) - 1)
    close = _close_slices(selected.slices.gaps) if len(acquisitions) > 2 else 0
    # A slice between two slices of another scan leaves that acquisition and returns to it.
    expected = 1 + SEVERAL_SCANS * len(acquisitions)
    if returns > 2 * expected or close > expected:
        detail = f"of {len(acquisitions)} slices {close} are close to slices of another scan"
        detail += f", and {returns} times an earlier acquisition recurs"
        raise Rejection(Reason.REPEATED_POSITIONS, detail)


def _close_slices(gaps: np.ndarray) -> int:
    """Number of slices so close to the previous one that both take the place of one slice.

    Missing slices make gaps differ as well, but then two neighbouring gaps do not add up to one step.
    """
    steps = gaps[1:] + gaps[:-1]
    in_step = np.abs(steps - np.median(steps)) <= REGULAR_GAP * np.median(steps)
    return int((in_step & (gaps[1:] < CLOSE * gaps[:-1])).sum())


def require_whole(selected: Selected, config: SelectConfig) -> None:
    """As `require_stack`; the detail names the images that were left out, whose places may be the gaps."""
    try:
        require_stack(selected.slices, config)
    except Rejection as rejection:
        left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(selected.dropped.items()))
        if not left_out:
            raise
        raise Rejection(rejection.reason, f"{rejection.detail}; left out: {left_out}") from None


def require_stack(slices: Stack, config: SelectConfig) -> None:
    """Raise Rejection unless the number, the gaps and the coverage of the slices are within limits."""
    count = len(slices.positions)
    if count < config.min_slices:
        raise Rejection(Reason.TOO_FEW_SLICES, f"{count} positions, fewer than {config.min_slices}")
    if count > config.max_slices:
        raise Rejection(Reason.TOO_MANY_SLICES, f"{count} positions, more than {config.max_slices}")
    if count * slices.matrix[0] * slices.matrix[1] > MAX_PIXELS:
        of = f"{count} of {slices.matrix[0]} by {slices.matrix[1]} pixels"
        raise Rejection(Reason.TOO_MANY_SLICES, f"{of}, more than {MAX_PIXELS} in all")
    gaps = slices.gaps
    widest = int(np.argmax(gaps))
    if gaps[widest] > config.max_slice_gap_mm + SAME_POSITION_MM:
        absent = missing_slices(gaps)[widest]
        reason = Reason.MISSING_SLICES if absent else Reason.SLICE_GAP
        detail = f"a gap of {gaps[widest]:.2f} mm, more than {config.max_slice_gap_mm:g}"
        raise Rejection(reason, detail + (f": {absent} slices missing" if absent else ""))
    covered = coverage_mm(slices)
    if covered < config.min_coverage_mm:
        raise Rejection(Reason.COVERAGE_TOO_SMALL, f"{covered:.1f} mm, less than {config.min_coverage_mm:g}")
    if covered > config.max_coverage_mm:
        raise Rejection(Reason.COVERAGE_TOO_LARGE, f"{covered:.1f} mm, more than {config.max_coverage_mm:g}")


def coverage_mm(slices: Stack) -> float:
    """Extent of at least two slices along the direction of travel, mm.

    A slice represents the slab around it, so each end adds half a gap.
    """
    gaps = slices.gaps
    return float(gaps.sum() + np.median(gaps))
