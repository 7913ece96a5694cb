"""Files of a demo series, encoded and drawn together, are those of its images one by one."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from pydicom.dataset import Dataset

from preprocess.demo.anatomy import POINTS_AT_ONCE
from preprocess.demo.axial import axial_planes
from preprocess.demo.identity import identity, uid
from preprocess.demo.job import SeriesJob
from preprocess.demo.plan import Kind, Quirk, SeriesPlan, StudyPlan, plan_studies
from preprocess.demo.series_files import SeriesFiles
from preprocess.demo.writer import SeriesFacts, ct_image, encode, slice_elements, transfer_syntax

SEED, MATRIX = 5, 64


def series(study: StudyPlan, *quirks: Quirk) -> SeriesJob:
    who = identity(SEED, study.index, study.patient)
    facts = SeriesFacts(who, study.scanner, uid(who.study_uid), 1, "HEAD", "HFS", transfer_syntax(quirks))
    return SeriesJob(SEED, study, SeriesPlan(Kind.SOFT, quirks=quirks), facts)


@pytest.mark.parametrize(
    "quirk", [Quirk.THIN, Quirk.IMPLICIT_VR, Quirk.BIG_ENDIAN, Quirk.RLE, Quirk.JPEG2000], ids=str
)
def test_bytes_are_those_of_pydicom_for_the_whole_image(quirk: Quirk) -> None:
    job = series(plan_studies(SEED, 1, MATRIX)[0], quirk)
    scanner = job.study.scanner
    planes = axial_planes(job)[:3]
    shared = ct_image(job.facts, planes[0], scanner.encoding, ("ORIGINAL",), scanner.soft, 0.0)
    files = SeriesFiles(shared, job.facts.transfer_syntax)
    rng = np.random.default_rng(0)
    for number, plane in enumerate(planes):
        thicker = replace(plane, thickness=plane.thickness + number)
        pixels = rng.integers(-100, 100, (MATRIX, MATRIX), np.int16)
        # UIDs of different lengths, so that the file meta information has another one too.
        own = partial(slice_elements, job.facts.uid[: 40 + number], number, thicker, pixels)
        whole = Dataset()
        whole.update(shared)
        whole.update(own())
        assert encode(whole, job.facts.transfer_syntax) == files.file(own())


def test_slices_drawn_together_are_those_drawn_one_by_one() -> None:
    study = next(plan for plan in plan_studies(SEED, 24, MATRIX, fractures=1.0) if plan.head.lesions)
    for kernel in (study.scanner.soft, study.scanner.bone):
        job = series(study, Quirk.TILT_POSITIVE, Quirk.FINE)
        planes = axial_planes(job)[50:70]
        assert len(planes) > POINTS_AT_ONCE // MATRIX**2
        rng = job.noise()
        together = np.stack(list(job.render(planes, kernel, study.scanner.encoding, job.noise())))
        apart = [next(job.render([plane], kernel, study.scanner.encoding, rng)) for plane in planes]
        np.testing.assert_array_equal(together, apart)
