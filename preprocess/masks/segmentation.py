"""DICOM Segmentation and Label Map Segmentation objects (PS3.3 A.51, A.51.3), read by highdicom.

Segments may overlap: each has separate frames in a BINARY or FRACTIONAL object, and so a separate bit here.
Frames are placed by Plane Position and Plane Orientation (PS3.3 C.7.6.16.2.3, .4), also for a tilted gantry.
A FRACTIONAL frame holds a segment where its value is at least half of Maximum Fractional Value. Segment
labels and descriptions are free text; only codes are read.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocess.dicom.geometry import MAX_PIXELS, SAME_POSITION_MM, SAME_SPACING, Stack, axes
from preprocess.masks.classes import Classes
from preprocess.masks.planes import Planes, padded
from preprocess.reasons import Reason, Rejection
from shards.errors import FmctError, raise_refusal


def is_dicom(path: Path) -> bool:
    """Whether the file has the prefix of PS3.10 section 7.1."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise_refusal(error, path)
        raise Rejection(Reason.MISSING_FILE, "no such file; correct its path") from None


def read_segmentation(path: Path, classes: Classes, of_class: int | None) -> tuple[Planes, str]:
    """The segments of an object as planes, and its Study Instance UID (`preprocess.masks.files.read_planes`).

    A segment is identified by its number, else by its type (scheme:value of the code, Segmented Property
    Type). Raises FmctError if highdicom is not installed.
    """
    try:
        from highdicom.seg import segread
    except ImportError:
        raise FmctError("DICOM Segmentation objects require highdicom: pip install 'fmct-hpc[seg]'") from None
    try:
        read = segread(path)
        return _planes(read, _bits_of(read, classes, of_class)), str(read.StudyInstanceUID)
    except (
        ValueError,
        AttributeError,
        TypeError,
        KeyError,
        IndexError,
        RuntimeError,
        OSError,
        EOFError,
    ) as error:
        raise_refusal(error, path)
        raise Rejection(
            Reason.UNSUPPORTED_FORMAT, f"not a readable DICOM Segmentation object ({type(error).__name__})"
        ) from None


def _bits_of(read: Any, classes: Classes, of_class: int | None) -> dict[int, int]:
    """The bit of each segment, by segment number."""
    bits = {}
    for number in map(int, read.segment_numbers):
        if number == 0 and _is_label_map(read):  # the background of a label map
            continue
        kind = read.get_segment_description(number).segmented_property_type
        names = (str(number), f"{kind.scheme_designator}:{kind.value}")
        known = [one for one in names if one in classes.values]
        if of_class is None and not known:
            raise Rejection(
                Reason.UNLISTED_CLASS,
                f"segment {number} belongs to no class; assign its number or code with --class",
            )
        bits[number] = 1 << (of_class if of_class is not None else classes.values[known[0]])
    return bits


def _is_label_map(read: Any) -> bool:
    return str(read.SegmentationType) == "LABELMAP"


def _planes(read: Any, bits: dict[int, int]) -> Planes:
    count, rows, columns = int(read.NumberOfFrames), int(read.Rows), int(read.Columns)
    groups = len(read.PerFrameFunctionalGroupsSequence)
    if groups != count:  # frames beyond a smaller number would be lost
        raise Rejection(Reason.BROKEN_HEADER, f"{groups} functional groups for {count} frames")
    if count * rows * columns > MAX_PIXELS:
        raise Rejection(Reason.TOO_MANY_SLICES, f"{count} frames of {rows} by {columns} pixels")
    across, down, normal = axes(_orientation(read))
    spacing, step_mm = _spacing(read)
    places = np.array([_position(read, number) for number in range(count)], np.float64)
    if not np.isfinite(places).all():
        raise Rejection(Reason.INVALID_GEOMETRY, "a plane position is not a number")
    heights = places @ normal
    order = np.argsort(heights, kind="stable")
    starts = np.flatnonzero(np.diff(heights[order], prepend=-math.inf) > SAME_POSITION_MM)
    group = np.empty(count, np.int64)
    group[order] = np.cumsum(np.isin(np.arange(count), starts)) - 1
    positions = places[order[starts]]
    held = np.zeros((len(positions), rows, columns), np.int16)
    drawn = set()
    for number in range(count):
        segment = _segment(read, number)
        if (place := (group[number], segment)) in drawn:  # of several times or phases
            raise Rejection(Reason.REPEATED_POSITIONS, "two frames of one segment are at one position")
        drawn.add(place)
        _add(held[group[number]], np.asarray(read.get_stored_frame(number + 1)), segment, read, bits)
    slices = Stack(
        column_step=across,
        row_step=down,
        normal=normal,
        positions=positions,
        heights=positions @ normal,
        spacing=spacing,
        matrix=(rows, columns),
    )
    return padded(held, slices, _step(slices, step_mm))


