"""A head stored as base and vault gives, voxel by voxel, the same volume as in one series."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import scanned

from preprocess.build.result import BuildResult
from preprocess.build.study import StudyBuilder
from preprocess.config import GridConfig
from preprocess.demo.axial import axial_files
from preprocess.demo.identity import identity
from preprocess.demo.job import SeriesJob
from preprocess.demo.plan import Kind, Quirk, SeriesPlan, plan_studies
from preprocess.demo.scanners import SCANNERS
from preprocess.demo.writer import SeriesFacts, transfer_syntax
from preprocess.dicom.catalog import Series
from preprocess.select.candidate import Candidate
from preprocess.select.rules import SelectConfig
from preprocess.select.study import select_study
from preprocess.volume.build import Volume, build_volume

REAL = Path(__file__).parents[1] / "data" / "ge_head_tilt18"
CONFIG = SelectConfig()


def only_volume(study: list[Series], grid: GridConfig) -> tuple[Volume, Candidate]:
    """The volume of a study, joined from all of its series."""

    def make(candidate: Candidate, whole: bool) -> BuildResult:
        return BuildResult(build_volume(candidate.series, grid, CONFIG))

    builder = StudyBuilder(select_study(study, CONFIG), CONFIG.keep, make)
    ((candidate, made),) = builder
    outcomes = builder.outcomes()
    assert [outcome.rejection for outcome in outcomes] == [None] * len(study)
    assert made.volume
    return made.volume, candidate


def assert_same(split: Volume, whole: Volume) -> None:
    assert np.array_equal(split.voxels, whole.voxels)
    assert np.array_equal(split.affine, whole.affine)
    assert split.source_digest == whole.source_digest
    assert (split.facts, split.measures, split.dropped) == (whole.facts, whole.measures, whole.dropped)


def test_the_slabs_of_a_real_tilted_head_as_two_series(tmp_path: Path) -> None:
    """GE HiSpeed, gantry at 18.5 degrees: 14 slices of 4.22 mm, a step of 1.14, 14 slices of 7.38 mm."""
    (whole,) = (one for one in scanned(REAL, tmp_path / "whole.parquet") if one.modality == "CT")
    for instance in whole.instances:
        data = pydicom.dcmread(instance.path)
        if data.SliceThickness > 5:
            data.SeriesInstanceUID = "1.2.3.4"
        (tmp_path / "split").mkdir(exist_ok=True)
        data.save_as(tmp_path / "split" / instance.path.name)
    split = scanned(tmp_path / "split")
    assert len(split) == 2
    joined, candidate = only_volume(split, GridConfig())
    assert [part.slices for part in candidate.parts] == [14, 14]
    assert candidate.parts[1].low_mm - candidate.parts[0].high_mm == pytest.approx(1.08, abs=0.01)
    assert_same(joined, only_volume([whole], GridConfig())[0])


def write_series(folder: Path, scanner: int, number: int, quirks: tuple[Quirk, ...]) -> None:
    """A series of the generator's first study, without noise, which is drawn per series."""
    machine = SCANNERS[scanner]
    quiet = replace(machine, soft=replace(machine.soft, noise_hu=0.0))
    study = replace(plan_studies(3, 1, 96)[0], scanner=quiet)
    facts = SeriesFacts(
        identity=identity(3, 0, 0),
        scanner=quiet,
        uid=f"1.2.3.{number}",
        number=number,
        description="HEAD",
        patient_position="HFS",
        transfer_syntax=transfer_syntax(quirks),
    )
    folder.mkdir(exist_ok=True)
    for file in axial_files(SeriesJob(3, study, SeriesPlan(Kind.SOFT, quirks=quirks), facts)):
        (folder / f"{number}-{file.number}").write_bytes(file.content)


@pytest.mark.parametrize(
    ("scanner", "tilt"), [(0, ()), (1, (Quirk.TILT_POSITIVE,)), (2, (Quirk.TILT_NEGATIVE,)), (3, ())]
)
def test_the_generators_head_as_base_and_vault(scanner: int, tilt: tuple[Quirk, ...], tmp_path: Path) -> None:
    write_series(tmp_path / "whole", scanner, 1, (Quirk.TWO_SLABS, *tilt))
    write_series(tmp_path / "split", scanner, 2, (Quirk.VAULT, *tilt))
    write_series(tmp_path / "split", scanner, 1, (Quirk.BASE, *tilt))
    grid = GridConfig(spacing_mm=(2, 2, 2))
    joined, candidate = only_volume(scanned(tmp_path / "split"), grid)
    assert [part.slices for part in candidate.parts] == [18, 15]
    assert_same(joined, only_volume(scanned(tmp_path / "whole"), grid)[0])
