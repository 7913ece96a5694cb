"""Skull base and vault that were stored as separate series, made one series again.

Sequential scanners take the base in thin slices and the vault in thick ones, often as two series. They
are one head where the patient did not leave the table between them (one Frame of Reference UID) and all
slices lie on one stack: same planes, gantry tilt and pixels, one part above the other. The resampler
works by each slice's true position, so only the lists of slices have to be joined.

Parts that differ in tilt or pixel spacing stay apart: slices that are not parallel leave a wedge between
them that neither shows, and a common pixel spacing would mean to resample one of them twice.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from preprocess.candidate import Candidate, Part, ranked
from preprocess.catalog import Instance, Series
from preprocess.geometry import SAME_ORIENTATION_DEG, SAME_POSITION_MM, parallel
from preprocess.kernels import kernel_class
from preprocess.reasons import Reason, Rejection
from preprocess.rules import SelectConfig
from preprocess.select import Selected, coverage_mm, require_stack

OVERLAP = 0.25
"""Share of the shorter part that may lie within the other; reconstructions of one scan share nearly all."""
HEAD_MM = 250.0
"""About a large adult's chin to vertex: what joined parts may cover. More is a head and a neck."""

_Single = tuple[Series, Selected]


def find_joins(singles: Sequence[_Single], config: SelectConfig) -> list[Candidate]:
    """The best way to join series of one study, no series twice; each joined candidate passes `config`.

    `singles` are series and their usable instances.
    """
    left = [single for single in singles if len(single[1].positions) > 1]
    found: list[Candidate] = []
    while True:
        chains = [_chain(start, left, config) for start in left]
        followers = {id(single[0]) for chain in chains for single in chain[1:]}
        longest = [chain for chain in chains if id(chain[0][0]) not in followers]
        joined = [one for one in (_join_head(chain, config) for chain in longest) if one]
        if not joined:
            return found
        best = ranked(joined, config)[0]
        found.append(best)
        left = [single for single in left if all(single[0] is not source for source in best.sources)]


def _chain(start: _Single, singles: Sequence[_Single], config: SelectConfig) -> list[_Single]:
    """Parts from `start` upwards, each the best of those that adjoin the one before."""
    chain = [start]
    while True:
        above = [Candidate(*single) for single in singles if _adjoin(chain[-1], single, config)]
        if not above:
            return chain
        best = ranked(above, config)[0]
        chain.append((best.series, best.selected))


def _adjoin(below: _Single, above: _Single, config: SelectConfig) -> bool:
    """Does the second part go on where the first ends, on the same stack?"""
    (series_a, selected_a), (series_b, selected_b) = below, above
    if (
        not series_a.frame_of_reference_uid
        or series_a.frame_of_reference_uid != series_b.frame_of_reference_uid
    ):
        return False
    if kernel_class(series_a.kernel) != kernel_class(series_b.kernel):
        return False
    try:
        parallel([selected_a.positions[0][0], selected_b.positions[0][0]])
    except Rejection:
        return False
    a, b = selected_a.slices, selected_b.slices
    if a.travel @ b.travel < np.cos(np.radians(SAME_ORIENTATION_DEG)):
        return False
    heights = b.positions @ a.normal
    if heights[0] <= a.heights[0] or heights[-1] <= a.heights[-1]:
        return False
    gap = (heights[0] - a.heights[-1]) / (a.travel @ a.normal)
    shorter = min(a.gaps.sum(), b.gaps.sum())
    return bool(-OVERLAP * shorter <= gap <= config.max_slice_gap_mm + SAME_POSITION_MM)


def _join_head(chain: list[_Single], config: SelectConfig) -> Candidate | None:
    """The greatest number of parts from the vertex downwards that make one head, as one candidate."""
    upwards = chain[0][1].slices.normal[2] > 0
    while len(chain) > 1:
        joined = _join(chain, config)
        if joined:
            return joined
        chain = chain[1:] if upwards else chain[:-1]
    return None


def _join(chain: Sequence[_Single], config: SelectConfig) -> Candidate | None:
    """The parts as one candidate; None where together they are no stack that `config` wants."""
    normal = chain[0][1].slices.normal
    kept = [list(selected.positions) for _, selected in chain]
    for below, above in pairwise(range(len(chain))):
        _part_overlap(kept[below], kept[above], normal)
    if min(map(len, kept)) < 2:
        return None
    selected = Selected(
        positions=tuple(group for groups in kept for group in groups),
        dropped=sum((selected.dropped for _, selected in chain), Counter[Reason]()),
    )
    overlapping = sum(len(selected.positions) for _, selected in chain) - len(selected.positions)
    if overlapping:
        selected.dropped[Reason.OVERLAPPING_SLICE] = overlapping
    try:
        require_stack(selected.slices, config)
    except Rejection:
        return None
    if coverage_mm(selected.slices) > HEAD_MM:
        return None
    parts = [
        Part(series, len(groups), _height(groups[0], normal), _height(groups[-1], normal))
        for (series, _), groups in zip(chain, kept, strict=True)
    ]
    instances = tuple(instance for group in selected.positions for instance in group)
    return Candidate(replace(chain[0][0], instances=instances), selected, tuple(parts))


_Positions = list[tuple[Instance, ...]]


def _part_overlap(below: _Positions, above: _Positions, normal: np.ndarray) -> None:
    """Take out the slices of the thicker part that lie within the thinner one.

    Slices of two passes taken in turn would show every movement between the passes as teeth.
    """
    if _step(below, normal) <= _step(above, normal):
        top = _height(below[-1], normal) + SAME_POSITION_MM
        above[:] = [group for group in above if _height(group, normal) > top]
    else:
        bottom = _height(above[0], normal) - SAME_POSITION_MM
        below[:] = [group for group in below if _height(group, normal) < bottom]


def _height(group: tuple[Instance, ...], normal: np.ndarray) -> float:
    return float(np.asarray(group[0].position) @ normal)


def _step(groups: _Positions, normal: np.ndarray) -> float:
    """Median distance of neighbours along the normal, mm."""
    return float(np.median(np.diff([_height(group, normal) for group in groups])))
