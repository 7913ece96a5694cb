"""Selection among the series of one study: reformats, the best of them, base and vault."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from header_series import CORONAL, series, stack
from hypothesis import given
from hypothesis import strategies as st

from preprocess.build.result import BuildResult
from preprocess.build.study import StudyBuilder
from preprocess.dicom.catalog import Instance, Series
from preprocess.reasons import IncompleteError, Reason, Rejection
from preprocess.select import study
from preprocess.select.candidate import Candidate
from preprocess.select.outcome import Outcome
from preprocess.select.rules import SelectConfig
from preprocess.select.series import Selected, usable
from preprocess.select.study import select_study, studies

BASE = [-40 + 2.5 * k for k in range(17)]
VAULT = [5.0 + 7.0 * k for k in range(15)]


def named(uid: str, instances: tuple[Instance, ...], **change: Any) -> Series:
    return series(instances, series_uid=uid, **change)


def outcomes(
    *study: Series,
    failing: tuple[str, ...] = (),
    partial: tuple[str, ...] = (),
    tried: list[str] | None = None,
    **config: Any,
) -> dict[str, Outcome]:
    """Outcomes by series UID; `failing` ones cannot be built, `partial` ones lack the vertex.

    tried: gets the built candidates, in order.
    """

    def make(candidate: Candidate, whole: bool) -> BuildResult:
        uids = "+".join(source.series_uid for source in candidate.sources)
        if tried is not None:
            tried.append(uids)
        if whole and uids in partial:
            return BuildResult(rejection=IncompleteError(Reason.VERTEX_MISSING, "cut"))
        return BuildResult(
            rejection=Rejection(Reason.TRUNCATED_PIXEL_DATA, "cut") if uids in failing else None
        )

    rules = SelectConfig(**config)
    builder = StudyBuilder(select_study(study, rules), rules.keep, make)
    volumes = [candidate for candidate, made in builder if not made.rejection]
    actual = builder.outcomes()
    assert {one.candidate.keys for one in actual if one.candidate} == {one.keys for one in volumes}
    assert [outcome.series for outcome in actual] == list(study)
    assert all((outcome.candidate is None) != (outcome.rejection is None) for outcome in actual)
    return {outcome.series.series_uid: outcome for outcome in actual}


def result(outcome: Outcome) -> str:
    return str(outcome.rejection.reason) if outcome.rejection else "volume"


THICK = named("thick", stack())
THIN = named("thin", stack([1.0 * k for k in range(150)], thickness=1.0))
BONE = named("bone", stack([1.0 * k for k in range(150)], thickness=1.0, kernel="H70h"))
UNKNOWN = named("unknown", stack([1.0 * k for k in range(150)], thickness=1.0, kernel="?"))
WIDE = named("wide", stack([5.0 * k for k in range(34)]))
FOSSA = named("fossa", stack([1.0 * k for k in range(90)], thickness=1.0))
SPARSE = named("sparse", stack([10.0 * k for k in range(15)], thickness=1.0))


@pytest.mark.parametrize(
    ("members", "best", "config"),
    [
        ((THICK, THIN), "thin", {}),
        ((THIN, THICK), "thin", {}),
        ((THICK, UNKNOWN), "thick", {}),
        ((THICK, BONE), "thick", {"kernels": ("soft", "bone")}),
        ((THICK, BONE), "bone", {"kernels": ("bone", "soft")}),
        ((THICK, WIDE), "wide", {}),
        ((WIDE, THIN), "thin", {}),
        ((WIDE, THIN), "wide", {"prefer": ("widest", "kernel")}),
        ((THICK, FOSSA), "thick", {}),  # a part of the head, however thin
        ((THICK, SPARSE), "thick", {}),
        ((replace(THICK, series_uid="b"), replace(THICK, series_uid="a")), "a", {}),
    ],
)
def test_the_best_of_a_study_is_kept(members: tuple[Series, ...], best: str, config: dict[str, Any]) -> None:
    results = outcomes(*members, join=False, **config)
    for uid, outcome in results.items():
        assert result(outcome) == ("volume" if uid == best else "not_best_of_study")
        if outcome.rejection:
            assert outcome.chosen
            assert outcome.chosen.series.series_uid == best
            assert " mm, covers " in outcome.rejection.detail
    assert {result(one) for one in outcomes(*members, join=False, keep="all", **config).values()} == {
        "volume"
    }


def test_candidates_are_ranked_without_being_built() -> None:
    """The input of a builder: parts of a joined head last, each rejection with its reason."""
    base, vault = named("base", stack(BASE, thickness=2.5)), named("vault", stack(VAULT, thickness=7.0))
    members = (vault, base, BONE, across_of(THICK))
    actual = select_study(members, SelectConfig())
    assert [one.series for one in actual.series] == list(members)
    assert [[key[2] for key in one.keys] for one in actual.candidates] == [["base", "vault"], ["vault"]]
    assert {one.series.series_uid: str(one.rejection.reason) for one in actual.series if one.rejection} == {
        "base": "coverage_too_small",  # alone
        "bone": "bone_kernel",
        "coronal": "reformat",
    }
    assert select_study(members, SelectConfig()).candidates == actual.candidates


def test_the_next_best_replaces_a_series_that_cannot_be_built() -> None:
    results = outcomes(THICK, WIDE, THIN, BONE, failing=("thin",))
    assert {uid: (result(one), one.stage) for uid, one in results.items()} == {
        "thin": ("truncated_pixel_data", "build"),
        "wide": ("volume", "select"),
        "thick": ("not_best_of_study", "select"),
        "bone": ("bone_kernel", "select"),
    }


FACE = named("face", stack([-90.0 + k for k in range(150)], thickness=1.0))
"""Ends 85 mm below `THICK`, without a description."""
LOWER = named("lower", stack([-20.0 + k for k in range(150)], thickness=1.0))
"""Ends 15 mm below `THICK`, as a scan with the vertex may."""


def test_a_series_ending_far_below_the_highest_lacks_the_vertex() -> None:
    assert result(outcomes(FACE, THICK)["thick"]) == "volume"
    neck = named("neck", stack([-250.0 + k for k in range(300)], thickness=1.0))
    assert result(outcomes(neck, THICK)["thick"]) == "volume"
    assert result(outcomes(LOWER, THICK)["lower"]) == "volume"
    elsewhere = tuple(replace(i, frame_of_reference_uid="4") for i in FACE.instances)
    assert result(outcomes(named("face", elsewhere), THICK)["face"]) == "volume"
    upright = tuple(  # stored from above, with reversed rows
        replace(i, orientation=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0)) for i in reversed(FACE.instances)
    )
    assert result(outcomes(named("face", upright), THICK)["thick"]) == "volume"


def test_the_next_best_replaces_a_series_that_shows_less_of_the_head() -> None:
    tried: list[str] = []
    results = outcomes(THICK, LOWER, WIDE, partial=("lower",), tried=tried)
    assert tried == ["lower", "wide"]
    assert {uid: (result(one), one.stage) for uid, one in results.items()} == {
        "lower": ("vertex_missing", "build"),
        "wide": ("volume", "select"),
        "thick": ("not_best_of_study", "select"),
    }
    assert results["lower"].chosen is results["wide"].candidate


def test_the_best_is_kept_if_none_shows_more() -> None:
    tried: list[str] = []
    results = outcomes(THICK, LOWER, partial=("lower", "thick"), tried=tried)
    assert tried == ["lower", "thick", "lower"]
    assert [result(results[uid]) for uid in ("lower", "thick")] == ["volume", "vertex_missing"]
    results = outcomes(THIN, SPARSE, partial=("thin", "sparse"), tried=tried)
    assert tried[3:] == ["thin"]  # a reconstruction of the same range
    assert result(results["thin"]) == "volume"
    assert result(outcomes(THICK, LOWER, partial=("lower",), failing=("thick",))["lower"]) == "volume"
    kept = outcomes(THICK, LOWER, partial=("lower", "thick"), keep="all")
    assert {result(one) for one in kept.values()} == {"volume"}


def test_a_series_of_two_kernels_is_ranked_and_joined_by_its_kept_kernel() -> None:
    """There are as many sharp images as soft ones, which would determine the series' class."""

    def twofold(uid: str, heights: list[float], thickness: float) -> Series:
        sharp = stack(heights, thickness=thickness, kernel="H60s")
        soft = stack(heights, thickness=thickness)
        return named(uid, (*(replace(one, sop_uid=f"2.{one.sop_uid}") for one in sharp), *soft))

    both = twofold("both", [5.0 * k for k in range(30)], 5.0)
    assert both.kernel == "H60s"
    results = outcomes(both, THIN, UNKNOWN, keep="all")
    assert {uid: result(one) for uid, one in results.items()} == dict.fromkeys(results, "volume")
    assert str(results["both"].candidate) == "soft, 5 mm, covers 150 mm"
    assert result(outcomes(both, UNKNOWN)["both"]) == "volume"
    vault = named("vault", stack(VAULT, thickness=7.0))
    candidate = outcomes(twofold("base", BASE, 2.5), vault)["vault"].candidate
    assert candidate
    assert heights(candidate) == BASE + VAULT


