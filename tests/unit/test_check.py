"""Each defect of a head is found, and a normal head has no findings."""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from synthetic_scan import PIXEL_MM, points_of, scan_of, stack_of, stored

from preprocess.anatomy.head import HEAD
from preprocess.config import CHECKS, CheckConfig
from preprocess.dicom.equipment import FAMILIES, VENDORS, scanner, vendor
from preprocess.dicom.geometry import Stack
from preprocess.qc.check import check, findings
from preprocess.qc.remedies import REMEDIES
from preprocess.reasons import Reason, Rejection
from preprocess.select.rules import SelectConfig
from preprocess.tasks import manifest
from preprocess.volume.measure import Measures, measure
from shards.section import Section

HEIGHTS = np.arange(-70.0, 106.0, 5.0)
SLABS = np.concatenate([np.arange(-70.0, 0, 3.0), np.arange(4.0, 106, 7.0)])
Scan = tuple[np.ndarray, Stack]


@pytest.fixture(scope="module")
def sound() -> Scan:
    slices = stack_of(HEIGHTS)
    return scan_of(slices), slices


def measured(hu: np.ndarray, slices: Stack) -> tuple[Measures, np.ndarray]:
    head, voxels, target = stored(hu, slices)
    return measure(hu, slices, head, voxels, target, HEAD), target.affine


def found(hu: np.ndarray, slices: Stack) -> set[Reason]:
    return {finding.reason for finding in findings(*measured(hu, slices), CheckConfig(), HEAD)}


@pytest.mark.parametrize(
    ("heights", "tilt", "patient"),
    [(HEIGHTS, 0, 0), (HEIGHTS, 18, 1), (HEIGHTS[::-1], -14, 2), (SLABS, 0, 3)],
)
def test_a_normal_head_has_no_findings(heights: np.ndarray, tilt: float, patient: int) -> None:
    slices = stack_of(np.sort(heights), tilt)
    assert found(scan_of(slices, patient), slices) == set()


def forgotten_intercept(hu: np.ndarray, slices: Stack) -> Scan:
    return (hu + 1024).astype(np.int16), slices


def bright_brain(hu: np.ndarray, slices: Stack) -> Scan:
    return np.where((hu > -30) & (hu < 100), hu + 70, hu).astype(np.int16), slices


def soft_skull(hu: np.ndarray, slices: Stack) -> Scan:
    return np.minimum(hu, 300).astype(np.int16), slices


def wrong_air(hu: np.ndarray, slices: Stack) -> Scan:
    return np.where(hu < -800, hu + 90, hu).astype(np.int16), slices


def noise(hu: np.ndarray, slices: Stack) -> Scan:
    return np.rint(hu + np.random.default_rng(9).normal(0, 30, hu.shape)).astype(np.int16), slices


def no_vertex(hu: np.ndarray, slices: Stack) -> Scan:
    kept = HEIGHTS < 60
    return hu[kept], stack_of(HEIGHTS[kept])


def half_a_head(hu: np.ndarray, slices: Stack) -> Scan:
    kept = (HEIGHTS > 5) & (HEIGHTS < 70)
    return hu[kept], stack_of(HEIGHTS[kept])


def narrow_field(hu: np.ndarray, slices: Stack) -> Scan:
    narrow = stack_of(HEIGHTS, matrix=80)
    return scan_of(narrow, head_rest=False), narrow


def moved(hu: np.ndarray, slices: Stack) -> Scan:
    shifted = hu.copy()
    shifted[22:] = np.roll(hu[22:], 2, axis=2)
    return shifted, slices


def bright_slice(hu: np.ndarray, slices: Stack) -> Scan:
    brighter = hu.copy()
    brighter[24] += 40
    return brighter, slices


