from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from header_series import AXIAL, CORONAL, EVERY_5_MM, series, stack, with_texts

from preprocess.dicom.catalog import Instance, Series
from preprocess.reasons import Reason, Rejection
from preprocess.select.kernels import kernel_class
from preprocess.select.lexicon import lexicon
from preprocess.select.rules import SelectConfig
from preprocess.select.series import select


def test_a_plain_head_is_selected_in_geometric_order() -> None:
    shuffled = tuple(np.random.default_rng(0).permutation(np.array(stack(), object)))
    selected = select(series(shuffled), SelectConfig())
    places = [group[0].position for group in selected.positions]
    assert [place[2] for place in places if place] == [5.0 * k for k in range(30)]
    assert not selected.dropped


def _without(heights: list[float], *absent: int) -> list[float]:
    return [z for k, z in enumerate(heights) if k not in absent]


REJECTED: list[tuple[Reason, Callable[[], Series]]] = [
    (Reason.NOT_CT, lambda: series(stack(modality="MR"))),
    (Reason.DOSE_REPORT, lambda: series(stack(sop_class="1.2.840.10008.5.1.4.1.1.88.67", modality="SR"))),
    (Reason.DOSE_REPORT, lambda: series(stack(image_type=("DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT")))),
    (Reason.SECONDARY_CAPTURE, lambda: series(stack(sop_class="1.2.840.10008.5.1.4.1.1.7"))),
    (Reason.SECONDARY_CAPTURE, lambda: series(stack(image_type=("DERIVED", "SECONDARY", "SCREEN SAVE")))),
    (Reason.DOSE_REPORT, lambda: series(stack(sop_class="1.2.840.10008.5.1.4.1.1.88.67"))),
    (Reason.NOT_CT, lambda: series(stack(sop_class="1.2.840.10008.5.1.4.1.1.66"))),  # raw data
    (Reason.LOCALIZER, lambda: series(stack(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")))),
    (Reason.DERIVED, lambda: series(stack(image_type=("DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE")))),
    (Reason.DERIVED, lambda: series(stack(image_type=("ORIGINAL", "PRIMARY", "AXIAL", "CSA MPR")))),
    (Reason.NOT_GRAYSCALE, lambda: series(stack(samples=3))),
    (Reason.BONE_KERNEL, lambda: series(stack(kernel="H70h"))),
    (Reason.KVP_OUT_OF_RANGE, lambda: series(stack(kvp=70.0))),
    (Reason.MISSING_GEOMETRY, lambda: series(stack(orientation=None))),
    (Reason.INVALID_GEOMETRY, lambda: series(stack(orientation=(1.0, 0.0, 0.0, 1.0, 0.0, 0.0)))),
    (Reason.INVALID_GEOMETRY, lambda: series(stack(orientation=(0.0,) * 6))),
    (Reason.INVALID_GEOMETRY, lambda: series(stack(pixel_spacing=(4.5, 4.5)))),  # 0.45, slipped: 2.3 m
    (Reason.INVALID_GEOMETRY, lambda: series(stack(pixel_spacing=(0.5, 50.0)))),
    (Reason.INVALID_GEOMETRY, lambda: series(stack(rows=65535, pixel_spacing=(0.001, 0.5)))),
    (Reason.INCONSISTENT_GEOMETRY, lambda: series(stack()[:15] + stack(pixel_spacing=(0.4, 0.4))[15:])),
    (Reason.INCONSISTENT_GEOMETRY, lambda: series(stack()[:15] + stack(rows=256)[15:])),
    (Reason.INCONSISTENT_GEOMETRY, lambda: series(stack()[:15] + stack(frame_of_reference_uid="4")[15:])),
    (Reason.TOO_FEW_SLICES, lambda: series(stack([10.0 * k for k in range(9)]))),
    (Reason.COVERAGE_TOO_SMALL, lambda: series(stack([2.5 * k for k in range(30)]))),
    (Reason.MISSING_SLICES, lambda: series(stack(_without(EVERY_5_MM, 14, 15)))),
    (Reason.SLICE_GAP, lambda: series(stack([z + 7.3 * (z > 60) for z in EVERY_5_MM]))),
    (
        Reason.REPEATED_POSITIONS,
        lambda: series(tuple(replace(i, sop_uid=f"{p}{i.sop_uid}") for p in "abc" for i in stack())),
    ),
]


@pytest.mark.parametrize(("reason", "rejected"), REJECTED)
def test_each_rule_rejects_with_its_reason(reason: Reason, rejected: Callable[[], Series]) -> None:
    with pytest.raises(Rejection) as caught:
        select(rejected(), SelectConfig())
    assert caught.value.reason == reason
    assert "\n" not in caught.value.detail


def test_a_gap_where_slices_were_left_out_names_them() -> None:
    images = [replace(i, position=None) if k in (7, 8) else i for k, i in enumerate(stack())]
    with pytest.raises(Rejection, match=r"missing_slices: .* slices missing; left out: 2 missing_geometry"):
        select(series(tuple(images)), SelectConfig())


def test_stray_slices_are_left_out_and_counted() -> None:
    scout = replace(AXIAL, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), orientation=CORONAL)
    capture = replace(AXIAL, samples=3)
    pet = replace(AXIAL, modality="PT")
    elsewhere = replace(AXIAL, frame_of_reference_uid="4")
    reformats = stack(orientation=CORONAL)
    selected = select(series((scout, *reformats, *stack(), capture, pet, elsewhere)), SelectConfig())
    assert len(selected.positions) == 30
    assert selected.dropped == Counter(
        {
            Reason.LOCALIZER: 1,
            Reason.NOT_GRAYSCALE: 1,
            Reason.NOT_CT: 1,
            Reason.INCONSISTENT_GEOMETRY: 1,
            Reason.REFORMAT: len(reformats),
        }
    )


SCOUT = replace(AXIAL, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), orientation=CORONAL)
AGENT = {"contrast": "OMNIPAQUE 350"}
MIXED: dict[str, tuple[list[Instance], Reason | None]] = {
    "a scout of another part": ([*with_texts([SCOUT], body_part="CHEST"), *stack()], None),
    "a scout that is named one": ([*with_texts([SCOUT], series_description="Scout"), *stack()], None),
    "an agent on all but the scout": ([SCOUT, *with_texts(stack(), **AGENT)], Reason.CONTRAST),
    "an agent on the scout alone": ([*with_texts([SCOUT], **AGENT), *stack()], None),
    "an agent from the second on": ([stack()[0], *with_texts(stack()[1:], **AGENT)], Reason.CONTRAST),
    "an agent on the last": ([*stack()[:-1], *with_texts(stack()[-1:], **AGENT)], Reason.CONTRAST),
    "the chest behind the head": (
        [*stack()[:28], *with_texts(stack()[28:], series_description="Chest")],
        None,
    ),
}


@pytest.mark.parametrize("case", MIXED)
@pytest.mark.parametrize("seed", range(4))
def test_texts_belong_to_each_image_whatever_its_uid(case: str, seed: int) -> None:
    images, expected = MIXED[case]
    order = np.random.default_rng(seed).permutation(len(images))
    renamed = [replace(i, sop_uid=f"1.{n:03}") for n, i in zip(order, images, strict=True)]
    one = series(tuple(sorted(renamed, key=lambda i: i.sop_uid)))  # as in a catalog
    try:
        select(one, SelectConfig())
        actual = None
    except Rejection as rejection:
        actual = rejection.reason
    assert actual == expected


@pytest.mark.parametrize("shift", [0.02, 0.5, 1.2, 2.5])
def test_interleaved_scans_are_not_a_stack(shift: float) -> None:
    """A later phase whose table positions differ by a fraction of a slice, numbered by the scanner or not."""
    later = tuple(
        replace(i, sop_uid=f"2.{i.sop_uid}", acquisition_number=2)
        for i in stack([z + shift for z in EVERY_5_MM])
    )
    with pytest.raises(Rejection, match="repeated_positions: of 60 slices"):
        select(series((*stack(), *later)), SelectConfig())
    unnumbered = series(tuple(replace(i, acquisition_number=None) for i in (*stack(), *later)))
    if shift == 2.5:  # could be slices that overlap by half
        assert len(select(unnumbered, SelectConfig()).positions) == 60
    else:
        with pytest.raises(Rejection, match="repeated_positions"):
            select(unnumbered, SelectConfig())


def test_adjacent_passes_and_single_retakes_are_a_stack() -> None:
    passes = tuple(replace(i, acquisition_number=k // 4) for k, i in enumerate(stack()))
    retaken = tuple(replace(i, sop_uid=f"2.{i.sop_uid}", acquisition_number=9) for i in passes[2:14:4])
    assert len(select(series((*passes, *retaken)), SelectConfig()).positions) == 30
    sparse = series(stack([5.0 * k for k in (0, 4, 5, 8, 9, 14, 15, 18, 19, 22, 23)]))
    assert len(select(sparse, SelectConfig(max_slice_gap_mm=25)).positions) == 11
    spaces = tuple(
        replace(i, frame_of_reference_uid=i.sop_uid) for i in stack()
    )  # as left by de-identification
    assert len(select(series(spaces), SelectConfig()).positions) == 30
    each = tuple(replace(i, acquisition_number=k) for k, i in enumerate(stack()))
    assert len(select(series(each), SelectConfig()).positions) == 30


FIRST, SECOND = [5.0 * k for k in range(24)], [97.5 + 5.0 * k for k in range(16)]
"""A pass over the patient, and one that starts 17.5 mm below the end of the first."""


def passes(*heights: list[float], numbered: bool = True) -> Series:
    """A series of several passes, by Acquisition Number or by Instance Number alone."""
    images: list[Instance] = []
    for number, z in enumerate(heights, 1):
        for i in stack(z):
            acquisition = number if numbered else None
            place = len(images)
            images.append(
                replace(
                    i, sop_uid=f"{number}.{i.sop_uid}", acquisition_number=acquisition, instance_number=place
                )
            )
    return series(tuple(images))


def kept_heights(one: Series) -> list[float]:
    return [group[0].position[2] for group in select(one, SelectConfig()).positions if group[0].position]


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("way", [1, -1])
def test_one_of_two_passes_is_kept_where_they_overlap(numbered: bool, way: int) -> None:
    first, second = ([way * z for z in heights] for heights in (FIRST, SECOND))
    one = passes(first, second, numbered=numbered)
    stays = [z for z in FIRST if way > 0 or z < SECOND[0]] + [z for z in SECOND if way < 0 or z > FIRST[-1]]
    assert sorted(way * z for z in kept_heights(one)) == stays
    dropped = select(one, SelectConfig()).dropped
    assert dropped == {Reason.OVERLAPPING_SLICE: 40 - len(stays)}
    vertex_again = passes(FIRST, [z for z in SECOND if z < FIRST[-1]], numbered=numbered)
    assert kept_heights(vertex_again) == FIRST


def test_the_thinner_of_two_passes_in_a_series_is_kept() -> None:
    thin = [100.0 + k for k in range(60)]
    one = passes(FIRST, thin)
    assert kept_heights(one) == [z for z in FIRST if z < thin[0]] + thin
    assert kept_heights(passes(FIRST, [52.2 + k for k in range(30)])) == FIRST


def test_interleaved_passes_need_no_acquisition_number() -> None:
    """With 5 mm slices, or wider steps, each is a scan; with 2.5 mm slices both are one scan."""
    for between in ([2.5 + 10.0 * k for k in range(14)], [2.5 + 5.0 * k for k in range(29)]):
        assert kept_heights(passes(EVERY_5_MM, between, numbered=False)) == EVERY_5_MM
    thin = [replace(i, thickness=2.5) for i in passes(EVERY_5_MM, between, numbered=False).instances]
    assert len(kept_heights(series(tuple(thin)))) == 59


def test_slices_that_complete_a_pass_are_kept() -> None:
    """Slices at missing positions, at every second position, in rotations, at the same positions."""
    absent = [5.0 * k for k in (7, 8, 16)]
    holed = [z for z in EVERY_5_MM if z not in absent]
    for numbered in (True, False):
        assert kept_heights(passes(holed, absent, numbered=numbered)) == EVERY_5_MM
        assert kept_heights(passes(EVERY_5_MM, EVERY_5_MM[10:15], numbered=numbered)) == EVERY_5_MM
    assert kept_heights(passes(EVERY_5_MM[::2], EVERY_5_MM[1::2], numbered=False)) == EVERY_5_MM
    assert kept_heights(passes(EVERY_5_MM[::2], EVERY_5_MM[1:-1:2], numbered=False)) == EVERY_5_MM[:29]
    counted_anew = tuple(replace(i, acquisition_number=k % 10) for k, i in enumerate(stack()))
    assert kept_heights(series(counted_anew[:20])) == EVERY_5_MM[:20]
    order = np.random.default_rng(1).permutation(30).tolist()
    shuffled = tuple(replace(i, instance_number=k) for k, i in zip(order, stack(), strict=True))
    assert kept_heights(series(shuffled)) == EVERY_5_MM


def test_limits_come_from_the_configuration() -> None:
    one_absent = stack(_without(EVERY_5_MM, 14))
    assert len(select(series(one_absent), SelectConfig()).positions) == 29
    with pytest.raises(Rejection, match=r"missing_slices: a gap of 10\.00 mm, more than 9: 1 slices missing"):
        select(series(one_absent), SelectConfig(max_slice_gap_mm=9))
    bone = series(stack(kernel="BONEPLUS"))
    assert select(bone, SelectConfig(kernels=("bone",))).positions
    with pytest.raises(Rejection, match="soft_kernel"):
        select(series(stack()), SelectConfig(kernels=("bone",)))
    assert select(series(stack(kvp=None, kernel="")), SelectConfig()).positions


def test_the_widest_real_field_of_view_is_accepted() -> None:
    assert select(series(stack(pixel_spacing=(900 / 512, 900 / 512))), SelectConfig()).positions
    finest = stack(rows=2048, columns=2048, pixel_spacing=(0.12, 0.12))
    assert select(series(finest), SelectConfig()).positions


def test_two_slabs_of_different_spacing_have_no_missing_slices() -> None:
    heights = [2.5 * k for k in range(16)] + [37.5 + 7.5 * k for k in range(1, 16)]
    assert len(select(series(stack(heights)), SelectConfig()).positions) == 31
    with pytest.raises(Rejection, match="slice_gap"):
        select(series(stack(heights)), SelectConfig(max_slice_gap_mm=7))


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        *[(name, "soft") for name in ("STANDARD", "STD+", "SOFT", "DETAIL", "HD STANDARD")],
        *[(name, "soft") for name in ("H30s", "H31f", "J37s", "J40s\\3", "Hr40f\\3", "Hr38", "Qr40", "B30f")],
        *[(name, "soft") for name in ("UB", "B", "UA", "FC21", "FC26", "FC64", "FC01", "H_SOFT_B")],
        *[(name, "bone") for name in ("BONE", "BONEPLUS", "EDGE", "LUNG", "BONE+", "H60s", "H70h", "Hr68f")],
        *[
            (name, "bone")
            for name in ("J70h\\3", "U90u", "D", "YC", "YA", "FC30", "FC51", "FC81", "BONE_SHARP_C")
        ],
        *[(name, "bone") for name in ("['Hr68f', '3']", "Hr68f/3", "['FC30']", "YA;3")],
        *[(name, "soft") for name in ("['Hr40f', '3']", "Hr40f, 3", "IMR1,BrainRoutine", "Head/Standard")],
        *[(name, "unknown") for name in ("", "???", "XYZ", "12")],
    ],
)
def test_kernel_names(kernel: str, expected: str) -> None:
    assert kernel_class(kernel, lexicon()) == expected
