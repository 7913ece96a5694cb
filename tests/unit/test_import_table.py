"""The table of `fmct import`: accepted forms, and its values in the catalog."""

import math
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dicom_files import axial
from volume_files import as_array, write_itk, write_nifti

from preprocess.csv_file import table_lines
from preprocess.dicom.catalog import read_catalog
from preprocess.imports.catalog import import_table
from preprocess.reasons import Reason
from preprocess.select.rejected import refusal_of
from shards.errors import FmctError

HU, AFFINE = as_array(axial(slices=12, gap=6.0))


def reasons(catalog: Path) -> dict[str, Reason | None]:
    """By patient."""
    refusals = {one.patient_id: refusal_of(one) for one in read_catalog(catalog)}
    return {patient: refusal.reason if refusal else None for patient, refusal in refusals.items()}


def test_a_parquet_table_holds_numbers_and_lists(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", HU)
    write_nifti(HU, AFFINE, tmp_path / "b.nii")
    rows = [
        {"path": "a.npy", "patient": 7, "study": 1, "kvp": 120.0, "affine": AFFINE.ravel().tolist()},
        {"path": "b.nii", "patient": 8, "study": 2, "kvp": math.nan, "affine": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    import_table(tmp_path / "table.parquet", tmp_path / "catalog.parquet")
    first, second = read_catalog(tmp_path / "catalog.parquet")
    assert (first.patient_id, first.study_uid, first.series_uid) == ("7", "1", "a.npy")
    assert (first.kvp, second.kvp) == (120.0, None)
    assert [len(one.instances) for one in (first, second)] == [12, 12]
    for one in (first, second):
        places = AFFINE[:3, 3] + np.arange(12)[:, None] * AFFINE[:3, 0]
        assert np.allclose([instance.position or () for instance in one.instances], places, atol=1e-4)


def test_a_missing_number_of_a_parquet_table_is_no_patient(tmp_path: Path) -> None:
    """Not one named nan, whose volumes would all be of one patient."""
    rows = {"path": ["a.npy", "b.npy"], "patient": [math.nan, 8.0], "study": [1.0, math.nan]}
    pq.write_table(pa.table(rows), tmp_path / "table.parquet")
    summary = import_table(tmp_path / "table.parquet", tmp_path / "catalog.parquet")
    assert summary.refused == {Reason.MISSING_PATIENT: 1, Reason.MISSING_STUDY: 1}


def test_whole_numbers_of_a_parquet_table_are_the_same_beside_a_missing_one(tmp_path: Path) -> None:
    """pandas stores them as floats: one patient must not get a second pseudonym."""
    cells = [7.0, -7.0, 2.0**53 - 1, 120.5, math.nan, math.inf]
    pq.write_table(pa.table({"patient": cells}), tmp_path / "table.parquet")
    lines = [values for _, values in table_lines(tmp_path / "table.parquet", "")]
    assert lines[1:] == [["7"], ["-7"], ["9007199254740991"], ["120.5"], [""], ["inf"]]


def test_a_path_that_the_system_refuses_costs_its_row_only(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", HU)
    (tmp_path / "loop.npy").symlink_to("loop.npy")
    placed = '"' + " ".join(map(str, AFFINE.ravel())) + '"'
    names = ["a.npy", "loop.npy", "n" * 300 + ".npy", "a.npy/b.npy", "no.npy"]
    rows = [f"{name},{number},{number},{placed}" for number, name in enumerate(names)]
    (tmp_path / "table.csv").write_text("\n".join(["path,patient,study,affine", *rows]))
    summary = import_table(tmp_path / "table.csv", tmp_path / "catalog.parquet")
    assert (summary.rows, summary.refused) == (5, {Reason.MISSING_FILE: 4})


def test_facts_reach_the_catalog_and_invalid_ones_reject_their_row(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", HU)
    for name in "bcdef":
        write_nifti(HU, AFFINE, tmp_path / f"{name}.nii")
    affine = " ".join(map(str, AFFINE.ravel()))
    (tmp_path / "table.csv").write_text(
        "path,patient,study,kernel,kvp,thickness,manufacturer,affine,remark\n"
        f"a.npy,1,1,H30s,120,5,SIEMENS,{affine},x\n"
        "b.nii,2,2,,,-5,,,\n"
        "c.nii,3,3,,,,,1 2 3,\n"
        f"d.nii,4,4,,,,,{affine},\n"
        "e.nii,5,5,,1e999,,,,\n"
        "f.nii,6,6\n"
        "./a.npy,7,7,,,,,,\n"
        ".\0/g.npy,8,8,,,,,,\n"
        "h.npy/x.nii,9,9,,,,,,\n"
    )
    summary = import_table(tmp_path / "table.csv", tmp_path / "catalog.parquet")
    assert summary.unread == ("remark",)
    wrong = Reason.INVALID_VALUE
    assert reasons(tmp_path / "catalog.parquet") == {
        **{"1": None, "2": wrong, "3": wrong, "4": wrong, "5": wrong, "6": wrong},
        **{"7": Reason.DUPLICATE_ROW, "8": wrong, "9": Reason.MISSING_FILE},
    }
    first = read_catalog(tmp_path / "catalog.parquet")[0]
    assert (first.kernel, first.kvp, first.texts.manufacturer) == ("H30s", 120, "SIEMENS")
    assert {instance.thickness for instance in first.instances} == {5}


def test_a_npy_file_without_an_affine_has_no_place(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", HU)
    (tmp_path / "table.csv").write_text("path,patient,study\na.npy,1,1\n")
    import_table(tmp_path / "table.csv", tmp_path / "catalog.parquet")
    assert reasons(tmp_path / "catalog.parquet") == {"1": Reason.MISSING_GEOMETRY}


@pytest.mark.parametrize(
    "text", ["path,patient\na,b\n", "path,patient,study\n", "path,path,patient,study\na,a,b,c\n"]
)
def test_a_table_with_wrong_columns_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(FmctError, match=r"table\.csv"):
        import_table(tmp_path / "table.csv", tmp_path / "catalog.parquet")
    assert not (tmp_path / "catalog.parquet").exists()
    with pytest.raises(FmctError, match="is the input"):
        import_table(tmp_path / "table.csv", tmp_path / "table.csv")


def test_values_in_sidecars_count_as_part_of_the_file(tmp_path: Path) -> None:
    """Another .raw with the same .mhd changes the inputs of the plan's digests."""
    write_itk(HU, AFFINE, tmp_path / "a.mhd", packed=False)
    (tmp_path / "table.csv").write_text("path,patient,study\na.mhd,1,1\n")
    catalog = tmp_path / "catalog.parquet"
    import_table(tmp_path / "table.csv", catalog)
    before = catalog.read_bytes()
    import_table(tmp_path / "table.csv", catalog)
    assert catalog.read_bytes() == before
    os.utime(tmp_path / "a.raw", (1, 1))
    import_table(tmp_path / "table.csv", catalog)
    assert catalog.read_bytes() != before


def test_a_missing_library_is_reported_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_itk(HU, AFFINE, tmp_path / "a.mha")
    (tmp_path / "table.csv").write_text("path,patient,study\na.mha,1,1\n")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(FmctError, match=r"fmct-hpc\[import\]"):
        import_table(tmp_path / "table.csv", tmp_path / "catalog.parquet")
