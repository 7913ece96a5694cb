"""Features of new scans: DICOM, NIfTI and arrays give those of shards; each refusal has a reason."""

import gzip
import json
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_files import Acquisition, axial
from documents import REPOSITORY
from preprocess_export import Export, head, make_export, run_inline, write_series
from pydicom.data import get_testdata_file
from safetensors.numpy import load_file
from small_training import small_encoder
from typer.testing import CliRunner
from volume_files import as_array, write_nifti

import fmct_hpc
from fmct_hpc.config import TrainConfig
from fmct_hpc.fields import edges
from fmct_hpc.inference.readers import read_scans
from fmct_hpc.inference.write import write_features
from fmct_hpc.probe.encoders import OurEncoder
from fmct_hpc.probe.heads import LinearHead
from fmct_hpc.train.export import EncoderInfo, load_encoder, write_encoder
from launch.cli import app
from shards import Dataset
from shards.errors import FmctError
from shards.split import sample
from shards.voxels import INDEX_STEPS

STUDIES = 2


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The last study's head is partly outside the field, and flagged."""
    made = make_export(tmp_path_factory.mktemp("export"), STUDIES - 1)
    write_series(made.folder, STUDIES - 1, 1, axial(slices=20, gap=6.0, start=(-86, -60, 0)))
    made.rescan()
    return made


