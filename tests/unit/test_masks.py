"""`fmct masks`: positions compared with SimpleITK, formats with one another, and invalid rows."""

from pathlib import Path

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from mask_files import GRID, STUDIES, affine, balls, write_segmentation, write_table, write_volumes
from shard_samples import make_key
from typer.testing import CliRunner
from volume_files import write_nifti

from fmct_hpc.probe.cohort import read_cohort
from fmct_hpc.probe.splits import SplitConfig
from fmct_hpc.train.export import require_same_preprocessing
from launch.cli import app
from preprocess.masks import shard
from preprocess.masks.classes import Classes
from preprocess.masks.files import read_planes
from preprocess.masks.grid import ONE
from preprocess.masks.planes import array_planes
from preprocess.masks.run import masks
from preprocess.reasons import Reason, Rejection
from preprocess.volume.resample import resample
from shards import Dataset, FmctError, verify
from shards.clipped import clip
from shards.masks import is_masks, mask_info, unpacked, volumes_of

CENTRES = [(5.0, 12.0, -3.0), (10.0, 12.0, 0.0)]
RADIUS = 11.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    write_volumes(folder)
    both = balls(CENTRES, RADIUS)
    labelled = np.where(both[..., 0], 3, 0)
    write_nifti(labelled, affine(), folder / "one.nii.gz", np.uint8, codes=(0, 1))
    write_nifti(both[..., 1], affine(), folder / "other.nii.gz", np.uint8, codes=(0, 1))
    write_segmentation(folder / "both.dcm", both)
    return folder


def stored(out: Path) -> dict[str, np.ndarray]:
    """bool (C, D, H, W) by the volume's key."""
    dataset = Dataset.open(out)
    classes = len(mask_info(dataset).classes)
    keys = dataset.index["key"].to_pylist()
    return {key: unpacked(dataset.read(number), classes) for number, key in enumerate(keys)}


def by_itk(mask: np.ndarray) -> np.ndarray:
    """A mask (slice, row, column) of upright slices on `GRID` by SimpleITK: linear, at 0.5."""
    image = sitk.GetImageFromArray(mask.astype(np.float32))
    image.SetSpacing((2.0, 2.2, 5.0))
    image.SetOrigin((-40.0, -20.0, -34.0))
    reference = sitk.Image(GRID.shape[::-1], sitk.sitkFloat32)
    # ITK's index is (w, h, d); the grid's steps are -x, -y, +z.
    reference.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    reference.SetSpacing(GRID.spacing[::-1])
    reference.SetOrigin(GRID.origin.tolist())
    return sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform(), sitk.sitkLinear, 0.0))


def test_a_mask_has_the_position_that_simpleitk_computes(folder: Path, tmp_path: Path) -> None:
    upright = np.array([[2.0, 0, 0], [0, 2.2, 0], [0, 0, 5.0]])
    points = np.stack(np.meshgrid(np.arange(14), np.arange(30), np.arange(40), indexing="ij"), -1)
    places = points[..., ::-1] @ upright + (-40.0, -20.0, -34.0)
    mask = np.linalg.norm(places - CENTRES[0], axis=-1) < RADIUS
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = upright[::-1].T, (-40, -20, -34)
    write_nifti(mask, matrix, tmp_path / "mask.nii", np.uint8)
    write_table(tmp_path / "table.csv", [{"path": "mask.nii", "key": make_key(0)}])
    masks(tmp_path / "table.csv", folder / "data", tmp_path / "out", ["ball=1"])
    actual, expected = stored(tmp_path / "out")[make_key(0)][0], by_itk(mask)
    unequal = actual != (expected >= 0.5)
    # ITK rounds differently only at exactly one half; along columns the grid is coarser and ours averages.
    assert actual.sum() > 500
    assert np.abs(expected[unequal] - 0.5).max(initial=0) < 0.13
    assert unequal.sum() < 0.03 * actual.sum()
    smooth = masks_without_averaging(mask, matrix)
    assert np.array_equal(smooth, expected >= 0.5 - 1e-4)


