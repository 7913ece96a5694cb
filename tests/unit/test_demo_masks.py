"""True masks of the generator's bleeds: from heads with and without them, and in files."""

import csv
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from preprocess.demo.anatomy import head_hu
from preprocess.demo.export import export
from preprocess.demo.head import draw_anatomy
from preprocess.demo.lesions import EDEMA_HU, Bleed, draw_lesion
from preprocess.demo.masks import lesion_masks
from preprocess.demo.plan import plan_studies
from preprocess.demo.streams import Stream, generator


@pytest.mark.parametrize("kind", Bleed)
def test_masks_cover_voxels_that_are_at_least_half_blood(kind: Bleed) -> None:
    head = replace(draw_anatomy(3, 1), rotation=(5.0, -3.0, 8.0), origin=(3.0, -160.0, 300.0))
    lesion = draw_lesion(generator(3, Stream.LESION, 1), kind)
    points = generator(0, Stream.NOISE).uniform(-85, 85, (20_000, 3)) + head.origin
    before, after = head_hu(points, head), head_hu(points, replace(head, lesions=(lesion,)))
    (mask,) = lesion_masks(points.reshape(100, 200, 3), replace(head, lesions=(lesion,))).values()
    mask = mask.ravel()
    assert mask.any()
    base = np.where(after < before, before, EDEMA_HU) if kind is Bleed.INTRAPARENCHYMAL else before
    share = (after - base) / (lesion.hu - base)
    brain = (before > -20) & (before < 50)  # elsewhere the skull's edge is mixed in, or contrast is too low
    assert (share[mask & brain] > 0.4).mean() > 0.98
    assert (share[~mask & brain & (after >= before)] < 0.6).mean() > 0.98


def test_masks_leave_the_export_unchanged(tmp_path: Path) -> None:
    export(tmp_path / "with", 5, 0, 32, masks=True)
    export(tmp_path / "without", 5, 0, 32)
    files = {path.relative_to(tmp_path / "with") for path in (tmp_path / "with").rglob("*") if path.is_file()}
    others = {
        path.relative_to(tmp_path / "without") for path in (tmp_path / "without").rglob("*") if path.is_file()
    }
    assert others < files
    assert all(
        (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
        for name in others
    )
    rows = list(csv.DictReader((tmp_path / "with/masks.csv").read_text().splitlines()))
    labels = list(csv.DictReader((tmp_path / "with/labels.csv").read_text().splitlines()))
    assert {str(name) for name in files - others} == {
        "masks.csv",
        *(row["path"] for row in rows if row["path"]),
    }
    for label in labels:
        own = [row for row in rows if row["study_instance_uid"] == label["study_instance_uid"]]
        kinds: set[str] = {bleed for bleed in Bleed if label[bleed] == "1"}
        assert {row["class"] for row in own} == (kinds or {""})
    plan = plan_studies(0, 5, 32)[4]
    (row,) = (row for row in rows if row["path"].startswith("masks/00004"))
    image = nibabel.load(tmp_path / "with" / row["path"])
    assert isinstance(image, nibabel.Nifti1Image)
    index = np.argwhere(np.asarray(image.dataobj) > 0)
    points = nibabel.affines.apply_affine(image.affine, index) * (-1, -1, 1)
    assert len(index) > 100
    assert lesion_masks(points, plan.head)[Bleed(row["class"])].all()