def on_a_table(hu: np.ndarray, slices: Stack) -> Scan:
    """A mould around the head, at some mm."""
    x, y, _ = np.moveaxis(points_of(slices), -1, 0)
    mould = (np.hypot(x / 78, y / 98) > 1.12) & (np.abs(x) < 86) & (np.abs(y) < 106)
    return np.where(mould, 60, hu).astype(np.int16), slices


@pytest.mark.parametrize(
    ("defect", "reason"),
    [
        (forgotten_intercept, Reason.HU_OUT_OF_RANGE),
        (wrong_air, Reason.AIR_OUT_OF_RANGE),
        (bright_brain, Reason.BRAIN_OUT_OF_RANGE),
        (soft_skull, Reason.BONE_OUT_OF_RANGE),
        (noise, Reason.NOISY),
        (no_vertex, Reason.VERTEX_MISSING),
        (half_a_head, Reason.HEAD_TOO_SHORT),
        (narrow_field, Reason.HEAD_CUT_BY_FIELD),
        (moved, Reason.MOTION),
        (bright_slice, Reason.INTENSITY_STEP),
        (on_a_table, Reason.TABLE_IN_VOLUME),
    ],
)
def test_a_defect_is_found(sound: Scan, defect: Callable[..., Scan], reason: Reason) -> None:
    assert reason in found(*defect(*sound))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_rotated_volume_does_not_match_its_source(sound: Scan, axis: int) -> None:
    hu, slices = sound
    head, voxels, target = stored(hu, slices)
    assert measure(hu, slices, head, voxels, target, HEAD).agreement > 0.999
    turned = measure(hu, slices, head, np.flip(voxels, axis), target, HEAD)
    actual = findings(turned, target.affine, CheckConfig(), HEAD)
    assert [f.reason for f in actual] == [Reason.AFFINE_MISMATCH]


def test_a_left_handed_affine_is_refused(sound: Scan) -> None:
    measures, affine = measured(*sound)
    with pytest.raises(Rejection, match="affine_mismatch: the affine mirrors left and right"):
        check(measures, affine @ np.diag([1, 1, -1, 1]), CheckConfig(), HEAD)


@pytest.mark.parametrize("noise_hu", [3.0, 8.0, 20.0])
def test_the_noise_is_measured(noise_hu: float) -> None:
    slices = stack_of(HEIGHTS)
    measures, _ = measured(scan_of(slices, noise_hu=noise_hu), slices)
    assert measures.noise_hu == pytest.approx(noise_hu, rel=0.2, abs=0.7)


def test_the_jump_is_measured_in_mm(sound: Scan) -> None:
    hu, slices = sound
    moved_hu, _ = moved(hu, slices)
    still, _ = measured(hu, slices)
    jumped, _ = measured(moved_hu, slices)
    assert still.jump_mm is not None
    assert still.jump_mm < 0.5
    assert jumped.jump_mm == pytest.approx(2 * PIXEL_MM, rel=0.15)


def test_measured_air_counts_and_filled_in_air_does_not(sound: Scan) -> None:
    hu, slices = sound
    filled = np.where(hu < -800, hu + 60, hu).astype(np.int16)
    filled[:, :30] = -1000
    measures, _ = measured(filled, slices)
    assert measures.air_hu == pytest.approx(-940, abs=2)


def test_the_configuration_chooses_which_findings_reject(sound: Scan) -> None:
    measures, affine = measured(*moved(*sound))
    assert check(measures, affine, CheckConfig(), HEAD) == (Reason.MOTION,)
    with pytest.raises(Rejection, match=r"motion: 3\.\d\d mm|motion: 4\.\d\d mm, over 1\.5 mm"):
        check(measures, affine, CheckConfig(reject=(Reason.MOTION,)), HEAD)
    assert check(measures, affine, CheckConfig(max_jump_mm=10), HEAD) == ()
    with pytest.raises(ValidationError, match=r"localizer is not a finding.* hu_out"):
        CheckConfig(reject=(Reason.LOCALIZER,))


