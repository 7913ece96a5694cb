"""Exported names of the packages exist, are imported lazily, and are in the reference."""

import pickle
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from shard_samples import make_record
from sphinx.util.inventory import InventoryFile
from torch.utils.data import DataLoader

import fmct_hpc
import preprocess
import shards
from shards import Dataset, FmctError, ShardWriter, finish_dataset

PACKAGES = (shards, preprocess, fmct_hpc)
REFERENCE = Path(__file__).parents[2] / "docs/reference"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(0)
    with ShardWriter(folder, "shard-00000", "zarr") as writer:
        for number in range(3):
            voxels = rng.integers(-1000, 2000, (20 + number, 24, 28)).astype(np.int16)
            writer.add(make_record(voxels, key=f"{number:032x}"), voxels)
    finish_dataset(folder, "zarr", ["shard-00000"])
    return folder


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_exported_name_exists(package: ModuleType) -> None:
    names = package.__all__
    assert set(names) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in names)
    assert package.__version__ == version("fmct-hpc")
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


def test_packages_import_without_torch() -> None:
    looked = "import sys, fmct_hpc, preprocess, shards; dir(fmct_hpc); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", looked], timeout=100).returncode == 0


def test_the_reference_has_every_exported_name(tmp_path: Path) -> None:
    build = ["sphinx-build", "-q", "-W", "--keep-going", "-d", str(tmp_path / "trees")]
    result = subprocess.run([*build, str(REFERENCE), str(tmp_path / "out")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with (tmp_path / "out/objects.inv").open("rb") as stream:
        pages = InventoryFile.load(stream, "", lambda base, path: path)
    written = {name for kind in pages.values() for name in kind}
    constants = {"FORMAT_VERSION", "KernelClass", "ShardFormat", "__version__"}
    for package in PACKAGES:
        assert {f"{package.__name__}.{name}" for name in set(package.__all__) - constants} <= written
    assert "launch.report.report" in written


def test_a_dataset_opens_by_str_and_has_a_helpful_repr(dataset: Path) -> None:
    opened = Dataset.open(str(dataset))
    assert opened.path == dataset
    assert "3 volumes" in repr(opened)
    assert np.array_equal(pickle.loads(pickle.dumps(opened)).read(1), opened.read(1))


def test_whole_volumes_for_pytorch(dataset: Path) -> None:
    stored = Dataset.open(dataset)
    volumes = fmct_hpc.VolumeDataset(str(dataset))
    assert len(volumes) == 3
    for number, item in enumerate(iter(volumes)):
        assert np.array_equal(item.volume.numpy(), stored.read(number))
        assert item.volume.dtype == torch.int16
        assert item.key == stored.record(number).key
    assert torch.equal(volumes[-1].volume, volumes[2].volume)
    with pytest.raises(IndexError):
        volumes[3]


def test_views_of_one_size_are_collated_by_workers(dataset: Path) -> None:
    def view(voxels: np.ndarray, spacing_mm: object) -> torch.Tensor:
        return torch.from_numpy(voxels[None, None, :20].astype(np.float32))

    loader = DataLoader(fmct_hpc.VolumeDataset(dataset, view), batch_size=3, num_workers=1)
    (batch,) = loader
    assert batch.volume.shape == (3, 1, 20, 24, 28)
    assert batch.spacing_mm.shape == (3, 3)
    assert len(set(batch.key)) == 3


def test_a_plot_shows_the_right_side_of_the_patient_on_the_left() -> None:
    volume = np.full((10, 8, 6), -1000, np.int16)
    volume[5, 7, 5] = 80  # anterior, right
    figure = fmct_hpc.plot_volume(volume, (2.0, 1.0, 0.5), slices=10)
    shown = np.stack([np.asarray(axes.images[0].get_array()) for axes in figure.axes])
    assert shown.max() == 80
    assert np.argwhere(shown == 80)[0][1:].tolist() == [0, 0]
    assert figure.axes[0].images[0].get_clim() == (0, 80)
    with pytest.raises(FmctError):
        fmct_hpc.plot_volume(volume[0])