def masks_without_averaging(mask: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    planes = array_planes(mask.astype(np.int16), matrix)
    return resample(planes.bits * np.int16(ONE), planes.slices, GRID, 0, smooth=False) >= ONE // 2


def test_segmentations_and_niftis_of_one_mask_agree_and_classes_may_overlap(
    folder: Path, tmp_path: Path
) -> None:
    study = {"study_instance_uid": STUDIES[0]}
    niftis = [{"path": "one.nii.gz", "class": "", **study}, {"path": "other.nii.gz", "class": "b", **study}]
    objects = [{"path": "both.dcm", **study}]
    for name, rows, classes in (
        ("nifti", niftis, ["a=3", "b"]),
        ("numbers", objects, ["a=1", "b=2"]),
        ("codes", objects, ["b=2", "a=SCT:50960005"]),
    ):
        table = write_table(tmp_path / f"{name}.csv", rows)
        masks(table, folder / "data", tmp_path / name, classes, folder / "hmac.key", folder)
    actual = stored(tmp_path / "nifti")
    assert list(actual) == [make_key(0)]
    a, b = actual[make_key(0)]
    assert (a & b).sum() > 100
    assert (a & ~b).any()
    assert np.array_equal(stored(tmp_path / "numbers")[make_key(0)], [a, b])
    # Both segments have the code; a number takes precedence.
    assert np.array_equal(stored(tmp_path / "codes")[make_key(0)], [b, a])
    volume = 4 / 3 * np.pi * RADIUS**3 / 1000
    rows = pq.read_table(tmp_path / "nifti/masks.parquet").to_pylist()
    assert [row["a_ml"] for row in rows] == pytest.approx([volume], rel=0.1)
    assert rows[0]["a_mean_hu"] == 30


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_every_type_of_segmentation_gives_the_same_mask(folder: Path, tmp_path: Path, kind: str) -> None:
    a, b = np.moveaxis(balls(CENTRES, RADIUS), -1, 0)
    apart = np.stack([a, b & ~a], axis=-1)
    write_segmentation(tmp_path / "binary.dcm", apart)
    shares = np.where(apart, 0.6, 0.4 * apart.any(axis=-1, keepdims=True))
    given = shares if kind == "FRACTIONAL" else np.where(a, 1, np.where(b, 2, 0))
    write_segmentation(tmp_path / "other.dcm", given, segments=2, segmentation_type=kind)
    collected = []
    for name in ("binary", "other"):
        table = write_table(tmp_path / f"{name}.csv", [{"path": f"{name}.dcm", "key": make_key(0)}])
        masks(table, folder / "data", tmp_path / name, ["a=1", "b=2"])
        collected.append(stored(tmp_path / name)[make_key(0)])
    assert collected[0].any(axis=(1, 2, 3)).all()
    assert np.array_equal(collected[0], collected[1])


def test_an_object_of_one_slice_extends_over_its_thickness(folder: Path, tmp_path: Path) -> None:
    one_slice = balls(CENTRES[:1], RADIUS) & (np.arange(14) == 6)[:, None, None, None]
    write_segmentation(tmp_path / "slice.dcm", one_slice)
    table = write_table(tmp_path / "t.csv", [{"path": "slice.dcm", "key": make_key(0)}])
    masks(table, folder / "data", tmp_path / "out", ["a=1"])
    (actual,) = stored(tmp_path / "out")[make_key(0)]
    # A slice extends 5 mm along the table; its normal is at an angle of 0.2.
    expected_ml = one_slice.sum() * 2.2 * 2.0 * 5 * np.cos(0.2) / 1000
    assert actual.sum() * np.prod(GRID.spacing) / 1000 == pytest.approx(expected_ml, rel=0.15)


def _one_frame_less(data: pydicom.Dataset) -> None:
    data.NumberOfFrames -= 1


def _first_frame_twice(data: pydicom.Dataset) -> None:
    first, second, *_ = data.PerFrameFunctionalGroupsSequence
    second.PlanePositionSequence = first.PlanePositionSequence


def test_each_bad_row_has_a_reason_and_affects_no_others(folder: Path, tmp_path: Path) -> None:
    far = affine()
    far[:3, 3] += 500
    half = affine()
    half[:3, 3] += (32, 0, 0)
    mask = balls(CENTRES[:1], RADIUS)[..., 0]
    for name, values, place, codes in (
        ("far.nii", mask, far, (0, 1)),
        ("half.nii", mask, half, (0, 1)),
        ("empty.nii", mask & False, affine(), (0, 1)),
        ("seven.nii", mask * 7, affine(), (0, 1)),
        ("nowhere.nii", mask, affine(), (0, 0)),
    ):
        write_nifti(values, place, tmp_path / name, np.uint8, codes)
    write_nifti(mask * 0.5, affine(), tmp_path / "shares.nii", np.float32, (0, 1))
    infinite = np.where(mask, np.inf, 0)
    write_nifti(infinite, affine(), tmp_path / "infinite.nii", np.float32, (0, 1))
    colours = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    write_nifti(mask, affine(), tmp_path / "colours.nii", colours, (0, 1))
    for name, change in (("fewer.dcm", _one_frame_less), ("repeated.dcm", _first_frame_twice)):
        whole = pydicom.dcmread(folder / "both.dcm")
        change(whole)
        whole.save_as(tmp_path / name)
    contradictory = np.eye(4)
    contradictory[:3, 3] = 40
    loaded = nibabel.load(write_nifti(mask, affine(), tmp_path / "two.nii", np.uint8, (0, 1)))
    assert isinstance(loaded, nibabel.Nifti1Image)
    loaded.header.set_qform(contradictory @ np.diag([2, 2.2, 5, 1]), 1)
    nibabel.save(
        nibabel.Nifti1Image(np.asarray(loaded.dataobj), None, loaded.header), tmp_path / "contrary.nii"
    )
    (tmp_path / "text.txt").write_text("a")
    (tmp_path / "cut.dcm").write_bytes((folder / "both.dcm").read_bytes()[:900])
    one = {"key": make_key(0)}
    expected: list[tuple[dict[str, str], Reason]] = [
        ({"path": "far.nii", **one}, Reason.OUTSIDE_VOLUME),
        ({"path": "half.nii", **one}, Reason.OUTSIDE_VOLUME),
        ({"path": "empty.nii", **one}, Reason.EMPTY_MASK),
        ({"path": "seven.nii", **one}, Reason.UNLISTED_CLASS),
        ({"path": "two.nii", "class": "nobody", **one}, Reason.UNLISTED_CLASS),
        ({"path": "nowhere.nii", **one}, Reason.MISSING_GEOMETRY),
        ({"path": "contrary.nii", **one}, Reason.INCONSISTENT_GEOMETRY),
        ({"path": "shares.nii", **one}, Reason.INVALID_VALUE),
        ({"path": "infinite.nii", **one}, Reason.INVALID_VALUE),
        ({"path": "infinite.nii", "class": "1", **one}, Reason.INVALID_VALUE),
        ({"path": "colours.nii", **one}, Reason.INVALID_VALUE),
        ({"path": "fewer.dcm", **one}, Reason.BROKEN_HEADER),
        ({"path": "repeated.dcm", **one}, Reason.REPEATED_POSITIONS),
        ({"path": "gone.nii", **one}, Reason.MISSING_FILE),
        ({"path": "../two.nii", **one}, Reason.PATH_OUTSIDE),
        ({"path": "text.txt", **one}, Reason.UNSUPPORTED_FORMAT),
        ({"path": "cut.dcm", **one}, Reason.UNSUPPORTED_FORMAT),
        ({"path": "two.nii", **one}, Reason.PARTNER_REFUSED),
        ({"path": "two.nii", "key": "f" * 32}, Reason.UNKNOWN_VOLUME),
        ({"path": "two.nii", "study_instance_uid": "1.9"}, Reason.UNKNOWN_VOLUME),
        ({"path": "two.nii", "study_instance_uid": STUDIES[2]}, Reason.AMBIGUOUS_VOLUME),
        ({"path": "two.nii"}, Reason.MISSING_STUDY),
        ({"path": "two.nii", "key": "x"}, Reason.INVALID_VALUE),
        ({"path": str(folder / "both.dcm"), "key": make_key(2)}, Reason.ANOTHER_STUDY),
        ({"path": "two.nii", "key": make_key(2), "study_instance_uid": STUDIES[0]}, Reason.ANOTHER_STUDY),
        ({"path": "two.nii", "key": make_key(2), "study_key": "f" * 32}, Reason.ANOTHER_STUDY),
        ({"path": "two.nii", "patient_id": "P9", "study_instance_uid": STUDIES[1]}, Reason.ANOTHER_PATIENT),
        ({"path": "two.nii", "patient": "P9", "key": make_key(2)}, Reason.ANOTHER_PATIENT),
    ]
    good = [{"path": "two.nii", "study_instance_uid": STUDIES[1]}, {"path": "", "key": make_key(3)}]
    table = write_table(tmp_path / "table.csv", [*(row for row, _ in expected), *good])
    summary = masks(table, folder / "data", tmp_path / "out", ["a=1", "b=2"], folder / "hmac.key")
    refused = pq.read_table(tmp_path / "out/refused.parquet").to_pylist()
    assert [(row["row"], row["reason"]) for row in refused] == [
        (line, reason) for line, (_, reason) in enumerate(expected, 2)
    ]
    actual = stored(tmp_path / "out")
    assert sorted(actual) == [make_key(1), make_key(3)]
    assert actual[make_key(1)][0].any()
    assert not actual[make_key(3)].any()
    assert (summary.rows, summary.volumes, summary.positive) == (len(expected) + 2, 2, {"a": 1, "b": 0})


def test_the_masks_are_a_dataset_beside_the_volumes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"path": "one.nii.gz", "key": make_key(0)}, {"path": "", "key": make_key(3)}]
    table = write_table(tmp_path / "t.csv", rows)
    out = tmp_path / "out"
    masks(table, folder / "data", out, ["a=3"], root=folder)
    volumes, dataset = Dataset.open(folder / "data"), Dataset.open(out)
    assert not verify(out)
    assert is_masks(dataset)
    assert not is_masks(volumes)
    assert mask_info(dataset).volumes_digest == volumes.content_digest()
    assert volumes_of(dataset, volumes).tolist() == [0, 3]
    assert [one.name for one in dataset.info.shards] == [one.name for one in volumes.info.shards]
    written = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    masks(table, folder / "data", out, ["a=3"], root=folder)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")} == written
    rows[1]["path"] = "one.nii.gz"
    masks(write_table(table, rows), folder / "data", out, ["a=3"], root=folder)
    changed = {path.name for path in out.glob("shard-*") if path.stat().st_mtime_ns != written[path.name]}
    assert {name[:11] for name in changed} == {"shard-00001"}
    monkeypatch.setattr(shard, "MASKS_VERSION", shard.MASKS_VERSION + 1)
    masks(table, folder / "data", out, ["a=3"], root=folder)
    again = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    assert not again.items() & written.items()
    with pytest.raises(FmctError, match="not masks"):
        mask_info(volumes)
    with pytest.raises(FmctError, match="holds masks;"):
        masks(table, out, tmp_path / "more", ["a=3"])