def _add(
    plane: NDArray[np.int16], frame: NDArray[Any], segment: int | None, read: Any, bits: dict[int, int]
) -> None:
    """Add a frame's segments to a plane."""
    if segment is None:
        for value in np.unique(frame):
            if value:
                plane[frame == value] |= bits[int(value)]
        return
    fractional = str(read.SegmentationType) == "FRACTIONAL"
    threshold = int(read.MaximumFractionalValue) / 2 if fractional else 1
    plane[frame >= threshold] |= bits[segment]


def _step(slices: Stack, stated_mm: float | None) -> NDArray[np.float64]:
    """The step between slices: the least step of the stored ones, or the stated one if smaller."""
    if len(slices.positions) > 1:
        narrowest = int(np.argmin(np.diff(slices.heights)))
        step = slices.positions[narrowest + 1] - slices.positions[narrowest]
        gap = float(np.diff(slices.heights)[narrowest])
        # All stored slices may be far apart; the stated step is then smaller.
        return np.asarray(step if stated_mm is None or gap <= stated_mm * 1.1 else step * (stated_mm / gap))
    if stated_mm is None:
        raise Rejection(Reason.MISSING_GEOMETRY, "one slice without a thickness or spacing")
    return np.asarray(slices.normal * stated_mm)


def _group(read: Any, frame: int, name: str) -> Any:
    """The item of a functional group, per frame or else shared; None without either."""
    for groups in (
        read.PerFrameFunctionalGroupsSequence[frame],
        *read.get("SharedFunctionalGroupsSequence", []),
    ):
        if groups.get(name):
            return groups[name].value[0]
    return None


def _require(read: Any, frame: int, name: str) -> Any:
    group = _group(read, frame, name)
    if group is None:
        raise Rejection(Reason.MISSING_GEOMETRY, f"frames have no {name}; export it with its planes")
    return group


def _orientation(read: Any) -> tuple[float, ...]:
    orientations = {
        tuple(map(float, _require(read, frame, "PlaneOrientationSequence").ImageOrientationPatient))
        for frame in range(int(read.NumberOfFrames))
    }
    first = next(iter(orientations))
    if any(np.abs(np.subtract(one, first)).max() > 1e-3 for one in orientations):
        raise Rejection(Reason.INCONSISTENT_GEOMETRY, "frames of several orientations; export one plane each")
    return first


def _spacing(read: Any) -> tuple[tuple[float, float], float | None]:
    """Pixel Spacing (rows, columns), and Spacing Between Slices, else Slice Thickness, mm."""
    measures = [_require(read, frame, "PixelMeasuresSequence") for frame in range(int(read.NumberOfFrames))]
    spacings = np.array([list(map(float, one.PixelSpacing)) for one in measures])
    if spacings.min() <= 0 or np.ptp(spacings, axis=0).max() > SAME_SPACING * spacings.max():
        raise Rejection(Reason.INCONSISTENT_GEOMETRY, "frames have several pixel spacings, or none")
    stated = measures[0].get("SpacingBetweenSlices") or measures[0].get("SliceThickness")
    row, column = spacings[0].tolist()
    return (row, column), abs(float(stated)) if stated else None


def _position(read: Any, frame: int) -> list[float]:
    return list(map(float, _require(read, frame, "PlanePositionSequence").ImagePositionPatient))


def _segment(read: Any, frame: int) -> int | None:
    """The segment of a frame; None for a label map, whose values give it."""
    if _is_label_map(read):
        return None
    return int(_require(read, frame, "SegmentIdentificationSequence").ReferencedSegmentNumber)
