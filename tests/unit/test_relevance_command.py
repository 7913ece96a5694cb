"""`fmct relevance` writes maps, a page and figures; shares of it give the same bytes."""

from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from documents import REPOSITORY, blocks
from relevance_classifiers import exam as exam
from relevance_classifiers import grid as grid
from relevance_classifiers import kept as kept
from typer.testing import CliRunner

from fmct_hpc.data.config import DataConfig
from fmct_hpc.inference.readers import read_scans
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.relevance.patch_grid import PatchGrid
from fmct_hpc.train.export import EncoderInfo
from launch.cli import app
from launch.report.masks import Masks
from launch.report.relevance_unit import Made
from shards import Dataset
from shards.errors import FmctError
from shards.nifti import nifti_bytes


def masks_of(exam: Path, folder: Path) -> Path:
    """A table of two volumes' masks, each on a separate finer grid."""
    lines = ["key,task,mask"]
    for number, scan in enumerate(read_scans(exam, open_info(exam))):
        if number < 2:
            marked = np.zeros((8, 8, 8), np.uint8)
            marked[3:6, 2:5, 4:7] = 1
            affine = scan.affine @ np.diag([0.5, 0.5, 0.5, 1.0])
            affine[:3, 3] += scan.affine[:3, :3] @ [4, 5, 6]
            (folder / f"{number}.nii.gz").write_bytes(nifti_bytes(marked.astype(np.float32), affine))
            lines.append(f"{scan.key},bright,{number}.nii.gz")
    (folder / "masks.csv").write_text("\n".join(lines) + "\n")
    return folder / "masks.csv"


def open_info(exam: Path) -> EncoderInfo:
    dataset = Dataset.open(exam)
    model = ModelConfig(patch_size=4, width=24, depth=1, heads=4)
    return EncoderInfo(
        step=0, model=model, data=DataConfig(path=exam), spacing_mm=dataset.info.spacing_mm, code_version=""
    )


