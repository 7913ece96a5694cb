"""Measures of a volume and of its scan, which show whether it is a plausible head.

They are computed on the coarse grid of the head search or on subsampled slices, in a few milliseconds per
volume. `preprocess.qc.check` compares them with limits.
"""

import numpy as np
from pydantic import Field
from scipy import ndimage

from preprocess.anatomy.neighbours import dilated
from preprocess.anatomy.objects import COARSE_MM
from preprocess.anatomy.profile import Anatomy
from preprocess.dicom.decode import AIR_HU
from preprocess.dicom.geometry import Stack
from preprocess.volume.crop import UNSEEN, Head
from preprocess.volume.resample import Grid
from shards.closed import Closed
from shards.voxels import INDEX_STEPS

AIR_BELOW_HU = -500
"""Halfway between air and soft tissue."""
CLIPPED_AIR = 0.25
"""If a smaller share of the air differs from exactly -1000, the scanner clips it; padding leaves more."""
BLOCK_MM = 5.0
"""Edge of the blocks whose standard deviation is the noise: small enough to exclude grey-white contrast."""
NOISE_SLICES = 5
NOISE_BIN_HU = 0.25
SOFT_HU = (-50.0, 150.0)
"""A block outside this range holds bone, fat or air, whose edges are not noise."""
MIN_BLOCKS = 50
THINNED_MM = 2.0
"""Distance of the pixels used to compare slices."""
PROBES = 4000
"""Number of voxels compared with the source."""
MIRROR_TOLERANCE = 0.001
"""Allowed advantage of a mirrored volume in agreement with the source: rounding in a symmetric phantom."""


class Measures(Closed):
    """The measures of one volume; None if not measurable."""

    head_ml: float = Field(description="volume of the head with the air it encloses, ml")
    head_height_mm: float = Field(description="extent of the head along the patient's axis, mm")
    vertex_share: float = Field(description="head area in the topmost scanned plane / largest head area")
    edge_share: float = Field(description="share of the field's edge that the head touches")
    air_share: float = Field(description="air outside the head / stored box")
    table_share: float = Field(description="what is dense and not head / stored box")
    air_hu: float | None = Field(description="median of the measured air about the head, HU")
    brain_hu: float | None = Field(description="median of what is not air in the depth of the head, HU")
    bone_hu: float = Field(description="99th percentile of the head, HU")
    noise_hu: float | None = Field(description="commonest standard deviation of small soft blocks, HU")
    jump_mm: float | None = Field(description="largest sideways jump of the head between two slices, mm")
    jump_hu: float | None = Field(description="largest jump of the inner head's median between slices, HU")
    agreement: float = Field(description="correlation of voxels with the source where the affine says")


def measure(
    hu: np.ndarray, slices: Stack, head: Head, voxels: np.ndarray, target: Grid, anatomy: Anatomy
) -> Measures:
    """Measure one volume.

    hu: int16 (N, rows, columns) HU of the source slices; voxels: int16 (D, H, W) HU, stored on the grid
    `target`.
    """
    inside = _box(head.grid, target)
    values, mask = head.hu[inside], head.mask[inside]
    seen = values != UNSEEN
    air = (values <= AIR_BELOW_HU) & ~mask & seen
    dense = (values > AIR_BELOW_HU) & ~mask
    planes = np.flatnonzero(mask.any(axis=(1, 2)))
    areas = mask.sum(axis=(1, 2))
    jump_mm, jump_hu = _jumps(hu, slices, anatomy.steady_mm)
    return Measures(
        head_ml=float(mask.sum() * COARSE_MM**3 / 1000),
        head_height_mm=float((planes[-1] - planes[0] + 1) * COARSE_MM),
        vertex_share=float(_top_area(head) / areas.max()),
        edge_share=_edge_share(head, slices, hu),
        air_share=float(air.sum() / max(seen.sum(), 1)),
        table_share=float(dense.sum() / max(seen.sum(), 1)),
        air_hu=_air(values[air]),
        brain_hu=_brain(head, anatomy.deep_mm),
        bone_hu=float(np.percentile(values[mask & seen], 99)),
        noise_hu=_noise(hu, slices),
        jump_mm=jump_mm,
        jump_hu=jump_hu,
        agreement=_agreement(hu, slices, voxels, target.affine),
    )


def _box(coarse: Grid, target: Grid) -> tuple[slice, ...]:
    """The coarse voxels whose centres are in the stored box."""
    first = INDEX_STEPS @ (target.origin - coarse.origin)
    low = np.ceil((first - np.array(target.spacing) / 2) / COARSE_MM - 1e-6).astype(int)
    size = np.array(target.shape) * target.spacing
    high = np.floor((first - np.array(target.spacing) / 2 + size) / COARSE_MM + 1e-6).astype(int)
    return tuple(slice(max(a, 0), b + 1) for a, b in zip(low, high, strict=True))


