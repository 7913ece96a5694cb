"""Slice positions in the patient: pure functions of header geometry, with named tolerances.

Everything is in patient coordinates (LPS, mm; DICOM PS3.3 C.7.6.2.1.1). File names, instance numbers and
Slice Location are not used.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from preprocess.dicom.catalog import Instance
from preprocess.reasons import Reason, Rejection

SAME_ORIENTATION_DEG = 0.5
"""Slices whose axes differ by less are parallel (headers round cosines to 3 to 6 digits)."""
SAME_SPACING = 1e-3
"""Relative difference of pixel spacings that count as equal."""
SAME_POSITION_MM = 0.01
"""Slices closer than this are at the same position: scanners have larger steps."""
AXIAL_DEG = 45.0
"""Slices whose normal is nearer to the patient's long axis are axial; gantries tilt by at most 30."""
FARTHEST_MM = 10_000.0
"""No scan extends this far from its origin; a larger value is damaged."""
WIDEST_MM = 1_000.0
"""No bore, and so no image, is this wide (0.5 to 0.9 m); a wrong decimal in Pixel Spacing gives metres."""
LARGEST_MATRIX = 4096
"""Scanners reconstruct up to 2048 pixels per side."""
MAX_PIXELS = 2**30
"""Most pixels of a stack: 1,024 slices of 1024². A worker holds two bytes of each, and four more for a
rotated stack; a damaged header could declare any number."""
UNIT_LENGTH = 1e-2
"""Tolerance of direction cosines from unit length and right angles."""
REGULAR_GAP = 0.1
"""A gap within this fraction of a multiple of the usual spacing is that multiple."""
MIN_ROUNDED = 8
"""Least number of slices that prove rounded positions."""
ROUNDING_MM = 0.7
"""Half a millimetre, plus the effect of rounding on the fitted line."""
STRAY_SLICES = 0.1
"""Fraction of a series' slices that may have another geometry and be left out."""


@dataclass(frozen=True)
class Stack:
    """Parallel slices in geometric order, one per position."""

    column_step: np.ndarray
    """Unit vector along a row, towards growing column index (first triple of Image Orientation)."""
    row_step: np.ndarray
    """Unit vector along a column, towards growing row index (second triple)."""
    normal: np.ndarray
    """column_step × row_step; slices are ordered along it."""
    positions: np.ndarray
    """float64 (N, 3): centre of each slice's first pixel."""
    heights: np.ndarray
    """float64 (N,), ascending: the positions' projection on the normal, mm."""
    spacing: tuple[float, float]
    """Distance between rows and between columns, mm."""
    matrix: tuple[int, int]
    """Rows and columns."""

    @cached_property
    def travel(self) -> np.ndarray:
        """Unit vector between slices: the median step, so that a single sideways shift has no effect."""
        steps = np.diff(self.positions, axis=0) / np.diff(self.heights)[:, None]
        travel = np.median(steps, axis=0)
        return travel / np.linalg.norm(travel)

    @property
    def tilt_deg(self) -> float:
        """Angle between the normal and the direction of travel; positive by the right-hand rule about +x."""
        axis = np.cross(self.travel, self.normal)
        angle = np.degrees(np.arctan2(np.linalg.norm(axis), self.travel @ self.normal))
        return float(-angle if axis[0] > 0 else angle)

    @property
    def gaps(self) -> np.ndarray:
        """float64 (N - 1,): distances of neighbours along the direction of travel, mm."""
        return np.diff(self.heights) / (self.travel @ self.normal)

    @property
    def obliquity_deg(self) -> float:
        """Angle between the normal and the patient's long axis: 0 axial, 90 coronal or sagittal."""
        return float(np.degrees(np.arccos(min(abs(self.normal[2]), 1.0))))


