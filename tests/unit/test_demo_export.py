"""The synthetic export on disk, read back by pydicom and by our own scan."""

import csv
import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest

from preprocess.build.result import BuildResult
from preprocess.build.study import StudyBuilder
from preprocess.config import GridConfig
from preprocess.demo.anatomy import head_hu
from preprocess.demo.export import export
from preprocess.demo.identity import MARK, UID_ROOT
from preprocess.demo.lesions import Bleed
from preprocess.demo.measures import COLUMNS, survival, volumes
from preprocess.demo.plan import JOINED, VOLUME, StudyPlan, plan_studies
from preprocess.dicom.catalog import read_catalog
from preprocess.reasons import Reason, Rejection
from preprocess.scan.run import rejected_path, scan
from preprocess.select.candidate import Candidate
from preprocess.select.rules import SelectConfig
from preprocess.select.study import select_study, studies
from preprocess.volume.build import build_volume
from shards.errors import FmctError

SEED, STUDIES, MATRIX = 5, 12, 64
REAL = Path(__file__).parents[1] / "data" / "ge_head_tilt18"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "export"
    summary = export(folder, STUDIES, SEED, MATRIX, real=REAL)
    assert summary.files == len(files(folder / "dicom"))
    return folder


@pytest.fixture(scope="module")
def truth(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "truth.json").read_text())
    return content


@pytest.fixture(scope="module")
def images(out: Path, truth: dict[str, Any]) -> dict[str, list[tuple[str, pydicom.FileDataset]]]:
    """(path, data set) of every synthetic DICOM object, by series."""
    others = {other["path"] for other in truth["other_files"]}
    collected: dict[str, list[tuple[str, pydicom.FileDataset]]] = {}
    for path in files(out / "dicom"):
        name = path.relative_to(out / "dicom").as_posix()
        if name not in others and not name.startswith("real/"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the truncated files
                data = pydicom.dcmread(path)
            collected.setdefault(data.SeriesInstanceUID, []).append((name, data))
    return collected


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def series_truths(truth: dict[str, Any]) -> list[tuple[StudyPlan, dict[str, Any]]]:
    plans = plan_studies(SEED, STUDIES, MATRIX)
    return [(plans[study["index"]], series) for study in truth["studies"] for series in study["series"]]


def planes(data: pydicom.FileDataset) -> list[Any]:
    """An image, or the frames of an enhanced one, with the attributes that `points` and `hounsfield` read."""
    if "PerFrameFunctionalGroupsSequence" not in data:
        return [data]
    shared = data.SharedFunctionalGroupsSequence[0]
    return [
        SimpleNamespace(
            Rows=data.Rows,
            Columns=data.Columns,
            PixelSpacing=shared.PixelMeasuresSequence[0].PixelSpacing,
            ImageOrientationPatient=shared.PlaneOrientationSequence[0].ImageOrientationPatient,
            ImagePositionPatient=own.PlanePositionSequence[0].ImagePositionPatient,
            RescaleSlope=own.PixelValueTransformationSequence[0].RescaleSlope,
            RescaleIntercept=own.PixelValueTransformationSequence[0].RescaleIntercept,
            pixel_array=pixels,
        )
        for own, pixels in zip(data.PerFrameFunctionalGroupsSequence, data.pixel_array, strict=True)
    ]


def points(data: Any) -> np.ndarray:
    """LPS mm (rows, columns, 3) of the pixels, by the equation of PS3.3 C.7.6.2.1.1."""
    across, down = np.array(data.ImageOrientationPatient, float).reshape(2, 3)
    row_distance, column_distance = map(float, data.PixelSpacing)
    i, j = np.indices((data.Rows, data.Columns))
    steps = (j * column_distance)[..., None] * across + (i * row_distance)[..., None] * down
    return np.asarray(np.array(data.ImagePositionPatient, float) + steps)


def hounsfield(data: Any) -> np.ndarray:
    return np.asarray(data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept))