def _top_area(head: Head) -> int:
    """Voxels of the head on the scan's upper surface: a whole section if the vertex is cut."""
    above = np.ones_like(head.mask)
    above[:-1] = head.hu[1:] == UNSEEN
    return int((head.mask & above).sum())


def _edge_share(head: Head, slices: Stack, hu: np.ndarray) -> float:
    """The share of the field's edge, in planes that show the head, within a coarse voxel of the head."""
    axes = np.stack([slices.row_step, slices.column_step])
    sizes = np.array(slices.matrix) * slices.spacing
    points = np.argwhere(head.mask) @ head.grid.affine[:3, :3].T + head.grid.origin
    heights = points @ slices.normal
    starts = np.stack([np.interp(heights, slices.heights, slices.positions @ axis) for axis in axes], 1)
    # Distance from the field's centre, down and across the slice.
    places = np.abs(points @ axes.T - starts - (sizes - slices.spacing) / 2)
    if _is_circle(hu):
        to_edge = sizes.min() / 2 - np.hypot(*places.T)
        perimeter = np.pi * sizes.min()
    else:
        to_edge = (sizes / 2 - places).min(axis=1)
        perimeter = 2 * sizes.sum()
    planes = head.mask.any(axis=(1, 2)).sum()
    return float(min((to_edge < COARSE_MM).sum() * COARSE_MM / (perimeter * planes), 1))


def _is_circle(hu: np.ndarray) -> bool:
    """Whether nothing is measured beyond the reconstruction circle."""
    corner = max(int(min(hu.shape[1:]) * (1 - 0.5**0.5) / 3), 1)
    corners = hu[:, [0, 0, -1, -1], [0, -1, 0, -1]], hu[:, corner, corner], hu[:, -corner, -corner]
    return all(bool((part == AIR_HU).all()) for part in corners)


def _air(values: np.ndarray) -> float | None:
    """Median of air without values filled in by decoding, unless the scanner clips air to that value."""
    measured = values[values != AIR_HU]
    if measured.size < CLIPPED_AIR * values.size:
        measured = values
    return float(np.median(measured)) if measured.size else None


def _brain(head: Head, deep_mm: float) -> float | None:
    """The scan's borders do not count as surface: tissue that they cut counts as deep."""
    outside = ~head.mask & (head.hu != UNSEEN)
    deep = ~dilated(outside, round(deep_mm / COARSE_MM)) & head.mask
    values = head.hu[deep & (head.hu > AIR_BELOW_HU)]
    return float(np.median(values)) if values.size else None


def _thinned(hu: np.ndarray, slices: Stack) -> tuple[np.ndarray, tuple[float, float]]:
    """Subsampled pixels of every slice, and their distances in mm."""
    steps = [max(1, round(THINNED_MM / spacing)) for spacing in slices.spacing]
    down, across = (spacing * step for spacing, step in zip(slices.spacing, steps, strict=True))
    return hu[:, :: steps[0], :: steps[1]], (down, across)


def _jumps(hu: np.ndarray, slices: Stack, steady_mm: float) -> tuple[float | None, float | None]:
    """Largest jump of the head's outline (mm) and of its inner median (HU) between slices.

    The position of the outline is its centre of mass with equal weights from soft tissue upwards, so that
    blood and bone do not affect it.
    """
    thin, (down, across) = _thinned(hu, slices)
    mass = np.clip(thin, -1000, 0).astype(np.float32) + 1000
    weights = mass.sum(axis=(1, 2))
    rows = mass.sum(axis=2) @ np.arange(thin.shape[1], dtype=np.float32) / np.maximum(weights, 1)
    columns = mass.sum(axis=1) @ np.arange(thin.shape[2], dtype=np.float32) / np.maximum(weights, 1)
    places = np.stack(
        [
            rows * down + slices.positions @ slices.row_step,
            columns * across + slices.positions @ slices.column_step,
        ],
        axis=1,
    )
    large = (weights > weights.max() / 2) & _in_vault(slices, weights, steady_mm)
    r, c = thin.shape[1] // 3, thin.shape[2] // 3
    inner = thin[:, r : thin.shape[1] - r, c : thin.shape[2] - c].reshape(len(thin), -1)
    dense = inner > AIR_BELOW_HU
    tissue = large & dense.any(axis=1)
    medians = np.full((len(thin), 1), np.nan)
    for k in np.flatnonzero(tissue):
        medians[k, 0] = np.median(inner[k, dense[k]])
    return _largest_jump(places, large, slices.gaps), _largest_jump(medians, tissue, slices.gaps)


