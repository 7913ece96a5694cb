"""New scans as NIfTI, arrays and folders of files give the features of their DICOM; others are refused."""

import json
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_files import Acquisition, axial
from new_scan_inputs import data as data
from new_scan_inputs import encoder as encoder
from new_scan_inputs import export as export
from preprocess_export import head, write_series
from pydicom.data import get_testdata_file
from volume_files import as_array, write_nifti

import fmct_hpc
from fmct_hpc.inference.readers import read_scans
from fmct_hpc.inference.write import write_features
from fmct_hpc.train.export import load_encoder
from shards.errors import FmctError


def test_nifti_and_arrays_give_the_features_of_their_dicom(tmp_path: Path, encoder: Path) -> None:
    acquisition = axial(slices=20, gap=6.0, start=(-66, -60, 0))
    slices = write_series(tmp_path / "dicom", 0, 1, acquisition)
    with zipfile.ZipFile(tmp_path / "exam.zip", "w") as archive:
        for path in slices:
            archive.write(path, path.name)
    acquisition.write_frames(tmp_path / "frames.dcm", head, enhanced=True)
    (dicom,) = fmct_hpc.features(tmp_path / "dicom", encoder)
    hu, affine = as_array(acquisition)
    # Stored from the vertex down, from left to right, as floats: other indices of the same points.
    turned = affine.copy()
    turned[:3, 3] += affine[:3, 0] * (len(hu) - 1)
    turned[:3, 0] *= -1
    loaded = load_encoder(encoder)
    for scan in (
        next(fmct_hpc.features(write_nifti(hu, affine, tmp_path / "a.nii.gz"), encoder)),
        next(fmct_hpc.features(write_nifti(hu[::-1], turned, tmp_path / "b.nii", np.float32), loaded)),
        next(fmct_hpc.features(hu, loaded, affine=affine)),
        *fmct_hpc.features(tmp_path / "exam.zip", loaded),
        *fmct_hpc.features(tmp_path / "frames.dcm", loaded),
    ):
        assert scan.patches == pytest.approx(dicom.patches, abs=1e-5)
        assert scan.centres_mm == pytest.approx(dicom.centres_mm, abs=1e-5)
    with pytest.raises(FmctError, match="an array requires its affine"):
        fmct_hpc.features(hu, loaded)
    with pytest.raises(FmctError, match="device gpu:9: not usable here, only cpu"):
        fmct_hpc.features(tmp_path / "exam.zip", loaded, device="gpu:9")


def chest(points: np.ndarray) -> np.ndarray:
    x, y, _ = np.moveaxis(points, -1, 0)
    body = (x / 60) ** 2 + (y / 45) ** 2 < 1
    lungs = ((np.abs(x) - 26) / 20) ** 2 + (y / 32) ** 2 < 1
    return np.where(lungs, -800, np.where(body, 40, -1000))


def wide(points: np.ndarray) -> np.ndarray:
    x, y, _ = np.moveaxis(points, -1, 0)
    return np.where((x / 170) ** 2 + (y / 110) ** 2 < 1, 40, -1000)


