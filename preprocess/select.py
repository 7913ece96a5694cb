"""Which series become volumes, by header facts alone."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from preprocess.catalog import Instance, Series
from preprocess.config import SelectConfig
from preprocess.geometry import (
    SAME_POSITION_MM,
    Stack,
    by_position,
    has_geometry,
    is_axial,
    missing_slices,
    parallel,
    stack,
)
from preprocess.kernels import kernel_class
from preprocess.reasons import Reason, Rejection

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""SOP class Secondary Capture Image Storage; its multi-frame kinds append one number."""
DOSE_REPORT = "1.2.840.10008.5.1.4.1.1.88.67"
"""SOP class X-Ray Radiation Dose SR Storage."""

# Image Type (0008,0008) values from the third on, where vendors name what they made.
_LOCALIZER_WORDS = ("LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW")
_DOSE_WORDS = ("DOSE", "PATIENT_INFO", "PROT")
_CAPTURE_WORDS = ("SCREEN SAVE", "SCREENSHOT", "CAPTURE")
_DERIVED_WORDS = (
    *("MPR", "REFORMAT", "MIP", "MINIP", "PROJECTION IMAGE", "VRT", "VOLUME RENDER", "SSD", "3D", "SUBTRACT"),
    *("PERFUSION", "MOSAIC", "AVERAGE", "COLOR"),
)
REPEATS_OF_A_SERIES_IN_TIME = 3
"""Different images at most positions, this many or more: a perfusion or monitoring series."""


@dataclass(frozen=True)
class Selected:
    """The instances that selection keeps."""

    positions: tuple[tuple[Instance, ...], ...]
    """In geometric order; several instances at one position are copies or retakes."""
    dropped: Counter[Reason]
    """Instances left out, by reason."""


def select(series: Series, config: SelectConfig) -> Selected:
    """Decide from header facts whether `series` becomes a volume, and from which instances.

    Raises Rejection with the rule that decided. An instance that fails a rule on its own (a localizer
    in an axial series) is left out and counted; the series is rejected where none is left.
    """
    kept, dropped = _usable(series, config)
    kept, stray = parallel(kept)
    if stray:
        dropped[Reason.INCONSISTENT_GEOMETRY] += stray
    groups = by_position(kept)
    repeated = sum(
        len({(i.sop_uid, i.frame) for i in group}) >= REPEATS_OF_A_SERIES_IN_TIME for group in groups
    )
    if 2 * repeated > len(groups):
        raise Rejection(Reason.REPEATED_POSITIONS, f"{repeated} of {len(groups)} positions repeat in time")
    require_stack(stack([group[0] for group in groups]), config)
    return Selected(tuple(map(tuple, groups)), dropped)


def require_stack(slices: Stack, config: SelectConfig) -> None:
    """Raise Rejection unless the slices are enough, near enough to one another and cover enough."""
    count = len(slices.positions)
    if count < config.min_slices:
        raise Rejection(Reason.TOO_FEW_SLICES, f"{count} positions, fewer than {config.min_slices}")
    gaps = slices.gaps
    widest = int(np.argmax(gaps))
    if gaps[widest] > config.max_slice_gap_mm + SAME_POSITION_MM:
        absent = missing_slices(gaps)[widest]
        reason = Reason.MISSING_SLICES if absent else Reason.SLICE_GAP
        detail = f"a gap of {gaps[widest]:.2f} mm, more than {config.max_slice_gap_mm:g}"
        raise Rejection(reason, detail + (f": {absent} slices absent" if absent else ""))
    # A slice stands for the slab around it, so the ends count half a gap each.
    coverage = float(gaps.sum() + np.median(gaps))
    if coverage < config.min_coverage_mm:
        raise Rejection(Reason.COVERAGE_TOO_SMALL, f"{coverage:.1f} mm, less than {config.min_coverage_mm:g}")


def _usable(series: Series, config: SelectConfig) -> tuple[list[Instance], Counter[Reason]]:
    """The instances that pass each rule in turn; raises the rule's Rejection where none does."""
    if series.modality != "CT":
        dose = all(i.sop_class == DOSE_REPORT for i in series.instances)
        raise Rejection(Reason.DOSE_REPORT if dose else Reason.NOT_CT, f"{len(series.instances)} instances")
    rules: tuple[Callable[[Instance, SelectConfig], Reason | None], ...]
    rules = (_kind, _acquisition, _placement)
    kept, dropped = list(series.instances), Counter[Reason]()
    for rule in rules:
        verdicts = [rule(instance, config) for instance in kept]
        failed = Counter(verdict for verdict in verdicts if verdict)
        kept = [instance for instance, verdict in zip(kept, verdicts, strict=True) if not verdict]
        if not kept:
            reason, count = min(failed.items(), key=lambda item: (-item[1], item[0]))
            raise Rejection(reason, f"{count} of {len(series.instances)} instances")
        dropped += failed
    return kept, dropped


def _kind(instance: Instance, config: SelectConfig) -> Reason | None:
    """What kind of image it is, by SOP class and Image Type (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1)."""
    values = instance.image_type
    extra = " ".join(values[2:])
    if _any(_DOSE_WORDS, extra):
        return Reason.DOSE_REPORT
    if instance.sop_class.startswith(SECONDARY_CAPTURE) or _any(_CAPTURE_WORDS, extra):
        return Reason.SECONDARY_CAPTURE
    if instance.samples not in (None, 1):
        return Reason.NOT_GRAYSCALE
    if _any(_LOCALIZER_WORDS, extra):
        return Reason.LOCALIZER
    # DERIVED\PRIMARY alone is an axial image after filtering or lossy compression.
    if values[:2] == ("DERIVED", "SECONDARY") or _any(_DERIVED_WORDS, extra):
        return Reason.DERIVED
    return None


def _any(words: tuple[str, ...], text: str) -> bool:
    return any(word in text for word in words)


_KERNEL_REASONS = {
    "bone": Reason.BONE_KERNEL,
    "soft": Reason.SOFT_KERNEL,
    "unknown": Reason.UNKNOWN_KERNEL,
}


def _acquisition(instance: Instance, config: SelectConfig) -> Reason | None:
    low, high = config.kvp_range
    if instance.kvp is not None and not low <= instance.kvp <= high:
        return Reason.KVP_OUT_OF_RANGE
    kind = kernel_class(instance.kernel)
    return None if kind in config.kernels else _KERNEL_REASONS[kind]


def _placement(instance: Instance, config: SelectConfig) -> Reason | None:
    if not has_geometry(instance):
        return Reason.MISSING_GEOMETRY
    try:
        return None if is_axial(instance, config.max_obliquity_deg) else Reason.NOT_AXIAL
    except Rejection as rejection:
        return rejection.reason