@pytest.mark.parametrize("labels", [1, 117])
def test_labels_that_nibabel_rescaled_are_read_as_they_were(labels: int, tmp_path: Path) -> None:
    # Floats under the header of an int16 scan are scaled to the range of int16: 1 is read as 0.99999.
    values = np.broadcast_to(np.arange(labels + 1.0)[:, None, None], (labels + 1, 2, 3))
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(values, np.eye(4), header)
    image.set_qform(np.eye(4), 1)
    nibabel.save(image, tmp_path / "labels.nii")
    found = nibabel.load(tmp_path / "labels.nii")
    assert isinstance(found, nibabel.Nifti1Image)
    assert (found.get_fdata() != values).any()
    classes = Classes(("odd", "even"), {str(label): label % 2 for label in range(1, labels + 1)})
    planes, _ = read_planes(tmp_path / "labels.nii", classes, None)
    assert planes.bits[1, 0].tolist() == [0, *(1 << label % 2 for label in range(1, labels + 1))]
    small = nibabel.Nifti1Image(values.astype(np.float32) / 20_000, np.eye(4))
    small.set_qform(np.eye(4), 1)
    nibabel.save(small, tmp_path / "probabilities.nii")
    with pytest.raises(Rejection, match="invalid_value"):
        read_planes(tmp_path / "probabilities.nii", classes, None)


