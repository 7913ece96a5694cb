"""Training copies: fewer bytes, bit-identical views, and rejected by everything else."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from shard_samples import FORMATS, make_key, noise, write_dataset
from typer.testing import CliRunner

from fmct_hpc.data.cache import open_dataset
from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.hu_range import needed_hu
from fmct_hpc.data.kernel import bounds, cut
from fmct_hpc.data.order import Order, Share
from fmct_hpc.data.source import ViewSource
from launch.cli import app
from shards import Dataset, verify
from shards.clipped import clip
from shards.derive import convert
from shards.errors import FmctError
from shards.format_names import Codec
from shards.split import sample

VIEWS = {"view_size": 12, "field_mm": 40, "global_crop_mm": (20, 40), "local_crop_mm": (10, 20)}
VIEWS |= {"local_field_mm": 30, "smooth_sigma": (0.5, 1.0)}


@pytest.fixture(params=FORMATS)
def archive(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    volumes = [
        {make_key(number): noise((40, 44, 38 + number), number) for number in group}
        for group in ((0, 1), (2,))
    ]
    named = dict(zip(("shard-00000", "shard-00001"), volumes, strict=True))
    write_dataset(tmp_path / "archive", request.param, named, {"select": {}})
    return tmp_path / "archive"


def config(path: Path, **changes: object) -> DataConfig:
    return DataConfig.model_validate({"path": path, **VIEWS, **changes})


def views(data: DataConfig) -> list[np.ndarray]:
    """All views of all volumes in one epoch, by the CPU's kernel."""
    dataset = open_dataset(data)
    order = Order.of(dataset, 3, 1)
    source = ViewSource(dataset, data, Share(order, 0, 1, 1), 0)
    limits, made = bounds(data.windows), []
    for index in range(len(dataset)):
        one = source.sample(0, index)
        for view, size in enumerate(data.view_sizes):
            made.append(np.empty((len(limits), *size), np.float32))
            cut(one.box, one.geometry[view], one.shifts[view], limits, made[-1])
    return made


@pytest.mark.parametrize(
    ("windows", "codec"), [(((40, 80), (80, 200), (600, 2800)), "lz4"), (((35.5, 80),), "zstd")]
)
def test_views_of_a_copy_equal_those_of_the_archive(
    archive: Path, tmp_path: Path, windows: tuple[tuple[float, float], ...], codec: Codec
) -> None:
    data = config(archive, windows=windows)
    info = clip(archive, tmp_path / "copy", needed_hu(data), codec=codec)
    assert len(windows) > 1 or info.bytes < Dataset.open(archive).info.bytes
    assert not verify(tmp_path / "copy")
    mine, theirs = views(config(tmp_path / "copy", windows=windows)), views(data)
    assert len(mine) == 3 * data.views
    assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
    for name in ("key", "patient_key", "study_key", "source_digest", "config_digest"):
        assert Dataset.open(tmp_path / "copy", clipped=True).index[name] == Dataset.open(archive).index[name]


def test_the_bounds_of_the_squeezed_field_contain_its_foreground() -> None:
    assert needed_hu(config(Path("d"), windows=((60, 20),))) == (50, 70)
    assert needed_hu(config(Path("d"), windows=((60, 20),), field="squeezed")) == (0, 70)
    assert needed_hu(config(Path("d"), windows=((-500, 100.5),), field="squeezed")) == (-551, 1)


def test_a_copy_is_refused_by_everything_else(archive: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    clip(archive, copy, (-100, 200))
    with pytest.raises(FmctError, match="-100 to 200 HU"):
        Dataset.open(copy)
    with pytest.raises(FmctError, match="-800 to 2000"):
        open_dataset(config(copy))
    assert len(open_dataset(config(copy, windows=((40, 80),)))) == 3
    with pytest.raises(FmctError):
        clip(copy, tmp_path / "again", (0, 80))
    sample(copy, tmp_path / "some", 1, 0, 2**20)
    assert Dataset.open(tmp_path / "some", clipped=True).info.clipped_hu == (-100, 200)


def test_a_stopped_copy_is_resumed_and_another_refused(archive: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    whole = clip(archive, copy, (-100, 200))
    files = sorted(file for file in copy.iterdir() if file.name.startswith("shard-00000"))
    before = [file.stat().st_mtime_ns for file in files]
    (copy / "dataset.json").unlink()
    for file in copy.glob("shard-00001*"):
        file.unlink()
    assert clip(archive, copy, (-100, 200)) == whole
    assert [file.stat().st_mtime_ns for file in files] == before
    with pytest.raises(FmctError, match="other bounds"):
        clip(archive, copy, (-100, 201))
    with pytest.raises(FmctError, match="another codec"):
        clip(archive, copy, (-100, 200), codec="lz4")


def test_a_quick_copy_keeps_its_codec_and_other_programs_read_it(tmp_path: Path) -> None:
    volume = noise((40, 44, 38), 0)
    write_dataset(tmp_path / "archive", "zarr", {"s": {make_key(0): volume}}, {"select": {}})
    clip(tmp_path / "archive", tmp_path / "copy", (-100, 200), codec="lz4")
    sample(tmp_path / "copy", tmp_path / "some", 1, 0, 2**20)
    for folder in ("copy", "some"):
        (shard,) = (tmp_path / folder).glob("*.zarr.zip")
        group = zarr.open(zarr.storage.ZipStore(shard))
        assert isinstance(group, zarr.Group)
        array = group[make_key(0)]
        assert isinstance(array, zarr.Array)
        assert "lz4hc" in json.dumps(array.metadata.to_dict(), default=str)
        np.testing.assert_array_equal(array[:], np.clip(volume, -100, 200))


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_copy_keeps_its_codec_in_the_other_format_and_back(
    archive: Path, tmp_path: Path, codec: Codec
) -> None:
    there = Dataset.open(archive).info.format
    (other,) = set(FORMATS) - {there}
    clip(archive, tmp_path / "copy", (-100, 200), codec=codec)
    convert(archive, tmp_path / "plain", other)
    clip(tmp_path / "plain", tmp_path / "made", (-100, 200), codec=codec)
    convert(tmp_path / "copy", tmp_path / "other", other)
    convert(tmp_path / "other", tmp_path / "back", there)
    for one, two in (("other", "made"), ("back", "copy")):
        assert _shards(tmp_path / one) == _shards(tmp_path / two)
        assert {Dataset.open(tmp_path / one, clipped=True).codec(i) for i in range(3)} == {codec}


def _shards(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("shard-*")}


def test_the_command_takes_a_recipe_and_old_datasets_keep_their_bytes(archive: Path, tmp_path: Path) -> None:
    assert "clipped_hu" not in json.loads((archive / "dataset.json").read_text())
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {windows: [[40, 80]]}\n")
    command = [
        "shards",
        "derive",
        str(archive),
        "--out",
        str(tmp_path / "copy"),
        "--for-training",
        str(recipe),
        "--codec",
        "lz4",
    ]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "copy/dataset.json").read_text())["clipped_hu"] == [0, 80]
    shown = CliRunner().invoke(app, ["shards", "info", str(tmp_path / "copy")], catch_exceptions=False)
    assert "0 to 80 HU" in shown.output
    assert "lz4" in shown.output
