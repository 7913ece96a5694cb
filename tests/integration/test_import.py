"""Volumes of other formats give the same shards as their DICOM; a bad row does not affect others."""

import csv
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_files import Acquisition, axial
from preprocess_export import KEY, Export, contents, run_inline, write_series
from typer.testing import CliRunner, Result
from volume_files import as_array, write_itk, write_nifti, write_nrrd_ras

from launch.cli import app
from preprocess.reasons import Reason
from shards import Dataset

SETTINGS = ("workers=1", "grid.spacing_mm=[4,4,4]", "output.shard_mib=1", "output.formats=[zarr]")


PATIENCE_S = 120


def key_file(folder: Path) -> Path:
    path = folder / "hmac.key"
    if not path.exists():
        path.write_text(KEY)
        path.chmod(0o600)
    return path


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def fmct(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def imported(table: Path, out: Path, *more: str, code: int = 0) -> Result:
    return fmct(
        "import", table, "--out", out, f"key_file={key_file(out.parent)}", *SETTINGS, *more, code=code
    )


def stored(out: Path) -> dict[str, np.ndarray]:
    """Voxels by key."""
    dataset = Dataset.open(out / "zarr")
    return {dataset.record(i).key: dataset.read(i) for i in range(len(dataset))}


TILTED = Acquisition(
    np.array([-70.0, -60, 0]) + np.arange(22)[:, None] * np.array([0, 0, 5.5]),
    row_step=np.array([0, np.cos(0.3), np.sin(0.3)]),
)


@pytest.mark.parametrize("acquisition", [axial(slices=20, gap=6.0, start=(-66, -60, 0)), TILTED])
def test_a_file_gives_the_voxels_and_the_measures_of_its_dicom(
    tmp_path: Path, acquisition: Acquisition
) -> None:
    write_series(tmp_path / "dicom", 0, 1, acquisition)
    export = Export(tmp_path / "dicom", tmp_path / "catalog.parquet", key_file(tmp_path))
    export.rescan()
    run_inline(export, tmp_path / "expected", export.config(formats=("zarr",)))
    hu, affine = as_array(acquisition)
    # A quaternion cannot express a shear, so a tilted stack has only an sform.
    codes = (1, 1) if acquisition is not TILTED else (0, 1)
    write_nifti(hu, affine, tmp_path / "a.nii", codes=codes)
    turned = affine.copy()
    turned[:3, 3] += affine[:3, 0] * (len(hu) - 1)
    turned[:3, 0] *= -1
    write_nifti(hu[::-1], turned, tmp_path / "deep" / "b.NII.GZ", np.float32, codes=codes)
    write_itk(hu[::-1], turned, tmp_path / "c.nrrd")
    write_itk(hu, affine, tmp_path / "d.mha")
    write_itk(hu, affine, tmp_path / "e.mhd", packed=False)
    write_nrrd_ras(hu, affine, tmp_path / "f.NRRD")
    np.save(tmp_path / "g.npy", hu.astype(np.float64))
    facts = {"kernel": "H30s", "kvp": "120", "thickness": "5", "manufacturer": "SIEMENS"}
    rows = [
        {"path": str(path), "patient": f"p{number}", "study": f"s{number}", **facts}
        for number, path in enumerate(
            ["a.nii", tmp_path / "deep" / "b.NII.GZ", "c.nrrd", "d.mha", "e.mhd", "f.NRRD", "g.npy"]
        )
    ]
    rows[-1]["affine"] = " ".join(map(repr, affine.ravel().tolist()))
    imported(write_table(tmp_path / "table.csv", rows), tmp_path / "out")

    (expected,) = pq.read_table(tmp_path / "expected" / "manifest.parquet").to_pylist()
    (voxels,) = stored(tmp_path / "expected").values()
    actual = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert len(actual) == len(rows)
    volumes = stored(tmp_path / "out")
    formats = ["metaimage", "metaimage", "nifti", "nifti", "npy", "nrrd", "nrrd"]
    assert sorted(row["transfer_syntax"] for row in actual) == formats
    for row in actual:
        # NIfTI keeps its affine in 32 bits, DICOM cosines in 9 digits: 1e-5 mm, which rounding makes 1 HU.
        assert np.abs(volumes[row["key"]].astype(int) - voxels).max() <= 1
        assert row["affine"] == pytest.approx(expected["affine"], abs=1e-4)
        assert row["scanner"] == expected["scanner"]
        # Each row is of another patient, and some files have identical values.
        assert set(row["flags"]) - {"same_scan"} == set(expected["flags"])
        for name in ("kernel_class", "kvp", "slice_thickness_mm", "slices", "manufacturer"):
            assert row[name] == expected[name]
        for name in (
            "head_ml",
            "head_height_mm",
            "air_hu",
            "brain_hu",
            "bone_hu",
            "agreement",
            "table_share",
        ):
            assert row[name] == pytest.approx(expected[name], abs=0.01)


def test_bad_rows_are_quarantined_with_reasons_and_affect_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "Doe^Jane"
    hu, affine = as_array(axial(slices=20, gap=6.0, start=(-66, -60, 0)))
    good = write_nifti(hu, affine, folder / "good.nii.gz")
    write_nifti(hu, affine, folder / "second.nii")
    write_nifti(hu, affine, tmp_path / "qzxwv.nii")
    (folder / "cut.nii.gz").write_bytes(good.read_bytes()[:-3000])
    (folder / "text.nii").write_text("no image")
    (folder / "empty.nii").touch()
    (folder / "slides.pptx").write_bytes(good.read_bytes())
    flipped = bytearray(good.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (folder / "flipped.nii.gz").write_bytes(flipped)
    odd = bytearray((folder / "second.nii").read_bytes())
    odd[112:120] = struct.pack("<2f", 1, float("nan"))  # scl_slope and scl_inter
    (folder / "odd.nii").write_bytes(odd)

    def row(path: str, number: int, **changes: str) -> dict[str, str]:
        return {"path": path, "patient": f"Doe^{number}", "study": f"study {number}", "kvp": "120", **changes}

    rows = {
        "good": (row("good.nii.gz", 0, patient=""), Reason.MISSING_PATIENT),
        "same file": (row("good.nii.gz", 1), None),
        "second": (row("second.nii", 2, series="x"), None),
        "repeats a path": (row("./good.nii.gz", 3), Reason.DUPLICATE_ROW),
        "repeats a series": (row("absent.nii", 2, series="x"), Reason.DUPLICATE_ROW),
        "absent": (row("absent.nii", 4), Reason.MISSING_FILE),
        "outside": (row("../qzxwv.nii", 5), Reason.PATH_OUTSIDE),
        "absolute": (row(str(tmp_path / "qzxwv.nii"), 6), None),
        "no study": (row("cut.nii.gz", 7, study=" "), Reason.MISSING_STUDY),
        "cut": (row("cut.nii.gz", 8), Reason.TRUNCATED_PIXEL_DATA),
        "flipped": (row("flipped.nii.gz", 9), Reason.TRUNCATED_PIXEL_DATA),
        "odd": (row("odd.nii", 17), Reason.BROKEN_HEADER),
        "text": (row("text.nii", 10), Reason.BROKEN_HEADER),
        "empty": (row("empty.nii", 11), Reason.EMPTY_FILE),
        "no volume": (row("slides.pptx", 12), Reason.UNSUPPORTED_FORMAT),
        "a folder": (row(".", 14), Reason.MISSING_FILE),
        "no path": (row("", 15), Reason.MISSING_FILE),
    }
    write_nifti(hu, affine, folder / "third.nii")
    rows["wrong kV"] = row("third.nii", 16, kvp="a lot"), Reason.INVALID_VALUE
    result = imported(write_table(folder / "table.csv", [one for one, _ in rows.values()]), tmp_path / "out")
    out = tmp_path / "out"
    expected = sorted(reason.value for _, reason in rows.values() if reason)
    quarantine = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert sorted(entry["reason"] for entry in quarantine) == expected
    assert len(stored(out)) == len(rows) - len(expected)
    files = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    for word in (b"Doe", b"good.nii", b"study ", b"qzxwv", KEY.encode()):
        assert word not in files
    assert "Doe^0" not in result.output


def test_a_kept_catalog_serves_select_and_trace_and_gives_the_same_bytes(tmp_path: Path) -> None:
    hu, affine = as_array(axial(slices=20, gap=6.0, start=(-66, -60, 0)))
    rows = []
    for number in range(3):
        write_nifti(hu, affine, tmp_path / f"{number}.nii.gz")
        rows.append({"path": f"{number}.nii.gz", "patient": f"p{number}", "study": f"s{number}"})
    table = write_table(tmp_path / "table.csv", rows)
    catalog, key = tmp_path / "catalog.parquet", key_file(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.nii.gz")}
    fmct("import", table, "--catalog", catalog)
    assert catalog.stat().st_mode & 0o777 == 0o600
    fmct("preprocess", catalog, "--out", tmp_path / "one", f"key_file={key}", *SETTINGS)
    imported(table, tmp_path / "two")
    assert (tmp_path / "one" / "manifest.parquet").read_bytes() == (
        tmp_path / "two" / "manifest.parquet"
    ).read_bytes()
    first = next(iter(stored(tmp_path / "one")))
    assert ".nii.gz" in fmct("trace", catalog, first, "--key-file", key).output
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.nii.gz")} == before
    assert not list(tmp_path.glob("*/catalog*"))


def test_a_killed_import_resumes_to_identical_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        hu, affine = as_array(axial(slices=20, gap=6.0, start=(-66 + number % 5, -60, 0)))
        hu += rng.integers(0, 4, hu.shape, np.int16)
        write_nifti(hu, affine, tmp_path / f"{number}.nii.gz")
        rows.append({"path": f"{number}.nii.gz", "patient": f"p{number}", "study": f"s{number}"})
    rows.append({"path": "absent.nii", "patient": "p", "study": "s"})
    table, out, unbroken = write_table(tmp_path / "table.csv", rows), tmp_path / "out", tmp_path / "unbroken"
    imported(table, unbroken)
    command = [sys.executable, "-m", "launch.cli", "import", str(table), "--out", str(out)]
    command += [f"key_file={key_file(tmp_path)}", *SETTINGS]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + PATIENCE_S
    while not list(out.glob("tasks/0*.json")) and process.poll() is None:  # one of its two tasks is done
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("tasks/0*.json")}
    assert kept
    imported(table, out)
    assert contents(out) == contents(unbroken)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list(out.glob("tasks/0*.json"))) > 1
    # A changed file is processed again, in its task only.
    write_nifti(hu + 1, affine, tmp_path / "0.nii.gz")
    imported(table, out)
    assert contents(out) != contents(unbroken)
