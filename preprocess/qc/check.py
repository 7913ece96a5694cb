"""Checks of a volume's measures: findings, each with the exceeded limit."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from preprocess.anatomy.profile import Anatomy
from preprocess.config import CHECKS, CheckConfig
from preprocess.reasons import IncompleteError, Reason, Rejection
from preprocess.volume.measure import Measures
from shards.voxels import INDEX_STEPS

TRUE_AIR_HU = -1000.0
"""Air, by the definition of the Hounsfield scale."""

WHOLE_EDGE = 0.9
"""An object along this share of the field's edge is the field itself: its air is denser than true air."""

_HANDEDNESS = np.linalg.det(INDEX_STEPS.T)
"""An affine whose determinant has the other sign mirrors the patient: left becomes right."""

LACKING = (Reason.NOT_A_HEAD, Reason.HEAD_TOO_SHORT, Reason.VERTEX_MISSING, Reason.HEAD_CUT_BY_FIELD)
"""Findings that make another series of the study be tried."""


@dataclass(frozen=True)
class Finding:
    """One limit that a volume exceeds."""

    reason: Reason
    detail: str
    """One line: the measured value and the limit."""


def check(
    measures: Measures,
    affine: np.ndarray,
    config: CheckConfig,
    anatomy: Anatomy,
    seen: Mapping[Reason, str] = MappingProxyType({}),
) -> tuple[Reason, ...]:
    """The flags of a volume, in the order of `CHECKS`; affine: its (4, 4) to LPS mm.

    seen: findings from its voxels (preprocess.anatomy), with one line each. Raises Rejection for the first
    finding in `config.reject`.
    """
    problems = findings(measures, affine, config, anatomy, seen)
    for finding in problems:
        if finding.reason in config.reject:
            raise Rejection(finding.reason, finding.detail)
    return tuple(finding.reason for finding in problems)


def require_whole_head(
    measures: Measures, flags: Collection[Reason], config: CheckConfig, anatomy: Anatomy
) -> None:
    """Raise IncompleteError for a volume whose flags show that the head is incomplete or absent."""
    lacking = next((reason for reason in LACKING if reason in flags), None)
    if lacking:
        limits = {finding.reason: finding.detail for finding in _limits(measures, config)}
        raise IncompleteError(lacking, limits.get(lacking, f"the {anatomy.name} is incomplete"))


def findings(
    measures: Measures,
    affine: np.ndarray,
    config: CheckConfig,
    anatomy: Anatomy,
    seen: Mapping[Reason, str] = MappingProxyType({}),
) -> list[Finding]:
    """All findings of a volume, in the order of `CHECKS`."""
    problems = [*_geometry(measures, affine, config, anatomy), *_ranges(measures, config, anatomy)]
    problems += _limits(measures, config)
    problems += [Finding(reason, detail) for reason, detail in seen.items()]
    return sorted(problems, key=lambda finding: CHECKS.index(finding.reason))


def _geometry(
    measures: Measures, affine: np.ndarray, config: CheckConfig, anatomy: Anatomy
) -> Iterator[Finding]:
    if np.linalg.det(affine[:3, :3]) * _HANDEDNESS <= 0:
        yield Finding(Reason.AFFINE_MISMATCH, "the affine mirrors left and right")
    elif measures.agreement < config.min_agreement:
        detail = f"correlation with the source is {measures.agreement:.2f}, below {config.min_agreement:g}"
        yield Finding(Reason.AFFINE_MISMATCH, detail)
    if measures.head_height_mm < config.min_head_height_mm:
        limit = f"under {config.min_head_height_mm:g}"
        detail = f"the {anatomy.name} is {measures.head_height_mm:.0f} mm high, {limit}"
        yield Finding(Reason.HEAD_TOO_SHORT, detail)


def _ranges(measures: Measures, config: CheckConfig, anatomy: Anatomy) -> Iterator[Finding]:
    if measures.air_hu is None or measures.edge_share > WHOLE_EDGE:
        yield Finding(Reason.HU_OUT_OF_RANGE, f"no voxels around the {anatomy.name} have the density of air")
        return
    for name, value, true in (
        ("air", measures.air_hu, TRUE_AIR_HU),
        (anatomy.inside, measures.brain_hu, anatomy.inside_hu),
    ):
        if value is not None and abs(value - true) > config.hu_error:
            yield Finding(Reason.HU_OUT_OF_RANGE, f"{name} has {value:.0f} HU, expected about {true:.0f}")
            break
    for reason, value, (low, high) in (
        (Reason.AIR_OUT_OF_RANGE, measures.air_hu, config.air_hu),
        (Reason.BRAIN_OUT_OF_RANGE, measures.brain_hu, config.brain_hu),
        (Reason.BONE_OUT_OF_RANGE, measures.bone_hu, config.bone_hu),
    ):
        if value is not None and not low <= value <= high:
            yield Finding(reason, f"{value:.0f} HU, outside {low:g} to {high:g}")


def _limits(measures: Measures, config: CheckConfig) -> Iterator[Finding]:
    for reason, value, limit, unit in (
        (Reason.VERTEX_MISSING, measures.vertex_share, config.max_vertex_share, ""),
        (Reason.HEAD_CUT_BY_FIELD, measures.edge_share, config.max_edge_share, ""),
        (Reason.TABLE_IN_VOLUME, measures.table_share, config.max_table_share, ""),
        (Reason.MOSTLY_AIR, measures.air_share, config.max_air_share, ""),
        (Reason.NOISY, measures.noise_hu, config.max_noise_hu, " HU"),
        (Reason.MOTION, measures.jump_mm, config.max_jump_mm, " mm"),
        (Reason.INTENSITY_STEP, measures.jump_hu, config.max_jump_hu, " HU"),
    ):
        if value is not None and value > limit:
            yield Finding(reason, f"{value:.2f}{unit}, above {limit:g}{unit}")
