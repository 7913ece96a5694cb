"""Joining skull base and vault that were stored as separate series.

Sequential scanners acquire the base in thin and the vault in thick slices, often as two series. They form one
head if the patient stayed on the table between them (same Frame of Reference UID) and all slices are one
stack: same planes, gantry tilt and pixels, one part above the other. The resampler uses each slice's true
position, so only the lists of slices have to be joined.

Parts that differ in tilt or pixel spacing are not joined: slices that are not parallel leave a wedge between
them that neither shows, and a common pixel spacing would require resampling one of them twice.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from preprocess.dicom.catalog import Series, SeriesKey
from preprocess.dicom.geometry import SAME_ORIENTATION_DEG, SAME_POSITION_MM, parallel
from preprocess.reasons import Reason, Rejection
from preprocess.select.candidate import Candidate, Part, ranked
from preprocess.select.passes import height, part_overlap
from preprocess.select.rules import SelectConfig
from preprocess.select.series import Selected, coverage_mm, require_stack

OVERLAP = 0.25
"""Share of the shorter part that may overlap the other; reconstructions of one scan overlap almost fully."""

_Single = tuple[Series, Selected]


def find_joins(singles: Sequence[_Single], config: SelectConfig) -> list[Candidate]:
    """Join series of one study, using each series at most once; each joined candidate passes `config`.

    singles: series with their usable instances.
    """
    groups: dict[tuple[str, str], list[_Single]] = {}
    for series, selected in singles:
        if series.frame_of_reference_uid and len(selected.positions) > 1:
            like = (series.frame_of_reference_uid, selected.sharpness)
            groups.setdefault(like, []).append((series, selected))
    return [joined for group in groups.values() for joined in _joins_of(group, config)]


def _joins_of(group: list[_Single], config: SelectConfig) -> Iterator[Candidate]:
    """Joined candidates among series of one frame of reference and kernel class."""
    order = {c.series.key: n for n, c in enumerate(ranked([Candidate(*single) for single in group], config))}
    group = sorted(group, key=lambda single: order[single[0].key])
    above = {one[0].key: [other for other in group if _adjoin(one, other, config)] for one in group}
    while True:
        starts = _starts(group, above)
        joined = [one for one in (_join_head(_chain(start, above), config) for start in starts) if one]
        if not joined:
            return
        best = ranked(joined, config)[0]
        yield best
        group = [single for single in group if single[0].key not in best.keys]
        above = {key: [one for one in ones if one[0].key not in best.keys] for key, ones in above.items()}


def _starts(group: Sequence[_Single], above: dict[SeriesKey, list[_Single]]) -> list[_Single]:
    """The lowest parts: series that have another one above, and are not the best one above any."""
    followers = {above[series.key][0][0].key for series, _ in group if above[series.key]}
    return [single for single in group if above[single[0].key] and single[0].key not in followers]


def _chain(start: _Single, above: dict[SeriesKey, list[_Single]]) -> list[_Single]:
    """Parts from `start` upwards, each the best that adjoins the previous one."""
    chain = [start]
    while above[chain[-1][0].key]:
        chain.append(above[chain[-1][0].key][0])
    return chain


def _adjoin(below: _Single, above: _Single, config: SelectConfig) -> bool:
    """Whether the second part continues where the first ends, in the same stack."""
    a, b = below[1].slices, above[1].slices
    heights = b.positions[[0, -1]] @ a.normal
    if heights[0] <= a.heights[0] or heights[1] <= a.heights[-1]:
        return False
    gap = (heights[0] - a.heights[-1]) / (a.travel @ a.normal)
    shorter = min(a.gaps.sum(), b.gaps.sum())
    if not -OVERLAP * shorter <= gap <= config.max_slice_gap_mm + SAME_POSITION_MM:
        return False
    if a.travel @ b.travel < np.cos(np.radians(SAME_ORIENTATION_DEG)):
        return False
    try:
        parallel([below[1].positions[0][0], above[1].positions[0][0]])
    except Rejection:
        return False
    return True


def _join_head(chain: list[_Single], config: SelectConfig) -> Candidate | None:
    """The largest number of parts from the vertex downwards that form one head, as one candidate."""
    upwards = chain[0][1].slices.normal[2] > 0
    while len(chain) > 1:
        joined = _join(chain, config)
        if joined:
            return joined
        chain = chain[1:] if upwards else chain[:-1]
    return None


def _join(chain: Sequence[_Single], config: SelectConfig) -> Candidate | None:
    """The parts as one candidate; None if together they are not a stack that `config` accepts."""
    normal = chain[0][1].slices.normal
    kept = [list(selected.positions) for _, selected in chain]
    for below, above in pairwise(range(len(chain))):
        part_overlap(kept[below], kept[above], normal)
    if min(map(len, kept)) < 2:
        return None
    selected = Selected(
        positions=tuple(group for groups in kept for group in groups),
        dropped=sum((selected.dropped for _, selected in chain), Counter[Reason]()),
        sharpness=chain[0][1].sharpness,
        monoenergetic=any(selected.monoenergetic for _, selected in chain),
        part=all(selected.part for _, selected in chain),
    )
    overlapping = sum(len(selected.positions) for _, selected in chain) - len(selected.positions)
    if overlapping:
        selected.dropped[Reason.OVERLAPPING_SLICE] += overlapping
    try:
        require_stack(selected.slices, config)
    except Rejection:
        return None
    if coverage_mm(selected.slices) > config.profile.joined_mm:
        return None
    parts = [
        Part(series, len(groups), height(groups[0], normal), height(groups[-1], normal))
        for (series, _), groups in zip(chain, kept, strict=True)
    ]
    instances = tuple(instance for group in selected.positions for instance in group)
    return Candidate(replace(chain[0][0], instances=instances), selected, tuple(parts))
