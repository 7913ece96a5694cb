"""The plan of the demo's studies: only the bleed itself may predict the label."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from preprocess.demo.head import draw_anatomy
from preprocess.demo.lesions import Bleed
from preprocess.demo.plan import STUDY_SERIES, VOLUME, Kind, Quirk, StudyPlan, plan_studies
from preprocess.demo.scanners import SCANNERS

ROUND = 2 * len(SCANNERS) * len(STUDY_SERIES)


def bleeds(study: StudyPlan) -> bool:
    return bool(study.labels["any_bleed"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_scanner_has_balanced_bleeds(seed: int) -> None:
    studies = plan_studies(seed, ROUND, 64)
    seen = Counter((study.scanner.manufacturer, bleeds(study)) for study in studies)
    assert set(seen.values()) == {ROUND // len(SCANNERS) // 2}


def test_every_kind_of_bleed_has_its_share() -> None:
    studies = plan_studies(0, 60, 64)
    for bleed in Bleed:
        assert sum(study.labels[bleed.value] for study in studies) >= 6


def test_every_quirk_occurs_with_every_scanner() -> None:
    studies = plan_studies(0, ROUND, 64)
    pairs = {(study.scanner.manufacturer, study.index % len(STUDY_SERIES)) for study in studies}
    assert len(pairs) == len(SCANNERS) * len(STUDY_SERIES)


def test_the_head_and_its_pose_do_not_depend_on_the_label() -> None:
    studies = plan_studies(7, 600, 64)
    label = np.array([bleeds(study) for study in studies])
    for study in studies[:20]:
        bare = replace(study.head, lesions=(), rotation=(0, 0, 0), origin=(0, 0, 0), head_rest=False)
        assert bare == draw_anatomy(7, study.patient)
    facts = {
        **{f"scale {axis}": [study.head.scale[axis] for study in studies] for axis in range(3)},
        **{f"rotation {axis}": [study.head.rotation[axis] for study in studies] for axis in range(3)},
        "grey": [study.head.grey for study in studies],
        "ventricles": [study.head.ventricles for study in studies],
        "atrophy": [study.head.atrophy for study in studies],
        "calcified": [study.head.calcified_plexus for study in studies],
        "quirk": [study.index % len(STUDY_SERIES) for study in studies],
    }
    for name, values in facts.items():
        # 600 unrelated pairs correlate within ±3.5 / sqrt(600) (normal approximation).
        assert abs(np.corrcoef(label, np.array(values, float))[0, 1]) < 3.5 / np.sqrt(600), name


def test_a_longer_export_starts_with_the_shorter_one() -> None:
    assert plan_studies(4, 30, 64)[:13] == plan_studies(4, 13, 64)
    assert plan_studies(4, 13, 64) != plan_studies(5, 13, 64)


def test_some_patients_come_twice() -> None:
    visits = Counter(study.patient for study in plan_studies(0, 24, 64))
    assert Counter(visits.values()) == {1: 16, 2: 4}


def test_twelve_studies_show_everything_and_each_gives_one_volume() -> None:
    series = [plan for study in plan_studies(0, 12, 64) for plan in study.series]
    assert {plan.kind for plan in series} == set(Kind)
    everything = {*Quirk} - {Quirk.FINE}  # exists only with fractures
    assert {quirk for plan in series for quirk in plan.quirks} == everything
    for study in plan_studies(0, 12, 64):
        assert [plan.expected for plan in study.series].count(VOLUME) == 1