def test_measures_that_are_undefined_give_no_finding(sound: Scan) -> None:
    measures, affine = measured(*sound)
    blind = dict.fromkeys(("brain_hu", "noise_hu", "jump_mm", "jump_hu"))
    assert findings(measures.model_copy(update=blind), affine, CheckConfig(), HEAD) == []
    empty = measures.model_copy(update={"air_share": 0.8})
    assert [f.reason for f in findings(empty, affine, CheckConfig(), HEAD)] == [Reason.MOSTLY_AIR]


def test_an_older_manifest_is_flagged_by_the_measures_it_has(sound: Scan) -> None:
    measures, affine = measured(*sound)
    row = {"affine": affine.ravel().tolist(), "flags": [], **measures.model_dump(), "air_share": 0.8}
    volumes = pa.Table.from_pylist([row], schema=manifest.SCHEMA).drop_columns(["noise_hu"])
    actual = manifest.marked(volumes, CheckConfig(), HEAD)
    assert actual["flags"].to_pylist() == [[Reason.MOSTLY_AIR]]
    assert actual["noise_hu"].to_pylist() == [None]
    assert actual.schema.names == manifest.SCHEMA.names


def test_three_slices_and_a_small_matrix_are_measured() -> None:
    slices = replace(stack_of(np.array([-40.0, 0, 40])), matrix=(128, 128))
    measures, _ = measured(scan_of(slices), slices)
    assert measures.jump_mm is None
    coarse = replace(slices, spacing=(60.0, 60.0), matrix=(3, 3))
    assert measured(np.full((3, 3, 3), 40, np.int16), coarse)[0].noise_hu is None


def test_every_check_has_a_separate_reason() -> None:
    assert len(set(CHECKS)) == len(CHECKS)
    assert set(CheckConfig().reject) < set(CHECKS)


def test_scanners_have_a_fixed_vocabulary() -> None:
    assert scanner("GE MEDICAL SYSTEMS", "LightSpeed VCT") == "GE LIGHTSPEED"
    assert scanner("SIEMENS", "SOMATOM Definition AS+") == "SIEMENS DEFINITION"
    assert scanner("Siemens Healthineers", "SOMATOM go.Up") == "SIEMENS GO"
    assert scanner("Philips", "iCT 256") == "PHILIPS ICT"
    assert scanner("Canon Medical Systems", "Aquilion_Prime SP") == "CANON AQUILION"
    assert scanner("UIH", "uCT 780") == "UIH UCT"
    assert scanner("SIEMENS", "Dr. Doe's scanner, room Force-7") == "SIEMENS FORCE"
    assert scanner("Dr. Doe's workstation", "LightSpeed") == vendor("Dr. Doe's workstation") == "other"
    assert set(FAMILIES) == set(VENDORS)


NOT_OF_SERIES = {
    *(Reason.NOT_DICOM, Reason.MISSING_UID),
    *(Reason.ENCRYPTED_ARCHIVE, Reason.NESTED_ARCHIVE, Reason.UNSUPPORTED_ARCHIVE),
    *(Reason.DUPLICATE_SLICE, Reason.RETAKEN_SLICE, Reason.SAME_SCAN),
    *(Reason.UNKNOWN_VOLUME, Reason.AMBIGUOUS_VOLUME, Reason.ANOTHER_STUDY, Reason.UNLISTED_CLASS),
    Reason.ANOTHER_PATIENT,
    *(Reason.EMPTY_MASK, Reason.OUTSIDE_VOLUME, Reason.PARTNER_REFUSED),
}
"""Reasons of files, slices, stored volumes and masks."""


def test_every_quarantine_reason_has_a_remedy_with_existing_names() -> None:
    assert set(Reason) - set(REMEDIES) == NOT_OF_SERIES
    sections: dict[str, type[Section]] = {"select": SelectConfig, "check": CheckConfig}
    for section, key in re.findall(r"`(\w+)\.(\w+)`", " ".join(REMEDIES.values())):
        assert key in sections[section].model_fields
