"""Relevance maps explain a classifier's score, and have the place of their patches."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from relevance_classifiers import KINDS
from relevance_classifiers import exam as exam
from relevance_classifiers import grid as grid
from relevance_classifiers import kept as kept
from scipy.spatial import cKDTree
from scipy.special import logit
from typer.testing import CliRunner

from fmct_hpc.classifier.fit import fit
from fmct_hpc.classifier.folder import write_classifier
from fmct_hpc.classifier.predict import load_classifier
from fmct_hpc.inference.readers import Scan, read_scans
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.relevance.maps import Explainer, open_explainer
from fmct_hpc.relevance.method_input import MethodInput
from fmct_hpc.relevance.methods import METHODS
from launch.cli import app
from shards.errors import FmctError
from shards.nifti import nifti_bytes
from shards.schema import Role


@pytest.mark.parametrize("method", ["logistic", "attentive", "finetune"])
def test_the_explained_score_equals_the_exported_classifiers(
    method: str, kept: dict[str, Path], exam: Path
) -> None:
    """Also the sum of integrated gradients, so that every method's logit is the classifier's."""
    classifier = load_classifier(kept[method])
    explainer = Explainer(classifier)
    for explained in explainer.of_scans(read_scans(exam, classifier.encoder.info)):
        view = classifier.encoder.transform(explained.scan.voxels, explained.scan.spacing_mm)[None]
        reading = explainer.readings["bright"][None]
        inputs = MethodInput(classifier.encoder.module, view, None, classifier.record.layer, reading)
        with torch.no_grad():
            score, air = inputs.logits(torch.cat([view, torch.zeros_like(view)]))
        assert torch.sigmoid(score).item() == pytest.approx(explained.answers["bright"].score, abs=2e-3)
        assert {method for _, method in explained.maps} == set(METHODS)
        total = explained.maps["bright", "integrated-gradients"].sum()
        assert total == pytest.approx((score - air).item(), rel=0.3, abs=0.05)
        assert all(np.isfinite(values).all() for values in explained.maps.values())
        assert explained.maps["bright", "rollout"].min() > 0
        assert explained.maps["bright", "attention-gradient"].min() >= 0  # 0 without evidence for the label


@pytest.fixture(scope="module")
def of_kinds(grid: SweepConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported logistic classifier of every kind of label."""
    folder, rng = tmp_path_factory.mktemp("kinds"), np.random.default_rng(1)
    table = pq.read_table(grid.labels)
    bright = table["bright"].to_numpy()
    for name, column in {
        "third": np.where(bright, 7, rng.integers(0, 2, 60)),
        "grade": np.where(bright, 2, rng.integers(0, 2, 60)),
        "value": 30 + 20.0 * bright + rng.normal(0, 2, 60),
        "died": rng.integers(0, 2, 60),
        "days": np.ceil(rng.exponential(10 + 200 * (1 - bright))),
    }.items():
        table = table.append_column(name, pa.array(column))
    pq.write_table(table, folder / "labels.parquet")
    kinds = {name: kind.name for name, kind in KINDS.items()} | {"died": {"survival": "days"}}
    settings = {"labels": folder / "labels.parquet", "kinds": kinds, "tasks": tuple(KINDS)}
    config = SweepConfig.model_validate(grid.model_dump() | settings)
    write_classifier(fit(config, method="logistic"), folder / "kept")
    return folder / "kept"


def test_maps_of_other_kinds_explain_the_documented_score(of_kinds: Path, exam: Path, tmp_path: Path) -> None:
    classifier = load_classifier(of_kinds)
    explainer = Explainer(classifier, ["integrated-gradients"])
    for explained in explainer.of_scans(read_scans(exam, explainer.reads)):
        view = classifier.encoder.transform(explained.scan.voxels, explained.scan.spacing_mm)[None]
        for task, answer in explained.answers.items():
            expected = answer.score
            if answer.kind == "binary":
                expected = logit(answer.score)
            if answer.kind == "multiclass":
                assert answer.probabilities is not None
                expected = float(np.log(answer.score) - np.mean(np.log(answer.probabilities)))
            if answer.kind == "ordinal":
                assert answer.probabilities is not None
                expected = float(np.mean(logit(1 - np.cumsum(np.array(answer.probabilities))[:-1])))
            readings = explainer.readings[task]
            assert set(readings) == ({0, 1, 7} if task == "third" else {None})
            number = None if task != "third" or answer.value is None else int(answer.value)
            reading = readings[number]
            inputs = MethodInput(explainer.model, view, None, explainer.layer, reading)
            with torch.no_grad():
                score, air = inputs.logits(torch.cat([view, torch.zeros_like(view)])).tolist()
            assert score == pytest.approx(expected, rel=2e-3, abs=2e-3), task
            total = explained.maps[task, "integrated-gradients"].sum()
            assert total == pytest.approx(score - air, rel=0.3, abs=0.05 * abs(score - air) + 0.05), task
    out = tmp_path / "why"
    words = ["relevance", str(exam), "--classifier", str(of_kinds), "--out", str(out)]
    result = CliRunner().invoke(app, [*words, "--method", "gradient-input"])
    assert result.exit_code == 0, result.output
    rows = pq.read_table(out / "relevance.parquet").to_pylist()
    assert {row["task"]: row["kind"] for row in rows} == {name: kind.name for name, kind in KINDS.items()}
    assert {row["value"] for row in rows if row["task"] == "third"} <= {0, 1, 7}
    assert "third, gradient-input, class " in (out / "relevance.html").read_text()