def test_the_command_writes_maps_a_page_and_figures(
    kept: dict[str, Path], exam: Path, tmp_path: Path
) -> None:
    out = tmp_path / "why"
    (tmp_path / "Doe John").mkdir()
    words = ["relevance", str(exam), str(tmp_path / "Doe John"), "--out", str(out)]
    words += ["--classifier", str(kept["logistic"]), "--masks", str(masks_of(exam, tmp_path))]
    words += ["--beside", str(kept["attentive"])]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, FmctError), result.output
    assert str(result.exception).startswith("path 1: ")
    table = pq.read_table(out / "relevance.parquet").to_pylist()
    assert len(table) == 3 * 4 + 1
    assert [row["path"] for row in table if row["reason"]] == [1]
    dataset = Dataset.open(exam)
    for row in table[:-1]:
        image = nibabel.load(out / row["file"])
        assert isinstance(image, nibabel.Nifti1Image)
        record = dataset.record(dataset.position(row["key"]))
        assert image.shape == record.shape[::-1]
        corner = nibabel.affines.apply_affine(image.affine, [1, 2, 3]) * [-1, -1, 1]
        assert corner == pytest.approx(np.reshape(record.affine, (4, 4))[:3] @ [3, 2, 1, 1], abs=1e-3)
        assert row["study_key"] == record.study_key
    page = (out / "relevance.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 12
    assert "Maps compared with masks" in page
    for file in (page, str(table)):
        assert "Doe John" not in file
        assert str(tmp_path) not in file
    measures = pq.read_table(out / "measures.parquet").to_pylist()
    whole = [row for row in measures if row["group"] == "all"]
    assert {row["map"] for row in whole} == {
        *("classifier", "beside", "random", "tissue", "centre", "greatest")
    }
    assert {(row["volumes"], row["patients"]) for row in whole} == {(2, 2)}
    for row in whole:
        own = next(o for o in whole if o["method"] == row["method"] and o["map"] == "classifier")
        assert row["map"] == "classifier" or row["share_gain"] == pytest.approx(own["share"] - row["share"])
    again = [file.read_bytes() for file in sorted(out.glob("*.nii.gz"))]
    assert CliRunner().invoke(app, words).exit_code
    assert again == [file.read_bytes() for file in sorted(out.glob("*.nii.gz"))]
    with pytest.raises(FmctError, match="contains 9 maps that were not requested now"):
        CliRunner().invoke(app, [*words, "--method", "rollout"], catch_exceptions=False)
    # Another classifier's maps do not replace them.
    words[words.index(str(kept["logistic"]))] = str(kept["attentive"])
    with pytest.raises(FmctError, match="holds results of the classifier"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_shares_give_the_bytes_of_one_process_and_a_killed_one_resumes(
    kept: dict[str, Path], exam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.report.relevance.PART_VOLUMES", 1)
    monkeypatch.setattr("launch.report.relevance.MAX_SHOWN", 2)
    masks, files = masks_of(exam, tmp_path), ("relevance.parquet", "measures.parquet", "relevance.html")
    words = ["relevance", str(exam), "--classifier", str(kept["logistic"]), "--masks", str(masks)]
    words += ["--method", "gradient-input", "--method", "rollout", "--out"]

    def output(*more: str) -> str:
        result = CliRunner().invoke(app, [*words, *more], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    output(str(whole))
    assert (whole / "relevance.html").read_text().count("<img src=") == 2 * 2
    for share, so_far in (("2/3", " (1 of 3 parts)"), ("0/3", " (2 of 3 parts)"), ("1/3", " scans;")):
        output(str(parts), "--share", share)
        assert so_far in output(str(parts), "--collect")
    made = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert made == {path.relative_to(parts): path.read_bytes() for path in parts.rglob("*") if path.is_file()}
    # Killed before a marker, or with a lost map, only that unit is computed again.
    units = sorted((parts / "units").glob("*.json"))
    lost = Made.model_validate_json(units[1].read_bytes()).rows[0].file
    assert lost
    units[0].unlink()
    (parts / lost).unlink()
    times = units[2].stat().st_mtime_ns
    assert "2 parts mapped" in output(str(parts), "--share", "0/1")
    assert units[2].stat().st_mtime_ns == times
    output(str(parts), "--collect")
    assert all((parts / name).read_bytes() == made[Path(name)] for name in (*files, lost))
    # Other masks are measured again.
    masks.write_text(masks.read_text().rsplit("\n", 2)[0] + "\n")
    assert "3 parts mapped" in output(str(parts), "--share", "0/1")


def test_the_documents_commands_run(
    kept: dict[str, Path], grid: SweepConfig, exam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = grid.features.parent / "ours"
    places = {"exams/new": exam, "classifiers/first": kept["logistic"], "runs/first": ours}
    for name, there in places.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(there)
    monkeypatch.chdir(tmp_path)
    block, _ = blocks(REPOSITORY / "docs/probes.md", "bash", "Why")
    for line in block.splitlines():
        result = CliRunner().invoke(app, line.split()[1:])
        assert result.exit_code == 0, result.output
    table = pq.read_table("looked-at/relevance.parquet")
    assert set(table["method"].to_pylist()) == {"rollout"}
    assert table["score"].null_count == table.num_rows == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,mask\n", "has no column task"),
        ("key,task,mask\n", "no rows"),
        ("key,task,mask\na,bright,none.nii\n", "row 2, column mask: no such file"),
        ("key,task,mask\nKEY,bright,masks.csv\n", "row 2, column mask: "),
        ("key,task,mask\nKEY,bright,empty.nii.gz\n", "the mask is empty"),
        ("key,task,mask\nKEY,bright,empty.nii.gz\nKEY,bright,empty.nii.gz\n", "row 3: key"),
    ],
)
def test_wrong_masks_are_refused_by_their_row(text: str, message: str, exam: Path, tmp_path: Path) -> None:
    (scan, *_) = read_scans(exam, open_info(exam))
    file = tmp_path / "masks.csv"
    file.write_text(text.replace("KEY", scan.key))
    (tmp_path / "empty.nii.gz").write_bytes(nifti_bytes(np.zeros((2, 2, 2), np.float32), scan.affine))
    with pytest.raises(FmctError, match=message):
        Masks.read(file).truth(scan.key, "bright", PatchGrid.of(scan, open_info(exam)))
