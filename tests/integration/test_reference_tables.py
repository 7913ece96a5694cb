"""RSNA 2019 and CQ500 in the reference's format, by the commands of docs/recipes.md."""

import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_files import axial
from documents import REPOSITORY, blocks
from forked_commands import forked_fmct
from small_training import small_config, write_recipe
from test_import import fmct, key_file, write_table
from volume_files import as_array, write_nifti

from preprocess.privacy.deidentify import Pseudonymizer
from shards import Dataset
from shards.errors import FmctError

HEADING = "RSNA 2019 and CQ500"
PARTS = {"train": 8, "val": 4, "test": 8}
PARTS_AS_SPLITS = (("train", "train"), ("val", "validation"), ("test", "test"))


def release(folder: Path, names: list[str], findings: list[str]) -> list[dict[str, str]]:
    """Split tables in folder/tables and files in folder/nifti; every other head has all findings."""
    rows: list[dict[str, str]] = []
    hu, affine = as_array(axial(slices=20, gap=6.0, start=(-66, -60, 0)))
    for number, name in enumerate(names):
        bleeds = number % 2
        bright = hu + (30 * bleeds * (hu > 0)).astype(np.int16)
        bright[0, 0, 0] += number  # no two patients share a scan
        write_nifti(bright, affine, folder / "nifti" / name)
        rows.append({"img_path": f"/{name}", **dict.fromkeys(findings, str(bleeds))})
    (folder / "tables").mkdir()
    start = 0
    for part, count in PARTS.items():
        write_table(folder / "tables" / f"set_{part}_label.csv", rows[start : start + count])
        start += count
    return rows


RSNA = [f"ID_{number:08x}ab.nii.gz" for number in range(20)], ["any", "epidural"]
CQ500 = (
    [f"CQ500-CT-{n}/CQ500CT{n} Unknown Study/thin.nii.gz" for n in range(20)],
    ["ICH", "BleedLocation-Left"],
)


@pytest.mark.parametrize(("names", "findings"), [RSNA, CQ500], ids=["RSNA", "CQ500"])
def test_the_recipe_leads_from_download_to_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], findings: list[str]
) -> None:
    rows = release(tmp_path, names, findings)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("launch.commands.training.FMCT", forked_fmct())
    write_recipe(small_config(Path("data/zarr")), tmp_path / "recipe.yaml")
    document = (REPOSITORY / "docs" / "recipes.md").resolve()
    smaller = {
        "import": ["grid.spacing_mm=[4,4,4]", "output.formats=[zarr]", "workers=1"],
        "train": ["run.steps=2", "run.images_every=2", "run.batch=4"],
        "probe": ["bootstrap=20"],
    }
    for line in blocks(document, "bash", HEADING)[0].splitlines():
        words = shlex.split(line.replace("launch/recipes/one-gpu-train.yaml", "recipe.yaml"))
        assert words.pop(0) == "fmct"
        fmct(*words, *smaller.get(words[0], []))
    names_of = Pseudonymizer(key_file(tmp_path))
    scans = [name.split("/")[0].removesuffix(".nii.gz") for name in names]
    labels = {row["study_key"]: row for row in pq.read_table("labels.parquet").to_pylist()}
    splits = [split for part, split in PARTS_AS_SPLITS for _ in range(PARTS[part])]
    for scan, row, split in zip(scans, rows, splits, strict=True):
        actual = labels[names_of.study(scan)]
        assert (actual[findings[0]], actual["split"]) == (int(row[findings[0]]), split)
    assert set(Dataset.open(Path("data/zarr")).index["study_key"].to_pylist()) == set(labels)
    (result,) = [
        one
        for one in pq.read_table("probe/results.parquet").to_pylist()
        if (one["task"], one["method"], one["encoder"]) == (findings[0], "logistic", "trained")
    ]
    counts = {name: result[name] for name in ("n_train", "n_validation", "n", "positives", "auc")}
    assert counts == {"n_train": 8, "n_validation": 4, "n": 8, "positives": 4, "auc": 1.0}


def test_tables_of_another_layout_are_refused(tmp_path: Path) -> None:
    release(tmp_path, [f"ID_{n}.nii.gz" for n in range(20)], ["any"])
    tables = tmp_path / "tables"
    labels = ("labels", tables, "--format", "reference", "--key-file", key_file(tmp_path), "--out")
    test = tables / "set_test_label.csv"
    good = test.read_text()
    for text, message in (
        ("img_path,any\nID_0.nii.gz,1\n", "another split"),
        ("img_path,any\nID_99.nii.gz,perhaps\n", "not 0, 1 or empty"),
        ("path,any\nID_99.nii.gz,1\n", "img_path"),
        ("img_path,any\nID_99.nii.gz\n", "1 cells"),
    ):
        test.write_text(text)
        result = fmct(*labels, tmp_path / "labels.parquet", code=1)
        assert isinstance(result.exception, FmctError)
        assert message in str(result.exception)
    test.unlink()
    result = fmct(*labels, tmp_path / "labels.parquet", code=1)
    assert "_test_label.csv" in str(result.exception)
    test.write_text(good)