def test_a_plane_through_an_axial_acquisition_is_a_reformat() -> None:
    coronal = named("coronal", across(stack()))
    config: dict[str, Any] = {"keep": "all"}
    assert result(outcomes(coronal, THICK, **config)["coronal"]) == "reformat"
    assert result(outcomes(coronal, BONE, **config)["coronal"]) == "reformat"
    detail = outcomes(coronal, THICK, **config)["coronal"].rejection
    assert detail
    assert detail.detail == "90 degrees from an axial series of the same frame of reference"
    elsewhere = named("thick", stack(frame_of_reference_uid="4"))
    scout = named("scout", stack(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")))
    resonance = named("mr", stack(modality="MR"))
    for other in (elsewhere, scout, resonance):
        assert result(outcomes(coronal, other, **config)["coronal"]) == "volume"
    assert result(outcomes(coronal, elsewhere)["coronal"]) == "not_best_of_study"
    nowhere = named("coronal", across(stack(frame_of_reference_uid="")))
    also_nowhere = named("thick", stack(frame_of_reference_uid=""))
    assert result(outcomes(nowhere, also_nowhere, **config)["coronal"]) == "volume"


def across_of(one: Series) -> Series:
    return named("coronal", across(one.instances))


def across(instances: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """The same number of coronal slices."""
    return tuple(
        replace(one, orientation=CORONAL, position=(0.0, 5.0 * k, 0.0)) for k, one in enumerate(instances)
    )


def test_base_and_vault_become_one_volume() -> None:
    base, vault = named("base", stack(BASE, thickness=2.5)), named("vault", stack(VAULT, thickness=7.0))
    results = outcomes(vault, base)
    candidate = results["base"].candidate
    assert candidate
    assert candidate is results["vault"].candidate
    assert candidate.series.series_uid == "base"
    assert heights(candidate) == BASE + VAULT
    assert [(p.series.series_uid, p.slices, p.low_mm, p.high_mm) for p in candidate.parts] == [
        ("base", 17, -40, 0),
        ("vault", 15, 5, 103),
    ]
    assert not candidate.selected.dropped
    assert {uid: result(one) for uid, one in outcomes(base, vault, join=False).items()} == {
        "base": "coverage_too_small",
        "vault": "volume",
    }


def heights(candidate: Candidate) -> list[float]:
    return [group[0].position[2] for group in candidate.selected.positions if group[0].position]


def test_the_thinner_of_overlapping_parts_is_kept() -> None:
    base = named("base", stack(BASE, thickness=2.5))
    vault = named("vault", stack([z - 9 for z in VAULT], thickness=7.0))
    candidate = outcomes(base, vault)["base"].candidate
    assert candidate
    assert heights(candidate) == [*BASE, *(z - 9 for z in VAULT[1:])]
    assert candidate.selected.dropped == {Reason.OVERLAPPING_SLICE: 1}
    upside_down = outcomes(
        named("thick", stack([-z for z in vault_heights(vault)], thickness=7.0)),
        named("thin", stack([-z for z in BASE], thickness=2.5)),
    )["thin"].candidate
    assert upside_down
    assert heights(upside_down) == [-z for z in reversed(heights(candidate))]


def vault_heights(vault: Series) -> list[float]:
    return [i.position[2] for i in reversed(vault.instances) if i.position]


TILTED = (1.0, 0.0, 0.0, 0.0, 0.9781476, -0.2079117)
STRANGERS = [
    {"frame_of_reference_uid": "4"},
    {"frame_of_reference_uid": ""},
    {"kernel": "H70h"},
    {"pixel_spacing": (0.45, 0.45)},
    {"rows": 256, "columns": 256},
    {"orientation": TILTED},
    {"orientation": CORONAL},
    {"kvp": 60.0},
    {"heights": [z + 6 for z in VAULT]},  # a gap of 11 mm
    {"heights": [z - 25 for z in VAULT]},  # overlaps by half of the base
    {"heights": [z - 44 for z in VAULT]},  # as low as the base
    {"heights": [5 + 7.0 * k for k in range(32)]},  # down to the chest
    {"heights": VAULT[:1]},
]


@pytest.mark.parametrize("change", STRANGERS)
def test_parts_of_different_heads_are_not_joined(change: dict[str, Any]) -> None:
    nowhere = change if change == {"frame_of_reference_uid": ""} else {}
    base = named("base", stack(BASE, thickness=2.5, **nowhere))
    vault = named("vault", stack(change.pop("heights", VAULT), **({"thickness": 7.0} | change)))
    results = outcomes(base, vault, kernels=("soft", "bone"), max_coverage_mm=400, keep="all")
    assert not any(outcome.candidate and outcome.candidate.parts for outcome in results.values())


def test_a_whole_head_is_not_joined_with_its_other_reconstructions() -> None:
    results = outcomes(THICK, THIN, WIDE, SPARSE, FOSSA, keep="all")
    assert all(outcome.candidate and not outcome.candidate.parts for outcome in results.values())


def test_two_reconstructions_of_each_part_are_joined_in_pairs() -> None:
    members = [
        named(f"{part} {kernel}", stack(z, thickness=2.5 if part == "base" else 7.0, kernel=kernel))
        for part, z in (("base", BASE), ("vault", VAULT))
        for kernel in ("H30s", "H70h")
    ]
    results = outcomes(*members, kernels=("soft", "bone"), keep="all")
    joined = {tuple(s.series_uid for s in o.candidate.sources) for o in results.values() if o.candidate}
    assert joined == {("base H30s", "vault H30s"), ("base H70h", "vault H70h")}
    results = outcomes(*members, kernels=("soft", "bone"))
    assert [result(one) for one in results.values()] == ["volume", "not_best_of_study"] * 2


def test_parts_are_kept_separate_if_the_whole_cannot_be_built() -> None:
    base, vault = named("base", stack(BASE, thickness=2.5)), named("vault", stack(VAULT, thickness=7.0))
    results = outcomes(base, vault, failing=("base+vault",))
    assert (result(results["base"]), results["base"].stage) == ("truncated_pixel_data", "build")
    assert result(results["vault"]) == "volume"
    results = outcomes(base, vault, failing=("base+vault", "vault"))
    assert [(result(one), one.stage) for one in results.values()] == [("truncated_pixel_data", "build")] * 2


@given(st.data())
def test_any_split_of_a_stack_is_joined_to_the_whole(data: st.DataObject) -> None:
    """For any division of a tilted, uneven stack into parts of at least three slices, in any order."""
    gaps = data.draw(st.lists(st.floats(4, 8), min_size=20, max_size=28))
    z = np.concatenate([[0], np.cumsum(gaps)])
    cuts = data.draw(st.lists(st.integers(1, len(z) // 3 - 1), max_size=3, unique=True).map(sorted))
    bounds = [0, *(3 * cut for cut in cuts), len(z)]
    parts = [
        named(str(n), stack(z[a:b].tolist(), orientation=TILTED)) for n, (a, b) in enumerate(pairwise(bounds))
    ]
    results = outcomes(*data.draw(st.permutations(parts)))
    (candidate,) = {id(one.candidate): one.candidate for one in results.values()}.values()
    assert candidate
    assert heights(candidate) == z.tolist()
    assert len(candidate.sources) == len(parts)


def test_patients_that_share_a_study_uid_are_two_studies() -> None:
    members = [THICK, replace(THIN, patient_id="other"), WIDE]
    assert studies(members) == [[THICK, WIDE], [members[1]]]


def test_a_defect_loses_one_series_and_a_machine_failure_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(error: Exception) -> Callable[[Series, SelectConfig], Selected]:
        def failing(one: Series, config: SelectConfig) -> Selected:
            if one is THIN:
                raise error
            return usable(one, config)

        return failing

    monkeypatch.setattr(study, "usable", broken(KeyError("name of the patient")))
    results = outcomes(THIN, THICK)
    assert [result(one) for one in results.values()] == ["internal_error", "volume"]
    assert "KeyError in test_study.py:" in caplog.text
    assert "patient" not in caplog.text
    monkeypatch.setattr(study, "usable", broken(MemoryError()))
    with pytest.raises(MemoryError):
        outcomes(THIN, THICK)


def test_a_damaged_position_is_a_geometry_error_and_a_defect_in_selection_loses_one_study(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far = tuple(replace(instance, position=(1e300, 0.0, 5.0 * k)) for k, instance in enumerate(stack()))
    assert result(outcomes(named("far", far))["far"]) == "invalid_geometry"

    def defective(*_: object) -> None:
        raise ValueError("a text of the file")

    monkeypatch.setattr(study, "ranked", defective)
    results = outcomes(THICK, THIN)
    assert {result(outcome) for outcome in results.values()} == {"internal_error"}
    assert all("text" not in str(outcome.rejection) for outcome in results.values())