@lru_cache(maxsize=4096)
def axes(orientation: tuple[float, ...]) -> np.ndarray:
    """(3, 3) unit row vectors (column_step, row_step, normal) of Image Orientation (Patient).

    Raises Rejection(invalid_geometry) if the cosines are not perpendicular unit vectors.
    """
    across, down = np.asarray(orientation, float).reshape(2, 3)
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if not np.allclose(lengths, 1, atol=UNIT_LENGTH) or abs(across @ down) > UNIT_LENGTH:
        raise Rejection(Reason.INVALID_GEOMETRY, "Image Orientation is not two perpendicular unit vectors")
    normal = np.cross(across, down)
    normal /= np.linalg.norm(normal)
    across = across / lengths[0]
    # + 0.0 turns -0.0 (equal to 0.0 for this cache) into 0.0, so that no digest depends on which came first.
    result = np.stack([across, np.cross(normal, across), normal]) + 0.0
    result.setflags(write=False)
    return result


def has_geometry(instance: Instance) -> bool:
    """Whether the header places this image in the patient (position, orientation, spacing, matrix)."""
    return (
        all((instance.position, instance.orientation, instance.pixel_spacing))
        and min(instance.pixel_spacing or (0.0,)) > 0
        and min(instance.rows or 0, instance.columns or 0) > 0
    )


def lacking(instance: Instance) -> str:
    """Why an image has no position (`has_geometry`): the attribute, its state, and the remedy."""
    for name, value, count in (
        ("Image Position (Patient) (0020,0032)", instance.position, 3),
        ("Image Orientation (Patient) (0020,0037)", instance.orientation, 6),
        ("Pixel Spacing (0028,0030)", instance.pixel_spacing, 2),
        ("Rows and Columns (0028,0010)", instance.rows and instance.columns and (1.0,), 2),
    ):
        if not value:
            problem = "missing" if value is None else f"malformed, not {count} numbers"
            frames = " or not given for each frame" if value is None and instance.frames > 1 else ""
            return f"{name} is {problem}{frames}: export the images with it"
    return "Pixel Spacing (0028,0030) is not above 0: export the images with it"


def is_within_reach(instance: Instance) -> bool:
    """Whether a scanner could produce this position, matrix and field of view."""
    matrix = instance.rows or 0, instance.columns or 0
    edges = zip(matrix, instance.pixel_spacing or (0.0, 0.0), strict=True)
    return (
        all(abs(x) <= FARTHEST_MM for x in instance.position or ())
        and max(matrix) <= LARGEST_MATRIX
        and all(pixels * mm <= WIDEST_MM for pixels, mm in edges)
    )


def is_axial(instance: Instance, max_obliquity_deg: float) -> bool:
    """Whether the slice's normal is within `max_obliquity_deg` of the patient's long axis."""
    normal = axes(instance.orientation or ())[2]
    return abs(normal[2]) >= np.cos(np.radians(max_obliquity_deg)) - 1e-9


def parallel(instances: Sequence[Instance]) -> tuple[list[Instance], int]:
    """The instances of the commonest geometry (space, orientation, spacing, matrix), and how many others.

    Raises Rejection(inconsistent_geometry) if more than `STRAY_SLICES` of them are not.
    """
    # De-identified archives give each image a separate frame of reference (LIDC-IDRI); that is ignored.
    distinguishes = len({i.frame_of_reference_uid for i in instances}) < len({i.sop_uid for i in instances})
    spaces = [i.frame_of_reference_uid if distinguishes else "" for i in instances]
    keys = Counter(map(_geometry, instances, spaces))
    reference = max(keys, key=lambda key: (keys[key], str(key)))
    kept = [i for i, space in zip(instances, spaces, strict=True) if _is_same(_geometry(i, space), reference)]
    stray = len(instances) - len(kept)
    if stray > STRAY_SLICES * len(instances):
        raise Rejection(
            Reason.INCONSISTENT_GEOMETRY,
            f"{stray} of {len(instances)} slices differ in frame of reference, orientation, pixel spacing or "
            "matrix",
        )
    return kept, stray


_Geometry = tuple[tuple[str, int | None, int | None], tuple[float, ...], tuple[float, ...]]


def _geometry(instance: Instance, space: str) -> _Geometry:
    """The common geometry of a stack's slices; positions in different frames of reference are unrelated."""
    exact = space, instance.rows, instance.columns
    return exact, instance.orientation or (), instance.pixel_spacing or ()