def test_masks_are_not_accepted_as_volumes(folder: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", [{"path": "one.nii.gz", "key": make_key(0)}])
    out, labels = tmp_path / "out", tmp_path / "labels.parquet"
    masks(table, folder / "data", out, ["a=3"], root=folder)
    studies = Dataset.open(out).index["study_key"]
    pq.write_table(pa.table({"study_key": studies, "label": [1]}), labels)
    with pytest.raises(FmctError, match="holds masks;"):
        read_cohort(out, labels, None, SplitConfig(), None)
    with pytest.raises(FmctError, match="holds masks;"):
        require_same_preprocessing(Dataset.open(out), None, None, "an encoder without a record")
    with pytest.raises(FmctError, match="holds masks;"):
        clip(out, tmp_path / "copy", (-20, 180))


def test_masks_contain_no_file_name(folder: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", [{"path": "both.dcm", "study_instance_uid": STUDIES[0]}])
    arguments = ["masks", str(table), "--data", str(folder / "data"), "--out", str(tmp_path / "out")]
    arguments += [
        "--class",
        "a=1",
        "--class",
        "b=2",
        "--key-file",
        str(folder / "hmac.key"),
        "--root",
        str(folder),
    ]
    result = CliRunner().invoke(app, [*arguments, "--workers", "1"], catch_exceptions=False)
    assert result.exit_code == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    for secret in (b"ZZFAKE", STUDIES[0].encode(), b"both.dcm"):
        assert not [path for path in files if secret in path.read_bytes()]
        assert secret.decode() not in result.output


@pytest.mark.parametrize(
    ("classes", "rows", "words"),
    [
        (["1a"], [{"path": "x", "key": make_key(0)}], "--class"),
        (["a=1", "b=1"], [{"path": "x", "key": make_key(0)}], "two classes"),
        ([f"c{k}" for k in range(16)], [{"path": "x", "key": make_key(0)}], "1 to 15"),
        (["a=1"], [{"path": "x", "study_instance_uid": "1.2"}], "--key-file"),
        (["a=1"], [{"path": "x", "series": "1", "study": "1.2"}], "patient"),
        (["a=1"], [{"file": "x"}], "no column path"),
        (["a=1"], [{"path": "x", "key": make_key(0)}], "all masks are rejected"),
    ],
)
def test_invalid_mask_tables_and_classes_are_refused_in_one_line(
    folder: Path, tmp_path: Path, classes: list[str], rows: list[dict[str, str]], words: str
) -> None:
    table = write_table(tmp_path / "t.csv", rows)
    with pytest.raises(FmctError, match=words):
        masks(table, folder / "data", tmp_path / "out", classes)


def test_a_class_may_have_several_values() -> None:
    classes = Classes.of(["bleed=subdural", "bleed=7", "other"])
    assert classes.names == ("bleed", "other")
    assert dict(classes.values) == {"subdural": 0, "7": 0, "other": 1}