@pytest.mark.parametrize("method", ["logistic", "attentive", "finetune"])
def test_maps_of_a_study_explain_the_score_of_its_series(
    grid: SweepConfig, exam: Path, method: str, tmp_path: Path
) -> None:
    config = grid.model_copy(update={"samples": ("study",), "series_pool": "max"})
    write_classifier(fit(config, method=method), tmp_path / "kept")
    explainer = open_explainer(tmp_path / "kept", None)
    read = read_scans(exam, explainer.reads, by_study=True)
    roles: tuple[Role, ...] = ("bone_thin", "soft_thick", "soft_thin")
    scans = [scan._replace(study=0, role=role) for scan, role in zip(read, roles, strict=True)]
    explained = list(explainer.of_scans(scans))
    assert [one.scan.key for one in explained] == [scan.key for scan in scans]
    assert len({one.answers["bright"].score for one in explained}) == 1
    views = torch.stack([explainer.encoder.transform(s.voxels, s.spacing_mm) for s in scans])
    reading = explainer.readings["bright"][None].of_series(roles)
    inputs = MethodInput(explainer.model, views, None, explainer.layer, reading)
    with torch.no_grad():
        score, air = inputs.logits(torch.cat([views, torch.zeros_like(views)])).tolist()
    assert torch.sigmoid(torch.tensor(score)).item() == pytest.approx(
        explained[0].answers["bright"].score, abs=2e-3
    )
    total = sum(one.maps["bright", "integrated-gradients"].sum() for one in explained)
    assert total == pytest.approx(score - air, rel=0.3, abs=0.05)
    assert all(np.isfinite(values).all() for one in explained for values in one.maps.values())
    assert sum(one.maps["bright", "rollout"].max() > 0 for one in explained) == 3
    torn = [scan._replace(several_patients=True) for scan in scans]
    with pytest.raises(FmctError, match="several_patients"):
        explainer.of_sample(torn)


def test_neighbours_and_unknown_names_are_refused(kept: dict[str, Path], grid: SweepConfig) -> None:
    encoder = grid.features.parent / "ours"
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((kept["neighbours"], None), "a classifier of neighbours has no map"),
        ((kept["logistic"], encoder), "one of --classifier and --encoder"),
        ((None, None), "one of --classifier and --encoder"),
        ((kept["logistic"], None, ["occlusion"]), "method occlusion: expected one of"),
        ((kept["logistic"], None, [], ["dark"]), "task dark: the classifier has bright"),
        ((None, encoder, ["gradient-input"]), "requires a classifier"),
        ((None, encoder, [], ["bright"]), "an encoder has no labels"),
    ]
    for arguments, message in cases:
        with pytest.raises(FmctError, match=message):
            open_explainer(*arguments)


@pytest.mark.parametrize("spacing", [12.0, 7.0])
def test_a_voxel_has_the_value_of_the_patch_with_the_nearest_centre(
    spacing: float, grid: SweepConfig, tmp_path: Path
) -> None:
    """In patient coordinates: by the volume's affine, and by nibabel's affine of the map."""
    explainer = open_explainer(None, grid.features.parent / "ours")
    shape = (14, 20, 17)
    turn = np.radians(20)
    affine = np.eye(4)
    affine[:3, :3] = np.array(
        [[0, np.sin(turn), -np.cos(turn)], [0, -np.cos(turn), -np.sin(turn)], [1, 0, 0]]
    )
    affine[:3, :3] *= spacing
    affine[:3, 3] = [31.0, -17.0, 400.0]
    scan = Scan(32 * "a", np.random.default_rng(0).integers(0, 80, shape).astype(np.int16), affine)
    (explained,) = explainer.of_scans([scan])
    values = np.arange(1, 1 + np.prod(explained.grid.shape), dtype=np.float32).reshape(explained.grid.shape)
    (tmp_path / "map.nii.gz").write_bytes(nifti_bytes(explained.grid.on_volume(values, shape), scan.affine))
    image = nibabel.load(tmp_path / "map.nii.gz")
    assert isinstance(image, nibabel.Nifti1Image)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert np.allclose(image.get_qform(), image.affine, atol=1e-4)
    stored = np.asarray(image.dataobj)
    index = np.argwhere(np.ones(stored.shape, bool))
    ras = nibabel.affines.apply_affine(image.affine, index)
    lps = ras * [-1, -1, 1]
    # The volume's own affine gives the same position of each voxel.
    own = nibabel.affines.apply_affine(scan.affine, index[:, ::-1])
    np.testing.assert_allclose(lps, own, atol=1e-3)
    centres = explainer.encoder.info.patch_centres(scan.voxels, scan.spacing_mm, scan.affine)
    np.testing.assert_allclose(explained.grid.centres_lps().reshape(-1, 3), centres, atol=1e-6)
    _, nearest = cKDTree(centres).query(lps)
    edge = np.linalg.norm(centres[1] - centres[0])
    along = (lps - centres[nearest]) @ (affine[:3, :3] / spacing)
    inside = (np.abs(along) < edge / 2 - 1e-6).all(axis=1)
    outside = (np.abs(along) > edge / 2 + 1e-6).any(axis=1)
    got = stored[tuple(index.T)]
    np.testing.assert_array_equal(got[inside], values.reshape(-1)[nearest[inside]])
    assert (got[outside] == 0).all()
    assert inside.sum() > 200
    assert (spacing != 12) or outside.any()