@pytest.fixture(scope="module")
def data(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data")
    run_inline(export, out, export.config(formats=("zarr",)))
    return out / "zarr"


@pytest.fixture(scope="module")
def encoder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_encoder(data, tmp_path_factory.mktemp("encoder"))


def test_dicom_gives_the_features_of_its_shard(export: Export, data: Path, encoder: Path) -> None:
    dataset = Dataset.open(data)
    stored = {scan.key: scan for scan in fmct_hpc.features(data, encoder)}
    digests = {dataset.record(i).source_digest[:32]: dataset.record(i).key for i in range(len(dataset))}
    rows = pq.read_table(data.parent / "manifest.parquet").to_pylist()
    flags = {row["key"]: tuple(row["flags"]) for row in rows}
    fresh = list(fmct_hpc.features(export.folder, encoder, batch=1))
    assert {scan.key for scan in fresh} == set(digests)
    assert len(fresh) == STUDIES
    for scan in fresh:
        same = stored[digests[scan.key]]
        assert scan.cls == pytest.approx(same.cls, abs=1e-6)
        assert scan.patches == pytest.approx(same.patches, abs=1e-6)
        assert (scan.centres_mm == same.centres_mm).all()
        assert scan.flags == flags[same.key]
        assert same.flags is None
        assert scan.patches.shape == (4**3, 24)
    assert sorted(scan.flags or () for scan in fresh) == [(), ("head_cut_by_field",)]
    loaded, info = load_encoder(encoder)
    for read in read_scans(export.folder, info):
        assert (read.voxels == dataset.read(dataset.position(digests[read.key]))).all()
    direct = loaded(info.view(dataset.read(0), dataset.info.spacing_mm))[0].detach().numpy()
    assert stored[dataset.record(0).key].cls == pytest.approx(direct[0], abs=1e-6)


def test_a_classifier_predicts_the_same_from_dicom_as_from_its_shard(
    export: Export, data: Path, encoder: Path
) -> None:
    kept = fmct_hpc.load_classifier(REPOSITORY / "tests/data/classifiers/logistic")
    ours = OurEncoder(*load_encoder(encoder))
    weights = np.random.default_rng(0).normal(size=(3, 48)).astype(np.float32)
    head = LinearHead(weights[0], abs(weights[1]), weights[2], np.array(0.1, np.float32))
    classifier = fmct_hpc.Classifier(kept.record, ours, (head,))
    dataset = Dataset.open(data)
    digests = {dataset.record(i).key: dataset.record(i).source_digest[:32] for i in range(len(dataset))}
    stored = {digests[scan.key]: scan.answers["bright"].score for scan in classifier.predict(data)}
    fresh = {scan.key: scan.answers["bright"].score for scan in classifier.predict(export.folder)}
    assert fresh == pytest.approx(stored, abs=1e-6)
    assert len(set(fresh.values())) == STUDIES
    keys = {(row["study_key"], row["patient_key"]) for row in dataset.index.to_pylist()}
    keyed = list(classifier.predict([export.folder], key_file=export.key_file))
    assert {(scan.study_key, scan.patient_key) for scan in keyed} == keys
    assert all(scan.flags is not None for scan in keyed)


def test_maps_of_dicom_equal_those_of_its_shard_at_the_same_place(
    export: Export, data: Path, encoder: Path, tmp_path: Path
) -> None:
    words = ["--encoder", str(encoder), "--out"]
    for name, exam in {"fresh": export.folder, "stored": data}.items():
        result = CliRunner().invoke(app, ["relevance", str(exam), *words, str(tmp_path / name)])
        assert result.exit_code == 0, result.output
    dataset = Dataset.open(data)
    digests = {dataset.record(i).source_digest[:32]: dataset.record(i).key for i in range(len(dataset))}
    fresh, stored = (pq.read_table(tmp_path / name / "relevance.parquet") for name in ("fresh", "stored"))
    there = {
        row["key"]: nibabel.Nifti1Image.from_filename(tmp_path / "stored" / row["file"])
        for row in stored.to_pylist()
    }
    assert len(fresh) == STUDIES
    for row in fresh.to_pylist():
        image, same = (
            nibabel.Nifti1Image.from_filename(tmp_path / "fresh" / row["file"]),
            there[digests[row["key"]]],
        )
        assert (image.affine == same.affine).all()
        assert np.asarray(image.dataobj) == pytest.approx(np.asarray(same.dataobj), abs=1e-6)
        assert np.asarray(image.dataobj).max() > 0


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


@pytest.mark.parametrize("field", ["isotropic", "squeezed"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("view_size", "patch_size"), [(8, 4), ((10, 8, 5), (2, 4, 5))])
def test_patch_centres_are_at_the_voxels_that_patches_read(
    axis: int, field: str, view_size: int | tuple[int, int, int], patch_size: int | tuple[int, int, int]
) -> None:
    """In a ramp of HU the mean of a patch is the ramp at the patch's centre."""
    size, spacing = (44, 60, 52), (2.0, 1.0, 2.0)
    affine = np.eye(4)
    affine[:3, :3] = INDEX_STEPS.T * spacing
    affine[:3, 3] = (30, -20, 11)
    index = np.stack([*np.indices(size)], axis=-1)
    hu = 200 + 4 * (index @ affine[:3, :3].T + affine[:3, 3])[..., axis]
    model = {"width": 6, "depth": 1, "heads": 1, "patch_size": patch_size}
    data = {"path": "", "view_size": view_size, "windows": [(0, 2000)], "field": field, "field_mm": 40}
    crops = {"global_crop_mm": (10, 40), "local_crop_mm": (5, 10), "local_field_mm": 40}
    config = TrainConfig.model_validate({"data": data | crops, "model": model})
    info = EncoderInfo(
        step=0, model=config.model, data=config.data, spacing_mm=(2.0, 1.0, 2.0), code_version=""
    )
    view = info.view(hu.astype(np.int16), spacing)[0, 0]
    pairs = zip(edges(view_size), edges(patch_size), strict=True)
    view = view.reshape([n for size, patch in pairs for n in (size // patch, patch)])
    actual = view.mean(dim=(1, 3, 5)).flatten().numpy() * 2000 - 1000
    centres = info.patch_centres(hu.astype(np.int16), spacing, affine)
    assert (actual - 200) / 4 == pytest.approx(centres[:, axis], abs=0.3)
    # A volume at another spacing is resampled first, and its patches have the same positions.
    other = info.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)})
    if field == "isotropic":
        assert other.patch_centres(hu.astype(np.int16), spacing, affine) == pytest.approx(centres, abs=0.51)


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


def test_the_command_writes_what_it_can_and_reports_the_rest(
    tmp_path: Path, export: Export, data: Path, encoder: Path
) -> None:
    (tmp_path / "mr").mkdir()
    (tmp_path / "mr" / "1").write_bytes(Path(str(get_testdata_file("MR_small.dcm"))).read_bytes())
    paths = [str(export.folder), str(tmp_path / "mr"), str(data)]
    result = CliRunner().invoke(
        app, ["features", *paths, "--encoder", str(encoder), "--out", str(tmp_path / "out")]
    )
    assert isinstance(result.exception, FmctError)  # which main() prints, and ends with 2
    assert "found 1 of MR" in str(result.exception)
    assert f"features of {2 * STUDIES} scans of 2 paths" in result.output
    rows = pq.read_table(tmp_path / "out" / "features.parquet").to_pylist()
    assert [row["path"] for row in rows] == [0] * STUDIES + [2] * STUDIES
    assert sorted(row["flags"] for row in rows[:STUDIES]) == [[], ["head_cut_by_field"]]
    assert [row["flags"] for row in rows[STUDIES:]] == [None] * STUDIES
    assert "1 head_cut_by_field" in result.output
    whole = load_file(tmp_path / "out" / f"{rows[0]['key']}.safetensors")
    assert whole["cls"] == pytest.approx(rows[0]["cls"])
    assert whole["patches"].mean(axis=0) == pytest.approx(np.array(rows[0]["mean"]), abs=1e-5)
    assert whole["centres_mm"].shape == (64, 3)


def few_bytes(folder: Path, data: Path) -> list[Path]:
    """Files that claim gigabytes, in paths with a patient's name."""
    folder.mkdir()
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((30_000, 30_000, 30_000))
    (folder / "80.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    (folder / "plain.nii").write_bytes(header.binaryblock + bytes(4))
    header.set_data_shape((1000, 1000, 1000))
    zeros = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = zeros.compress(header.binaryblock + bytes(4))
    packed += b"".join(zeros.compress(bytes(10**7)) for _ in range(200)) + zeros.flush()
    (folder / "black.nii.gz").write_bytes(packed)
    shutil.copytree(data, folder / "shards")
    (folder / "locked").mkdir(mode=0)
    return [*sorted(folder.glob("*.nii*")), folder / "shards", folder / "locked" / "x", folder / "absent"]


def test_small_files_that_declare_gigabytes_are_refused_by_size(
    tmp_path: Path, export: Export, data: Path, encoder: Path
) -> None:
    """Under a memory limit, and without any part of the paths, which may contain names."""
    paths = few_bytes(tmp_path / "Doe^Jane", data)
    index = next((tmp_path / "Doe^Jane" / "shards").glob("*.zarr.zip"))
    index.write_bytes(index.read_bytes()[:-1])
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))"
    command = [sys.executable, "-c", f"{limit}; from launch.cli import main; main()", "features"]
    options = ["--encoder", str(encoder), "--out", str(tmp_path / "out")]
    result = subprocess.run(
        [*command, *map(str, paths), str(export.folder), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    refused = [line.removeprefix("fmct: ") for line in result.stderr.splitlines() if "path " in line]
    assert [line.split(":")[0] for line in refused] == [f"path {number}" for number in range(len(paths))]
    assert "Doe" not in result.stdout + result.stderr
    rows = pq.read_table(tmp_path / "out" / "features.parquet").to_pylist()
    assert [row["path"] for row in rows] == [len(paths)] * STUDIES


def test_features_of_other_scans_or_of_another_encoder_are_not_replaced(
    data: Path, encoder: Path, tmp_path: Path
) -> None:
    sample(data, tmp_path / "one", 1)
    out = tmp_path / "out"
    assert write_features([data], encoder, out).scans == STUDIES
    before = (out / "features.parquet").read_bytes()
    with pytest.raises(FmctError, match="out: has features of 1 scans that are not at these paths"):
        write_features([tmp_path / "one"], encoder, out)
    model, info = load_encoder(encoder)
    changed = {f"encoder.{name}": tensor + 1 for name, tensor in model.state_dict().items()}
    write_encoder(tmp_path / "other", changed, info)
    with pytest.raises(FmctError, match=r"out: holds results of the encoder SHA-256 [0-9a-f]{12};"):
        write_features([data], tmp_path / "other", out)
    assert (out / "features.parquet").read_bytes() == before
    assert write_features([data, tmp_path / "one"], encoder, out).scans == STUDIES + 1


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


def test_the_key_file_gives_the_keys_of_shards_and_labels_and_a_map_for_its_owner(
    tmp_path: Path, export: Export, data: Path, encoder: Path
) -> None:
    dataset = Dataset.open(data)
    stored = {
        dataset.record(i).source_digest[:32]: (dataset.record(i).study_key, dataset.record(i).patient_key)
        for i in range(len(dataset))
    }
    key, private = export.config().key_file, tmp_path / "map.parquet"
    private.touch(mode=0o666)
    paths = [str(export.folder), str(tmp_path / "absent"), str(data)]
    options = ["--encoder", str(encoder), "--out", str(tmp_path / "out")]
    keyed = ["--key-file", str(key), "--private-map", str(private)]
    result = CliRunner().invoke(app, ["features", *paths, *options, *keyed])
    assert f"features of {2 * STUDIES} scans of 2 paths" in result.output
    rows = pq.read_table(tmp_path / "out" / "features.parquet").to_pylist()
    assert {row["key"]: (row["study_key"], row["patient_key"]) for row in rows[:STUDIES]} == stored
    assert {(row["study_key"], row["patient_key"]) for row in rows[STUDIES:]} == set(stored.values())
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    *there, absent = sorted(pq.read_table(private).to_pylist(), key=lambda row: row["reason"] is not None)
    assert {(row["path"], row["key"]) for row in there} == {(paths[row["path"]], row["key"]) for row in rows}
    assert (absent["path"], absent["key"]) == (paths[1], None)
    assert "path 1: " in absent["reason"]
    # Without the key a scan's patient is unknown.
    assert {scan.patient_key for scan in fmct_hpc.features(export.folder, encoder)} == {None}
    key.chmod(0o644)
    result = CliRunner().invoke(app, ["features", *paths, *options, "--key-file", str(key)])
    key.chmod(0o600)
    assert "other users can read the key" in str(result.exception)
    with pytest.raises(FmctError, match="is the input"):
        write_features([data], encoder, tmp_path / "out", key_file=key, private_map=key)
