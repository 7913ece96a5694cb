"""Fractures of the generator are visible only in thin slices and bone kernels, and nothing else changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocess.demo.axial import axial_planes
from preprocess.demo.identity import identity
from preprocess.demo.job import SeriesJob
from preprocess.demo.plan import Kind, Quirk, SeriesPlan, StudyPlan, plan_studies
from preprocess.demo.writer import SeriesFacts
from shards.errors import FmctError

SEED, STUDIES, MATRIX = 5, 240, 64


@pytest.fixture(scope="module")
def plans() -> list[StudyPlan]:
    return plan_studies(SEED, STUDIES, MATRIX, fractures=0.3)


def test_fractures_leave_the_rest_of_an_export_unchanged(plans: list[StudyPlan]) -> None:
    without = [replace(plan, series=plan.series[:-1], fracture=None) for plan in plans]
    assert without == plan_studies(SEED, STUDIES, MATRIX)
    assert {plan.series[-1] for plan in plans} == {
        SeriesPlan(Kind.BONE, "bone_kernel", (Quirk.FINE,)),
    }


def test_a_share_of_the_studies_has_a_fracture_independently_of_findings(plans: list[StudyPlan]) -> None:
    broken = np.array([plan.fracture is not None for plan in plans])
    assert abs(broken.mean() - 0.3) < 3.5 * np.sqrt(0.3 * 0.7 / STUDIES)
    bleeds = np.array([plan.labels["any_bleed"] for plan in plans])
    scanner = np.array([plan.scanner.kvp for plan in plans])
    for fact in (bleeds, scanner):
        assert abs(np.corrcoef(broken, fact)[0, 1]) < 3.5 / np.sqrt(STUDIES)


def drawn(plan: StudyPlan, kind: Kind, *quirks: Quirk) -> np.ndarray:
    """HU that a fracture removes from each slice of a series around its plane: (slices, rows, columns)."""
    assert plan.fracture is not None
    patient = identity(SEED, plan.index, plan.patient)
    facts = SeriesFacts(patient, plan.scanner, "1.2", 1, "", "HFS", "")
    scanner = plan.scanner
    kernel = scanner.bone if kind is Kind.BONE else scanner.soft
    jobs = [
        SeriesJob(SEED, study, SeriesPlan(kind, quirks=quirks), facts)
        for study in (plan, replace(plan, fracture=None))
    ]
    planes = [
        one
        for one in axial_planes(jobs[0])
        if abs(one.position[2] - plan.head.origin[2] - plan.fracture.offset) < 8
    ]
    # An encoding that stores HU unchanged.
    encoding = replace(scanner.encoding, signed=True, bits_stored=16, intercept=0, padding=None)
    with_it, without = (
        np.stack(list(job.render(planes, kernel, encoding, job.noise()))).astype(int) for job in jobs
    )
    return np.asarray(without - with_it)


def test_a_fracture_shows_only_in_thin_slices_of_bone_kernels(plans: list[StudyPlan]) -> None:
    plan = next(plan for plan in plans if plan.fracture)
    assert not drawn(plan, Kind.SOFT).any()
    thin = drawn(plan, Kind.SOFT, Quirk.FINE)
    assert thin.max() > 600
    assert drawn(plan, Kind.BONE).max() > 150  # of 5 mm, by a share of the slice
    bone = drawn(plan, Kind.BONE, Quirk.FINE)
    assert bone.max() > 600
    assert 0.002 < (thin > 200).any(axis=0).mean() < 0.05  # a line is a small part of the image


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_0_to_1_is_refused(share: float, tmp_path: Path) -> None:
    from preprocess.demo.export import export

    with pytest.raises(FmctError, match=r"fractures=.*from 0 to 1"):
        export(tmp_path / "new", 1, 0, 32, fractures=share)