def _is_same(one: _Geometry, other: _Geometry) -> bool:
    if one == other:
        return True
    if one[0] != other[0] or not np.allclose(one[2], other[2], rtol=SAME_SPACING):
        return False
    cosines = np.sum(axes(one[1]) * axes(other[1]), axis=1)
    return bool(np.all(cosines >= np.cos(np.radians(SAME_ORIENTATION_DEG))))


def in_line(instances: Sequence[Instance]) -> tuple[list[Instance], int]:
    """The parallel instances that follow one another, and how many lie beside them, half a field away.

    Raises Rejection(inconsistent_geometry) if more than `STRAY_SLICES` of them do.
    """
    slices = stack([group[0] for group in by_position(instances)])
    if len(slices.positions) < 3:
        return list(instances), 0
    positions = np.array([i.position for i in instances], float)
    line = slices.travel / (slices.travel @ slices.normal)
    beside = positions - (positions @ slices.normal)[:, None] * line
    beside -= np.median(beside, axis=0)
    field = np.array(slices.matrix) * slices.spacing
    away = np.abs(beside @ np.transpose([slices.row_step, slices.column_step])) > field / 2
    kept = [i for i, stray in zip(instances, away.any(axis=1), strict=True) if not stray]
    stray = len(instances) - len(kept)
    if stray > STRAY_SLICES * len(instances):
        detail = f"{stray} of {len(instances)} slices lie beside the others by more than half of their field"
        raise Rejection(Reason.INCONSISTENT_GEOMETRY, detail)
    return kept, stray


def by_position(instances: Sequence[Instance]) -> list[list[Instance]]:
    """Group parallel instances by position along the normal, in geometric order."""
    normal = axes(instances[0].orientation or ())[2]
    heights = np.array([i.position for i in instances]) @ normal
    groups: list[list[Instance]] = []
    last = -np.inf
    for index in np.argsort(heights, kind="stable"):
        if heights[index] - last > SAME_POSITION_MM:
            groups.append([])
            last = heights[index]
        groups[-1].append(instances[index])
    return groups


def stack(instances: Sequence[Instance]) -> Stack:
    """The stack of parallel instances at distinct positions, given in geometric order."""
    column_step, row_step, normal = axes(instances[0].orientation or ())
    positions = _unrounded(np.array([i.position for i in instances], float))
    spacing = instances[0].pixel_spacing or (0.0, 0.0)
    return Stack(
        column_step=column_step,
        row_step=row_step,
        normal=normal,
        positions=positions,
        heights=positions @ normal,
        spacing=(spacing[0], spacing[1]),
        matrix=(instances[0].rows or 0, instances[0].columns or 0),
    )


def _unrounded(positions: np.ndarray) -> np.ndarray:
    """Positions, float64 (N, 3), with equal steps if they were rounded to whole millimetres; else unchanged.

    Rounding writers give a step of 2.5 mm as 2 and 3 alternately. Proven if every coordinate is whole, steps
    differ by at most one, and one straight line passes within `ROUNDING_MM` of all.
    """
    steps = np.diff(positions, axis=0)
    whole = len(positions) >= MIN_ROUNDED and not np.mod(positions, 1).any()
    if not whole or np.ptp(steps, axis=0).max() != 1:
        return positions
    index = np.arange(len(positions))
    slope, start = np.polyfit(index, positions, 1)
    line = start + index[:, None] * slope
    return line if np.abs(line - positions).max() <= ROUNDING_MM else positions


def missing_slices(gaps: np.ndarray) -> np.ndarray:
    """int (len(gaps),): the number of missing slices in each gap.

    Slices are missing if a gap is about a whole multiple of the spacing on both sides. Slabs of different
    regular spacing have no missing slices: their gaps have an equal one on one side.
    """
    missing = np.zeros(len(gaps), int)
    for index, gap in enumerate(gaps):
        beside = [gaps[j] for j in (index - 1, index + 1) if 0 <= j < len(gaps)]
        if not beside or max(beside) - min(beside) > REGULAR_GAP * min(beside):
            continue
        usual = float(np.mean(beside))
        multiple = round(gap / usual)
        if multiple >= 2 and abs(gap - multiple * usual) <= REGULAR_GAP * usual:
            missing[index] = multiple - 1
    return missing
