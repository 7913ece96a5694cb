"""Features, predictions and maps of new DICOM equal those of its shards; each path is written or named."""

import gzip
import shutil
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from documents import REPOSITORY
from new_scan_inputs import STUDIES
from new_scan_inputs import data as data
from new_scan_inputs import encoder as encoder
from new_scan_inputs import export as export
from preprocess_export import Export
from pydicom.data import get_testdata_file
from safetensors.numpy import load_file
from typer.testing import CliRunner

import fmct_hpc
from fmct_hpc.inference.readers import read_scans
from fmct_hpc.inference.write import write_features
from fmct_hpc.probe.encoders import OurEncoder
from fmct_hpc.probe.heads import LinearHead
from fmct_hpc.train.export import load_encoder, write_encoder
from launch.cli import app
from shards import Dataset
from shards.errors import FmctError
from shards.split import sample


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
