"""Multi-frame objects: facts of each frame from functional groups or from a common spacing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom import Dataset

from preprocess.dicom.geometry import axes
from preprocess.reasons import Reason, Rejection

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
MAX_FRAMES = 2**15
"""100 passes of a 320-row detector; a greater Number of Frames is damaged."""

MIN_FRAME_BYTES = 8
"""Least bytes of a frame in its file, deflated or not: the head of an item of encapsulated pixel data."""

_MACROS: dict[str, tuple[str, ...]] = {
    # PS3.3 C.7.6.16.2: the macros of all modalities.
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "FrameContentSequence": ("FrameAcquisitionNumber",),
    "FrameAnatomySequence": ("AnatomicRegionSequence",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    # C.8.15.3: those of CT.
    "CTImageFrameTypeSequence": ("FrameType",),
    "CTAcquisitionDetailsSequence": ("GantryDetectorTilt",),
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "CTXRayDetailsSequence": ("KVP",),
    # C.7.6.16.2.25: attributes that a converter from classic images found no macro for.
    "UnassignedSharedConvertedAttributesSequence": ("ConvolutionKernel", "KVP", "GantryDetectorTilt"),
    "UnassignedPerFrameConvertedAttributesSequence": ("ConvolutionKernel", "KVP", "GantryDetectorTilt"),
}


def has_functional_groups(data: Dataset) -> bool:
    """Whether the object describes its frames by functional groups (PS3.3 C.7.6.16)."""
    return PER_FRAME in data or SHARED in data


def frame_count(data: Dataset, size: int) -> int:
    """Number of Frames (0028,0008), 1 if missing, of an object of `size` bytes.

    Raises Rejection(broken_header) for an impossible number, or if the functional groups have another number.
    """
    count = int(data.get("NumberOfFrames") or 1)
    if not 1 <= count <= min(MAX_FRAMES, max(size // MIN_FRAME_BYTES, 1)):
        raise Rejection(Reason.BROKEN_HEADER, f"Number of Frames is {count}")
    groups = len(data.get(PER_FRAME) or ())
    if has_functional_groups(data) and groups not in (0, count):
        raise Rejection(Reason.BROKEN_HEADER, f"{groups} functional groups for {count} frames")
    return count


def frame_attributes(data: Dataset, frame: int) -> Dataset:
    """The attributes of frame `frame` (from 0) in functional groups, as one flat data set.

    A per-frame group takes precedence over the shared one (PS3.3 C.7.6.16.1.1). Empty without them.
    """
    flat = Dataset()
    implicit, little = data.original_encoding
    flat.set_original_encoding(implicit, little, data.original_character_set)
    for groups, index in ((data.get(SHARED), 0), (data.get(PER_FRAME), frame)):
        group = _item(groups, index)
        for sequence, keywords in _MACROS.items():
            macro = _item(group.get(sequence), 0)
            for keyword in keywords:
                if (element := macro.get_item(keyword)) is not None:
                    flat[keyword] = element
    return flat


def _item(sequence: Any, index: int) -> Dataset:
    return sequence[index] if sequence and index < len(sequence) else Dataset()


def frame_position(
    first: Sequence[float] | None, orientation: Sequence[float] | None, step: float | None, frame: int
) -> list[float] | None:
    """Image Position of a frame of a classic multi-frame image, LPS mm; None if unknown.

    Such an image has one position, of the first frame; the others follow along the slice normal at distances
    of `step`, Spacing Between Slices (0018,0088), with its sign (PS3.3 C.8.4.15). Slice Thickness cannot
    replace it: slices may overlap or have gaps.
    """
    if frame == 0 or not first:
        return None if first is None else list(first)
    if not orientation or not step:
        return None
    try:
        normal = axes(tuple(orientation))[2]
    except Rejection:
        return None
    return (np.asarray(first) + frame * step * normal).tolist()
