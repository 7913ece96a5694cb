"""Inconsistent Patient IDs: a series divided between two, and a scan with two."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pydicom
import pytest
from dicom_files import axial
from header_series import series, stack
from preprocess_export import Export, make_export, run_inline, write_series

from preprocess.dicom.catalog import Instance, Series
from preprocess.explain import explain
from preprocess.reasons import Reason
from preprocess.scan.identities import SeveralPatients
from preprocess.scan.run import scan
from preprocess.select.divided import divided
from shards import Dataset
from shards.patients import tied, tied_patients

SLICES = stack()


def under(patient: str, images: tuple[Instance, ...]) -> Series:
    return series(images, patient_id=patient)


def again(images: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """Another patient's scan with reused UIDs."""
    return tuple(replace(i, sop_uid=f"2.{i.sop_uid}") for i in images)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (SLICES[:15], SLICES[15:], {"old": 15, "new": 15}),
        (SLICES[::2], SLICES[1::2], {"old": 15, "new": 15}),
        (SLICES[:19], SLICES[15:], {"old": 11, "new": 15}),
        (SLICES[:10], SLICES, {"old": 20}),
        (SLICES, SLICES, {}),
        (SLICES, again(SLICES), {}),
        (SLICES[:20], again(SLICES), {}),
    ],
)
def test_a_series_with_two_patient_ids_is_refused(
    old: tuple[Instance, ...], new: tuple[Instance, ...], expected: dict[str, int]
) -> None:
    actual = divided([under("old", old), under("new", new)])
    assert {
        patient: int(r.detail.split(", ")[1].split()[0]) for (patient, *_), r in actual.items()
    } == expected
    assert {rejection.reason for rejection in actual.values()} <= {Reason.SEVERAL_PATIENTS}


@pytest.mark.parametrize("patient", ["patient", ""])
def test_a_series_in_two_studies_is_refused(patient: str) -> None:
    """Without a Patient ID the two may be scans of two patients under a reused UID."""
    one = series(SLICES[:15], patient_id=patient, study_uid="1")
    other = series(SLICES[15:], patient_id=patient, study_uid="9")
    refused = divided([one, other])
    assert {key[1]: rejection.reason for key, rejection in refused.items()} == (
        {"1": Reason.SEVERAL_STUDIES, "9": Reason.SEVERAL_STUDIES} if patient else {}
    )
    assert divided([one, series(again(SLICES), patient_id=patient, study_uid="9")]) == {}
    followup = tuple(replace(image, frame_of_reference_uid="1.2.3.9") for image in SLICES[15:])
    assert divided([one, series(followup, patient_id=patient, study_uid="9")]) == {}


def edit(folder: Path, change: Callable[[pydicom.Dataset, int], None]) -> None:
    for number, path in enumerate(sorted(folder.glob("1-*.dcm"))):
        data = pydicom.dcmread(path)
        change(data, number)
        data.save_as(path)


def an_export(where: Path) -> Export:
    """In study 2 the ID changes within the series, in study 4 the study's UID; study 3 is study 0 with other
    IDs."""
    export = make_export(where, studies=3)

    def cut(data: pydicom.Dataset, number: int) -> None:
        if number >= 9:
            data.PatientID = "SECRET"

    edit(export.folder / "02", cut)
    write_series(export.folder, 3, 1, axial(slices=20, gap=6.0, start=(-70, -60, 0)))

    def other(data: pydicom.Dataset, number: int) -> None:
        data.PatientID = "SECRET TOO"

    edit(export.folder / "03", other)
    write_series(export.folder, 4, 1, axial(slices=20, gap=6.0, start=(-70, -60, 0)))

    def of_two_studies(data: pydicom.Dataset, number: int) -> None:
        data.PatientID = "SECRET FOUR"
        if number >= 9:
            data.StudyInstanceUID = "1.2.3.444"

    edit(export.folder / "04", of_two_studies)
    return export


def test_both_are_reported_and_neither_becomes_two_patients(tmp_path: Path) -> None:
    export = an_export(tmp_path)
    result = scan(export.folder, export.catalog)
    assert result.several_patients == SeveralPatients(series=1, studies=1)
    assert "1 series and 1 studies" in str(result)
    assert "SECRET" not in str(result)

    config = export.config(formats=("zarr",))
    table = explain(export.catalog, config).table.to_pylist()
    assert [row["decision"] for row in table].count("several_patients") == 2
    assert [row["decision"] for row in table].count("several_studies") == 2
    out = tmp_path / "out"
    summary = run_inline(export, out, config)
    rejected = pq.read_table(out / "quarantine.parquet").to_pylist()
    cut = [row for row in rejected if row["reason"] == "several_patients"]
    assert len(cut) == summary.rejected_by_reason["several_patients"] == 2
    assert len({row["patient_key"] for row in cut}) == 2
    assert summary.rejected_by_reason["several_studies"] == 2
    assert all("(0010,0020)" in row["detail"] and "SECRET" not in row["detail"] for row in cut)

    volumes = pq.read_table(out / "manifest.parquet").to_pylist()
    same = [row for row in volumes if "same_scan" in row["flags"]]
    assert len(same) == summary.flagged_by_reason["same_scan"] == 2
    assert len({row["source_digest"] for row in same}) == 1
    assert len({row["patient_key"] for row in same}) == 2
    assert "2 volumes are scans" in str(summary)
    assert "same scan" in (out / "qc" / "report.html").read_text()
    index = Dataset.open(out / "zarr").index
    assert tied(index, tied_patients(index)) == 1