def _in_vault(slices: Stack, weights: np.ndarray, steady_mm: float) -> np.ndarray:
    """Axial slices at most `steady_mm` below the first one with the head: there its outline is smooth."""
    if slices.obliquity_deg > 45:
        return np.zeros(len(weights), bool)
    up = slices.heights * np.sign(slices.normal[2])
    return up > up[weights > weights.max() / 20].max() - steady_mm


def _largest_jump(values: np.ndarray, usable: np.ndarray, gaps: np.ndarray) -> float | None:
    """Largest excess of a step between two slices (N, m) over the step predicted by its neighbours."""
    quads = usable[:-3] & usable[1:-2] & usable[2:-1] & usable[3:]
    steps = np.diff(values, axis=0)
    beside = (steps[:-2] + steps[2:]) / (gaps[:-2] + gaps[2:])[:, None]
    jumps = np.linalg.norm(steps[1:-1] - beside * gaps[1:-1, None], axis=1)[quads]
    return float(jumps.max()) if jumps.size else None


def _noise(hu: np.ndarray, slices: Stack) -> float | None:
    """The global noise level: the mode of the local standard deviation in soft tissue.

    After Christianson et al., Automated Technique to Measure Noise in Clinical CT Examinations, AJR
    2015;205:W93-W99, with blocks in place of a sliding window, in the field's middle.
    """
    down, across = (size // 4 for size in slices.matrix)
    middle = np.linspace(len(hu) / 4, 3 * len(hu) / 4, NOISE_SLICES).astype(int)
    picked = hu[middle, down:-down, across:-across]
    edge = [max(3, round(BLOCK_MM / spacing)) for spacing in slices.spacing]
    rows, columns = (size // side for size, side in zip(picked.shape[1:], edge, strict=True))
    blocks = picked[:, : rows * edge[0], : columns * edge[1]].reshape(
        NOISE_SLICES, rows, edge[0], columns, edge[1]
    )
    low, high = blocks.min(axis=(2, 4)), blocks.max(axis=(2, 4))
    soft = (low > SOFT_HU[0]) & (high < SOFT_HU[1])
    if soft.sum() < MIN_BLOCKS:
        return None
    chosen = blocks.transpose(0, 1, 3, 2, 4)[soft].reshape(int(soft.sum()), -1)
    deviations = chosen.std(axis=1, ddof=1, dtype=np.float32)
    counts = np.bincount((deviations / NOISE_BIN_HU).astype(int))
    smooth = np.convolve(counts, np.ones(5), "same")
    return float((smooth.argmax() + 0.5) * NOISE_BIN_HU)


def _agreement(hu: np.ndarray, slices: Stack, voxels: np.ndarray, affine: np.ndarray) -> float:
    """Correlation of stored voxels with the source slices, located only by the affine.

    Positions go from voxel to patient to slice without the resampler, so that a shifted, rotated or
    transposed volume is detected. Heads are nearly symmetric: 0 if the volume agrees better with the source
    when mirrored at the middle of the head. 0 also if either side is constant.
    """
    chosen = np.linspace(0, voxels.size - 1, PROBES).astype(int)
    index = np.stack(np.unravel_index(chosen, voxels.shape), axis=1)
    source, inside = _look_up(hu, slices, index @ affine[:3, :3].T + affine[:3, 3])
    stored = voxels[tuple(index.T)]
    mirrored = voxels[index[:, 0], index[:, 1], voxels.shape[2] - 1 - index[:, 2]]
    agreement, otherwise = (_correlation(side[inside], source[inside]) for side in (stored, mirrored))
    return agreement if agreement >= otherwise - MIRROR_TOLERANCE else 0.0


def _look_up(hu: np.ndarray, slices: Stack, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """HU (P,) at points (P, 3) between slices, and whether each point is inside the scan."""
    heights = points @ slices.normal
    lower = np.clip(np.searchsorted(slices.heights, heights) - 1, 0, len(hu) - 2)
    share = (heights - slices.heights[lower]) / np.diff(slices.heights)[lower]
    inside = (share >= 0) & (share <= 1)
    values = np.zeros(len(points))
    for foot, weight in ((lower, 1 - share), (lower + 1, share)):
        relative = points - slices.positions[foot]
        place = np.stack(
            [
                foot,
                relative @ slices.row_step / slices.spacing[0],
                relative @ slices.column_step / slices.spacing[1],
            ]
        )
        inside &= ((place >= 0) & (place < np.array(hu.shape)[:, None])).all(axis=0)
        values += weight * ndimage.map_coordinates(hu, place, np.float64, order=1, mode="nearest")
    return values, inside


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson correlation; 0 if either is constant."""
    if one.size < 2 or not np.ptp(one) or not np.ptp(other):
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
