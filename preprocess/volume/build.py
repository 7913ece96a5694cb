"""Building one volume from a series of the catalog."""

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from preprocess.anatomy.profile import Anatomy
from preprocess.config import GridConfig
from preprocess.dicom.catalog import Instance, Series, commonest, texts_of
from preprocess.dicom.decode import AIR_HU, Decoder, Slice, source_digest
from preprocess.dicom.equipment import vendor
from preprocess.dicom.geometry import Stack, missing_slices, stack
from preprocess.reasons import Reason, Rejection
from preprocess.select.contrast import any_contrast
from preprocess.select.kernels import common_sharpness
from preprocess.select.lexicon import Lexicon
from preprocess.select.rules import SelectConfig
from preprocess.select.series import SEVERAL_SCANS, Selected, require_stack
from preprocess.select.series import select as select_series
from preprocess.volume.crop import find_head
from preprocess.volume.levels import off_scale
from preprocess.volume.measure import Measures, measure
from preprocess.volume.resample import Grid, resample
from preprocess.volume.slices import VolumeDecoder, is_volume_file
from shards.buffers import Buffers
from shards.schema import DecodeFacts
from shards.voxels import MAX_VOXELS

_SLICES = Buffers(1)
_KEPT_BYTES = 2**28
"""Largest stack of slices whose memory a process keeps for its next series: 512 of 512²."""


@dataclass(frozen=True)
class Volume:
    """A head on the canonical grid."""

    voxels: np.ndarray
    """int16 HU, axes (D, H, W) growing towards superior, anterior, right."""
    affine: np.ndarray
    """float64 (4, 4): (d, h, w, 1) to patient LPS mm, at voxel centres."""
    facts: DecodeFacts
    source_digest: str
    """SHA-256 over the used slices in geometric order: stored pixel values, rescale and geometry."""
    measures: Measures
    dropped: tuple[tuple[Reason, int], ...]
    """Number of left-out slices of the series by reason, in the order of `Reason`."""
    enhanced_by_header: bool | None = None
    """Whether the texts of its images state a contrast agent; None if they state neither."""
    flags: tuple[Reason, ...] = ()
    """Findings of the checks (preprocess.qc.check), once they have run."""


def build_volume(
    series: Series, grid: GridConfig, select: SelectConfig, selected: Selected | None = None
) -> Volume:
    """Select, decode, order by position, rescale to HU, resample to `grid` and crop to the head.

    Slices that cannot be decoded, copies, and retaken slices are left out and counted, if the remaining ones
    still pass `select`. Gaps of missing slices up to `select.max_slice_gap_mm` are interpolated and counted
    as missing_slices.

    selected: what `select` keeps of it, if that is known. Raises Rejection if the series is damaged or is not
    a head CT that `select` accepts, and FmctError if a file cannot be read.
    """
    decoded = _decode(selected or select_series(series, select))
    slices = _require_whole(decoded, select)
    missing = int(missing_slices(slices.gaps).sum())
    if missing:
        decoded.dropped[Reason.MISSING_SLICES] += missing
    voxels, target, measures = to_grid(decoded.hu, slices, grid, select.profile)
    return Volume(
        voxels=voxels,
        affine=target.affine,
        facts=_facts(series, decoded.instances, slices, select.lexicon),
        source_digest=source_digest(
            decoded.digests,
            slices.positions,
            slices.column_step.tolist(),
            slices.row_step.tolist(),
            slices.spacing,
        ),
        measures=measures,
        enhanced_by_header=any_contrast(texts_of(decoded.instances), select.lexicon),
        dropped=tuple((reason, decoded.dropped[reason]) for reason in Reason if decoded.dropped[reason]),
    )


def to_grid(
    hu: np.ndarray, slices: Stack, grid: GridConfig, anatomy: Anatomy
) -> tuple[np.ndarray, Grid, Measures]:
    """Locate `anatomy` in slices, int16 HU (N, rows, columns), and resample it to `grid`, cropped.

    Returns int16 HU (D, H, W), its grid, and its measures. Raises Rejection if there is no head, or if it
    takes more voxels than a shard can hold.
    """
    head = find_head(hu, slices, grid.air_threshold_hu, anatomy)
    target = head.box(grid.spacing_mm, grid.crop_margin_mm)
    if math.prod(target.shape) > MAX_VOXELS:
        raise Rejection(Reason.COVERAGE_TOO_LARGE, f"a grid of {target.shape} voxels, more than {MAX_VOXELS}")
    voxels = resample(hu, slices, target, AIR_HU)
    return voxels, target, measure(hu, slices, head, voxels, target, anatomy)


@dataclass
class _Decoded:
    """One decoded image per position, in geometric order, and the left-out ones."""

    hu: np.ndarray
    """int16 (N, rows, columns)."""
    instances: list[Instance]
    digests: list[bytes]
    dropped: Counter[Reason]
    details: dict[Reason, str]
    """Detail of the first left-out image of each reason."""


def _decode(selected: Selected) -> _Decoded:
    decoding = VolumeDecoder if is_volume_file(selected.positions[0][0]) else Decoder
    with decoding() as decoder:
        decoded, retaken = _decode_all(selected, decoder)
        if decoder.is_outdated:
            del decoded  # its memory is used again
            decoded, retaken = _decode_all(selected, decoder)
    if retaken > SEVERAL_SCANS * len(selected.positions):
        raise Rejection(
            Reason.REPEATED_POSITIONS,
            f"{retaken} of {len(selected.positions)} positions hold different images",
        )
    decoded.hu = decoded.hu[: len(decoded.instances)]
    if len(decoded.instances) > 2:
        _leave_out_off_scale(decoded)
    return decoded