def test_scans_other_than_head_ct_are_refused_with_the_reason(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_encoder(encoder)

    def refusal(source: Path) -> str:
        with pytest.raises(FmctError) as caught:
            list(fmct_hpc.features(source, loaded))
        return str(caught.value)

    (tmp_path / "mr").mkdir()
    (tmp_path / "mr" / "1").write_bytes(Path(str(get_testdata_file("MR_small.dcm"))).read_bytes())
    assert "no CT among the DICOM files (found 1 of MR)" in refusal(tmp_path / "mr")

    acquisition = axial(slices=20, gap=6.0)
    write_series(tmp_path / "stated", 0, 1, acquisition, BodyPartExamined="CHEST")
    assert "none of 1 series is a head CT for this encoder: 1 × body_part" in refusal(tmp_path / "stated")
    acquisition.write(tmp_path / "unstated", chest)
    assert "density of lung" in refusal(tmp_path / "unstated")
    large = Acquisition(acquisition.positions, spacing=(8.0, 8.0))
    large.positions = large.positions - np.array([120, 130, 0])
    large.write(tmp_path / "adult", wide)
    assert "mm wide, a head has at most 230" in refusal(tmp_path / "adult")

    hu, affine = as_array(acquisition)
    doubled = affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    assert "slice_gap: a gap of 12.00 mm" in refusal(write_nifti(hu, doubled, tmp_path / "2.nii"))
    halved = affine @ np.diag([0.3, 0.3, 0.3, 1.0])
    assert "coverage_too_small" in refusal(write_nifti(hu, halved, tmp_path / "3.nii"))
    assert "hu_out_of_range" in refusal(write_nifti(hu // 8 + 125, affine, tmp_path / "mr.nii"))
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), None), tmp_path / "nowhere.nii")
    assert "orientation in the patient is unknown" in refusal(tmp_path / "nowhere.nii")
    (tmp_path / "text").write_text("no image")
    assert f"{tmp_path / 'text'}: no readable DICOM (found 1 other files)" in refusal(tmp_path / "text")
    (tmp_path / "text.nii").write_text("no image")
    assert "not a readable NIfTI file" in refusal(tmp_path / "text.nii")
    assert "no such file or folder" in refusal(tmp_path / "absent")

    info = loaded[1]
    unrecorded = info.model_copy(update={"preprocessing": None})
    with pytest.raises(FmctError, match="does not record how its training volumes were preprocessed"):
        next(read_scans(tmp_path / "stated", unrecorded))
    changed = json.loads(json.dumps(info.preprocessing).replace("-500.0", "-400.0"))
    with pytest.raises(FmctError, match="this version preprocesses"):
        next(read_scans(tmp_path / "stated", info.model_copy(update={"preprocessing": changed})))
    monkeypatch.setattr("fmct_hpc.inference.readers.entry_points", lambda group: [])
    with pytest.raises(FmctError, match="no reader of DICOM or NIfTI is installed"):
        list(fmct_hpc.features(tmp_path / "stated", loaded))


def test_a_folder_of_files_gives_the_features_of_each_file(tmp_path: Path, encoder: Path) -> None:
    loaded = load_encoder(encoder)
    hu, affine = as_array(axial(slices=20, gap=6.0))
    folder = tmp_path / "Doe^Jane"
    (folder / "deeper").mkdir(parents=True)
    files = [folder / "a.nii.gz", folder / "b.nii", folder / "deeper" / "c.nii"]
    files = [write_nifti(np.roll(hu, n, axis=1), affine, file) for n, file in enumerate(files)]
    (folder / "a.json").write_text("{}")
    (folder / "._a.nii.gz").write_text("a file server's")
    alone = [next(fmct_hpc.features(file, loaded)) for file in files]
    assert len({scan.key for scan in alone}) == 3
    for source in (folder, files, [str(folder)]):
        actual = list(fmct_hpc.features(source, loaded, batch=2))
        assert [(scan.key, scan.path) for scan in actual] == [(scan.key, scan.path) for scan in alone]
        for scan, same in zip(actual, alone, strict=True):
            assert scan.patches == pytest.approx(same.patches, abs=1e-5)
            assert (scan.study_key, scan.patient_key) == (None, None)
    # Refused scans come after the others, by number, and do not affect them.
    (folder / "b.nii").write_text("no image")
    scans = fmct_hpc.features(folder, loaded, batch=4)
    assert [next(scans).key, next(scans).key] == [alone[0].key, alone[2].key]
    with pytest.raises(FmctError, match=r"file 2 of 3 by name: not a readable NIfTI file"):
        next(scans)
    several = fmct_hpc.features([tmp_path / "absent", files[0], tmp_path / "gone"], loaded)
    assert next(several).key == alone[0].key
    with pytest.raises(FmctError) as caught:
        next(several)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        *(str(tmp_path / name) for name in ("absent", "gone")),
    ]
    with pytest.raises(FmctError, match="no path given"):
        fmct_hpc.features([], loaded)
    written = write_features([folder, files[0]], encoder, tmp_path / "out")
    assert (written.scans, written.paths) == (3, 2)
    assert written.refused == ("path 0: file 2 of 3 by name: not a readable NIfTI file (WrapStructError)",)


def test_a_folder_with_dicom_and_other_files_is_read_as_dicom(tmp_path: Path, encoder: Path) -> None:
    acquisition = axial(slices=20, gap=6.0)
    write_series(tmp_path / "exam", 0, 1, acquisition)
    (alone,) = fmct_hpc.features(tmp_path / "exam", encoder)
    write_nifti(as_array(acquisition)[0] * 0, as_array(acquisition)[1], tmp_path / "exam" / "mask.nii")
    (actual,) = fmct_hpc.features(tmp_path / "exam", encoder)
    assert actual.key == alone.key
