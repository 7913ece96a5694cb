"""Overlapping passes over the patient: where both cover the same region, the slices of one are kept.

Interleaved slices of two passes would show every movement between them as steps. Passes are joined series
(preprocess.select.join), or acquisitions of one series.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from preprocess.dicom.catalog import Instance
from preprocess.dicom.geometry import REGULAR_GAP, SAME_POSITION_MM, axes

Positions = list[tuple[Instance, ...]]
"""Slices in geometric order; several instances at one position are copies or retakes."""

MAX_RUNS = 4
"""Most runs of instance numbers along the table; more runs are another order of numbering, not passes."""

MOSTLY = 0.85
"""Share of equal steps in one scan; some slices may be missing."""


def height(group: tuple[Instance, ...], normal: np.ndarray) -> float:
    """A slice's position on the slice normal, LPS mm."""
    return float(np.asarray(group[0].position) @ normal)


def part_overlap(below: Positions, above: Positions, normal: np.ndarray) -> None:
    """Remove slices of the thicker pass within the thinner one; for equal thickness, of the upper pass."""
    if _step(below, normal) <= _step(above, normal):
        top = height(below[-1], normal) + SAME_POSITION_MM
        above[:] = [group for group in above if height(group, normal) > top]
    else:
        bottom = height(above[0], normal) - SAME_POSITION_MM
        below[:] = [group for group in below if height(group, normal) < bottom]


def without_overlap(positions: Positions) -> Positions:
    """The slices of one series without interleaved passes.

    A pass has a separate Acquisition Number (0020,0012) or, if all have the same, is a run of Instance
    Numbers (0020,0013) in one direction. A pass within another one is removed, except where the other lacks
    slices. Passes at the same positions are unchanged: of such images the last acquired is used later.
    """
    normal = axes(positions[0][0].orientation or ())[2]
    acquired = [max(i.acquisition_number or 0 for i in group) for group in positions]
    if len(set(acquired)) > 1:
        if sum(a != b for a, b in pairwise(acquired)) == len(set(acquired)) - 1:
            return positions  # one after the other
        numbers = [[i.acquisition_number or 0 for i in group] for group in positions]
        # Numbers shared by several scans leave slices of each in a pass, far apart.
        thickness = max(i.thickness or 0.0 for group in positions for i in group)
        passes, usual = _divided(positions, numbers), max(_step(positions, normal), thickness)
    else:
        runs = _runs(positions, normal)
        if not 1 < len(runs) <= MAX_RUNS:
            return positions
        passes, usual = runs, _usual(positions, runs, normal)
    kept = {image for group in _merged(passes, normal, usual) for image in group}
    left = (tuple(image for image in group if image in kept) for group in positions)
    return [group for group in left if group]


def _usual(positions: Positions, runs: Sequence[Positions], normal: np.ndarray) -> float:
    """The step of one scan among runs of Instance Numbers, mm; infinite if each run is a separate scan.

    Alternate slices numbered in two runs are one scan: together their steps are equal. They are two scans if
    the steps differ, or if each run alone leaves no gap between slices of their thickness.
    """
    gaps = np.diff([height(group, normal) for group in positions])
    step = float(np.median(gaps))
    thickness = [image.thickness or 0.0 for group in positions for image in group]
    alone = max(_step(run, normal) if len(run) > 1 else np.inf for run in runs)
    equal = np.mean(np.abs(gaps - step) <= REGULAR_GAP * step) >= MOSTLY
    return step if equal and alone > min(thickness) * (1 + REGULAR_GAP) else np.inf


def _divided(positions: Positions, numbers: Sequence[Sequence[int]]) -> list[Positions]:
    """The slices of each number; numbers: those of each position's images."""
    passes: dict[int, Positions] = {}
    for group, of in zip(positions, numbers, strict=True):
        for number in sorted(set(of)):
            one = tuple(image for image, its in zip(group, of, strict=True) if its == number)
            passes.setdefault(number, []).append(one)
    return list(passes.values())


def _runs(positions: Positions, normal: np.ndarray) -> list[Positions]:
    """Slices by runs of Instance Numbers in which the table moves in one direction, the more frequent one."""
    numbers = [image.instance_number for group in positions for image in group]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers) or known in (sorted(known), sorted(known, reverse=True)):
        return []
    numbered = [
        ((image.instance_number, image.frame), height((image,), normal), place, image)
        for place, group in enumerate(positions)
        for image in group
    ]
    numbered.sort(key=lambda one: one[:3])
    steps = np.diff([one[1] for one in numbered])
    steps[np.abs(steps) <= SAME_POSITION_MM] = 0
    way = np.sign(np.sign(steps).sum()) or 1.0
    run = np.concatenate([[0], np.cumsum(steps * way < 0)])
    if run[-1] >= MAX_RUNS:
        return []
    of = {one[3]: int(number) for one, number in zip(numbered, run, strict=True)}
    return _divided(positions, [[of[image] for image in group] for group in positions])


def _merged(passes: Iterable[Positions], normal: np.ndarray, usual: float) -> Positions:
    """The kept slices of all passes."""
    kept: list[Positions] = []
    for one in sorted(passes, key=lambda p: height(p[0], normal) - height(p[-1], normal)):
        one = list(one)
        for other in kept:
            if one and other and _between(one, other, normal, usual):
                _remove_overlap(one, other, normal, usual)
        kept.append(one)
    return [group for one in kept for group in one]


def _remove_overlap(one: Positions, other: Positions, normal: np.ndarray, usual: float) -> None:
    """Remove the slices of one of two passes, in place, where both cover the same region."""
    lower, upper = sorted((one, other), key=lambda p: height(p[0], normal))
    if height(upper[-1], normal) <= height(lower[-1], normal) + SAME_POSITION_MM:
        seen = set(_seen(upper, lower, normal, usual))
        upper[:] = [group for group in upper if group not in seen]
    else:
        part_overlap(lower, upper, normal)


def _between(one: Positions, other: Positions, normal: np.ndarray, usual: float) -> bool:
    """Whether slices of either pass are within the other, between its positions, where it lacks none."""
    for these, those in ((one, other), (other, one)):
        heights = np.array([height(group, normal) for group in those])
        for group in _seen(these, those, normal, usual):
            if np.abs(heights - height(group, normal)).min() > SAME_POSITION_MM:
                return True
    return False


def _seen(these: Positions, those: Positions, normal: np.ndarray, usual: float) -> Positions:
    """The given slices that are within the other pass, where that lacks no slices.

    It lacks slices where its step is more than its median and `usual`.
    """
    heights = np.array([height(group, normal) for group in those])
    if len(those) < 2 or height(these[-1], normal) < heights[0] or height(these[0], normal) > heights[-1]:
        return []
    gaps = np.diff(heights)
    limit = min(float(np.median(gaps)), usual) * (1 + REGULAR_GAP)
    seen = []
    for group in these:
        z = height(group, normal)
        above = int(np.searchsorted(heights, z - SAME_POSITION_MM))
        if above == len(heights) or (above == 0 and heights[0] > z + SAME_POSITION_MM):
            continue
        if heights[above] <= z + SAME_POSITION_MM or gaps[above - 1] <= limit:
            seen.append(group)
    return seen


def _step(positions: Positions, normal: np.ndarray) -> float:
    """Median distance of neighbours along the normal, mm."""
    return float(np.median(np.diff([height(group, normal) for group in positions])))