def _decode_all(selected: Selected, decoder: Decoder | VolumeDecoder) -> tuple[_Decoded, int]:
    """The decoded slices, and the number of positions with different images."""
    decoded = _Decoded(np.empty((0, 0, 0), np.int16), [], [], Counter(selected.dropped), {})
    retaken = 0
    usual = commonest(image.thickness for group in selected.positions for image in group)
    for group in selected.positions:
        distinct: dict[bytes, tuple[Instance, Slice]] = {}
        # A technologist repeats a slice because the first was bad, so the last one is kept. One of another
        # thickness is of another reconstruction.
        order = sorted(group, key=lambda i: (i.thickness == usual, _acquisition_time(i)), reverse=True)
        for instance in order:
            at = len(decoded.instances)
            place = decoded.hu[at] if at and not distinct else None
            try:
                one = decoder.decode(instance, place)
            except Rejection as rejection:
                decoded.dropped[rejection.reason] += 1
                decoded.details.setdefault(rejection.reason, rejection.detail)
                continue
            same_hu = any(np.array_equal(one.hu, kept.hu) for _, kept in distinct.values())
            if same_hu or one.digest in distinct:  # the digest leaves out Pixel Padding Value
                decoded.dropped[Reason.DUPLICATE_SLICE] += 1
                continue
            distinct[one.digest] = instance, one
        if not distinct:
            continue
        instance, one = next(iter(distinct.values()))
        if not decoded.instances:
            decoded.hu = _room((len(selected.positions), *one.hu.shape))
        place = decoded.hu[len(decoded.instances)]
        if not np.may_share_memory(place, one.hu):
            place[...] = one.hu
        decoded.instances.append(instance)
        decoded.digests.append(one.digest)
        retaken += len(distinct) > 1
        decoded.dropped[Reason.RETAKEN_SLICE] += len(distinct) - 1
    return decoded, retaken


def _room(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised int16 array for slices, in memory of an earlier series if possible."""
    if 2 * math.prod(shape) <= _KEPT_BYTES:
        return _SLICES.take(shape, np.int16)
    _SLICES.clear()
    return np.empty(shape, np.int16)


def _leave_out_off_scale(decoded: _Decoded) -> None:
    offsets = off_scale(decoded.hu)
    off = np.flatnonzero(offsets)
    if off.size:
        decoded.hu = decoded.hu[offsets == 0]
        for index in off[::-1]:
            del decoded.instances[index], decoded.digests[index]
        decoded.dropped[Reason.NOT_HOUNSFIELD] += off.size
        detail = f"{abs(offsets[off[0]]):.0f} HU off the other slices"
        decoded.details.setdefault(Reason.NOT_HOUNSFIELD, detail)


def _acquisition_time(instance: Instance) -> tuple[int, int, int, str, str]:
    """Sort key of instances by acquisition time."""
    return (
        instance.acquisition_number or 0,
        instance.instance_number or 0,
        instance.frame,
        instance.sop_uid,
        str(instance.path),
    )


_LOST = (
    Reason.TRUNCATED_PIXEL_DATA,
    Reason.UNDECODABLE_PIXEL_DATA,
    Reason.NOT_GRAYSCALE,
    Reason.BURNED_IN_TEXT,
    Reason.NOT_HOUNSFIELD,
    Reason.INCONSISTENT_GEOMETRY,
    Reason.DAMAGED_ARCHIVE,
    Reason.ARCHIVE_BOMB,
    Reason.BROKEN_HEADER,
)


def _require_whole(decoded: _Decoded, select: SelectConfig) -> Stack:
    """The stack of the decoded slices; if too few are left, raises the reason of the loss."""
    lost = max(_LOST, key=lambda reason: decoded.dropped[reason])
    try:
        if len(decoded.instances) < 2:
            raise Rejection(Reason.TOO_FEW_SLICES, f"{len(decoded.instances)} decoded slices")
        slices = stack(decoded.instances)
        require_stack(slices, select)
    except Rejection as rejection:
        if not decoded.dropped[lost]:
            raise
        first = f" ({decoded.details[lost]})" if lost in decoded.details else ""
        detail = f"{decoded.dropped[lost]} slices{first}; without them {rejection.reason}: {rejection.detail}"
        raise Rejection(lost, detail) from None
    return slices


def _facts(series: Series, instances: list[Instance], slices: Stack, lexicon: Lexicon) -> DecodeFacts:
    used = replace(series, instances=tuple(instances))
    thickness = [i.thickness for i in instances if i.thickness]
    gaps = slices.gaps
    return DecodeFacts(
        kernel_class=common_sharpness(instances, lexicon),
        kvp=used.kvp or None,
        slice_thickness_mm=float(np.median(thickness)) if thickness else None,
        gantry_tilt_deg=slices.tilt_deg,
        slices=len(instances),
        slice_gap_mm=(float(gaps.min()), float(gaps.max())),
        matrix=slices.matrix,
        pixel_spacing_mm=slices.spacing,
        manufacturer=vendor(used.texts.manufacturer),
        transfer_syntax=instances[0].transfer_syntax,
    )