def test_same_seed_same_bytes_whatever_the_workers(out: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    again = tmp_path / "again"
    export(again, STUDIES, SEED, MATRIX, REAL, workers=2, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(done + 1, STUDIES) for done in range(STUDIES)]
    first, second = files(out), files(again)
    assert [p.relative_to(out) for p in first] == [p.relative_to(again) for p in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    assert list(tmp_path.iterdir()) == [again]


def test_truth_lists_every_file(
    truth: dict[str, Any], images: dict[str, list[tuple[str, pydicom.FileDataset]]]
) -> None:
    listed = {series["series_instance_uid"]: series["files"] for _, series in series_truths(truth)}
    assert {uid: len(files) for uid, files in images.items()} == listed
    syntaxes = {data.file_meta.TransferSyntaxUID.name for files in images.values() for _, data in files}
    assert len(syntaxes) == 6, syntaxes


def test_every_file_decodes_except_the_truncated_ones(
    truth: dict[str, Any], images: dict[str, list[tuple[str, pydicom.FileDataset]]]
) -> None:
    cut = {path for _, series in series_truths(truth) for path in series["truncated_files"]}
    assert len(cut) == 4
    for name, data in (image for files in images.values() for image in files):
        if name in cut:
            with pytest.raises(ValueError, match="pixel data"):
                _ = data.pixel_array
        elif "PixelData" in data:
            assert (
                data.pixel_array.size == int(data.get("NumberOfFrames", 1)) * MATRIX**2 * data.SamplesPerPixel
            )
        else:
            assert data.Modality == "SR"


def test_pixels_are_the_head_at_their_patient_coordinates(
    truth: dict[str, Any], images: dict[str, list[tuple[str, pydicom.FileDataset]]]
) -> None:
    middle = np.hypot(*(np.indices((MATRIX, MATRIX)) - (MATRIX - 1) / 2)) < 0.45 * MATRIX
    for study, series in series_truths(truth):
        if series["expected"] != VOLUME:
            continue
        cut = series["truncated_files"]
        files = [data for name, data in images[series["series_instance_uid"]] if name not in cut]
        slices = [plane for data in files for plane in planes(data)]
        noise = study.scanner.soft.noise_hu
        for data in sorted(slices, key=lambda data: float(data.ImagePositionPatient[2]))[5::9]:
            error = (hounsfield(data) - head_hu(points(data), study.head))[middle]
            assert abs(np.mean(error)) < 0.5, series["quirks"]
            assert 0.8 * noise < np.std(error) < 1.2 * noise, series["quirks"]


def test_labels_name_the_heads_with_bleeds(out: Path) -> None:
    with (out / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == STUDIES
    for row, study in zip(rows, plan_studies(SEED, STUDIES, MATRIX), strict=True):
        kinds = {lesion.kind.value for lesion in study.head.lesions}
        assert {name for name, value in row.items() if value == "1"} == kinds | (
            {"any_bleed"} if kinds else set()
        )


def test_measures_are_written_beside_the_labels(out: Path) -> None:
    labels, measured = ((out / name).read_text().splitlines() for name in ("labels.csv", "measures.csv"))
    assert all(own.startswith(f"{label},") for label, own in zip(labels, measured, strict=True))
    with (out / "measures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[-len(COLUMNS) :] == COLUMNS
    for row in rows:
        bleeds = row["any_bleed"] == "1"
        assert (float(row["haematoma_ml"]) > 0, row["haematoma_grade"] != "0") == (bleeds, bleeds)
        assert not bleeds or row[list(Bleed)[int(row["largest_bleed"]) - 1].value] == "1"


def test_the_volume_of_a_bleed_is_that_of_its_changed_voxels() -> None:
    plans = plan_studies(SEED, 30, MATRIX)
    head = next(p.head for p in plans if [lesion.kind for lesion in p.head.lesions] == [Bleed.EPIDURAL])
    axes = [np.arange(-110, 110, 2.0) + middle for middle in head.origin]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    without = head_hu(points, replace(head, lesions=()))
    share = (head_hu(points, head) - without) / (head.lesions[0].hu - without)
    counted = (share[abs(head.lesions[0].hu - without) > 5] > 0.5).sum() * 8 / 1000
    # At the bone, the share cannot be computed from the intensity.
    assert volumes(head).blood[Bleed.EPIDURAL] == pytest.approx(counted, rel=0.06)


def test_the_hazard_of_death_is_as_declared() -> None:
    for blood, ventricles in ((0.0, 31.0), (100.0, 31.0), (0.0, 51.0)):
        survivals = [survival(SEED, index, blood, ventricles) for index in range(4000)]
        deaths, days = sum(died for _, died in survivals), sum(days - 0.5 for days, _ in survivals)
        declared = np.exp(0.01 * blood + 0.05 * (ventricles - 31)) / 400
        assert deaths / days == pytest.approx(declared, rel=0.06)


def test_identities_are_marked_as_fake(images: dict[str, list[tuple[str, pydicom.FileDataset]]]) -> None:
    marked = ("PatientName", "PatientID", "AccessionNumber", "InstitutionName", "ReferringPhysicianName")
    for _, data in (image for files in images.values() for image in files):
        assert all(
            MARK in str(data[name].value) for name in (*marked, "StudyDescription", "SeriesDescription")
        )
        uids = (data.StudyInstanceUID, data.SeriesInstanceUID, data.SOPInstanceUID)
        assert all(uid.startswith(UID_ROOT) and uid.is_valid for uid in uids)


def test_preprocessing_gives_the_expected_outcomes(out: Path, truth: dict[str, Any], tmp_path: Path) -> None:
    summary = scan(out / "dicom", tmp_path / "catalog.parquet")
    assert rejected_path(tmp_path / "catalog.parquet").exists()
    assert sum(summary.rejected.values()) == sum(
        other["kind"] in ("empty", "torn_header") for other in truth["other_files"]
    )
    truths = {series["series_instance_uid"]: series for _, series in series_truths(truth)}
    grid = GridConfig(spacing_mm=(3, 3, 3))
    config = SelectConfig(keep="all")
    dropped: dict[str, dict[Reason, int]] = {}

    def make(candidate: Candidate, whole: bool) -> BuildResult:
        try:
            volume = build_volume(candidate.series, grid, config)
        except Rejection as rejection:
            return BuildResult(rejection=rejection)
        dropped[candidate.series.series_uid] = {
            reason: count for reason, count in volume.dropped if reason != Reason.MISSING_SLICES
        }
        return BuildResult(volume)

    for study in studies(read_catalog(tmp_path / "catalog.parquet")):
        builder = StudyBuilder(select_study(study, config), "all", make)
        for _ in builder:
            pass
        for outcome in builder.outcomes():
            uid = outcome.series.series_uid
            expected = truths.get(uid, {"expected": VOLUME, "dropped": {}, "kind": "real"})
            if outcome.rejection:
                assert outcome.rejection.reason == expected["expected"], expected
                continue
            assert expected["expected"] == (VOLUME if uid in dropped else JOINED), expected
            assert dropped.get(uid, {}) == expected["dropped"], expected


def test_the_real_series_is_copied_unchanged(out: Path) -> None:
    for source in files(REAL):
        assert (out / "dicom" / "real" / source.name).read_bytes() == source.read_bytes()


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FmctError, match=r"not an empty folder"):
        export(tmp_path, 1, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "new", 1, 0, 32, progress=fail)
    with pytest.raises(FmctError, match="no such folder"):
        export(tmp_path / "new", 1, 0, 32, real=tmp_path / "absent")
    with pytest.raises(FmctError, match="matrix=8: give at least 32"):
        export(tmp_path / "new", 1, 0, 8)
    assert not list(tmp_path.iterdir())
