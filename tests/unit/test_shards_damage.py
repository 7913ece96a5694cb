"""Every flipped bit is found: by `verify` wherever it lies, and by reading where it hurts voxels."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from shard_samples import FORMATS, make_key, noise, write_dataset

from shards import Dataset, FmctError, verify
from shards.formats import FORMATS as READERS
from shards.voxels import DamagedError, Extent

VOLUMES = {make_key(n): noise((40, 37, 50 + n), n) for n in range(2)}


def flip(path: Path, offset: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


@pytest.fixture
def dataset(tmp_path: Path, request: pytest.FixtureRequest) -> Dataset:
    write_dataset(tmp_path, request.param, {"a": {make_key(9): noise((3, 3, 3), 9)}, "b": VOLUMES})
    assert verify(tmp_path) == []
    return Dataset.open(tmp_path)


both_formats = pytest.mark.parametrize("dataset", FORMATS, indirect=True)


def complaints(path: Path) -> str:
    try:
        return " ".join(str(problem) for problem in verify(path))
    except FmctError as error:
        return str(error)


@both_formats
def test_verify_finds_a_flipped_bit_anywhere(dataset: Dataset) -> None:
    rng = np.random.default_rng(0)
    files = [file for file in dataset.path.iterdir() if ".index." not in file.name]
    assert len(files) == 4
    for file in files:
        whole = file.read_bytes()
        for offset in {0, len(whole) - 1, *rng.integers(len(whole), size=20).tolist()}:
            flip(file, offset, int(rng.integers(8)))
            # a bit of the index's digest in dataset.json is laid to the index
            blamed = {"dataset.json", "index.parquet"} if file.name == "dataset.json" else {file.name}
            assert any(name in complaints(dataset.path) for name in blamed), f"{file.name} byte {offset}"
            file.write_bytes(whole)
    assert verify(dataset.path) == []


@both_formats
def test_reading_finds_a_flipped_bit_in_voxels_and_names_the_volume(dataset: Dataset) -> None:
    rng = np.random.default_rng(1)
    key = make_key(1)
    i = dataset.position(key)
    file = dataset.shard_file(i)
    whole = file.read_bytes()
    offset, length = dataset.index["offset"][i].as_py(), dataset.index["length"][i].as_py()
    intact = dataset.read(i - 1)
    for place in {0, length - 1, *rng.integers(length, size=60).tolist()}:
        flip(file, offset + place, int(rng.integers(8)))
        with pytest.raises(FmctError, match=rf"{file.name}: volume {key}: .*rerun `fmct preprocess`"):
            dataset.read(i)
        np.testing.assert_array_equal(dataset.read(i - 1), intact)
        problems = verify(dataset.path)
        assert {(problem.file, problem.key) for problem in problems} == {(file.name, None), (file.name, key)}
        file.write_bytes(whole)


@pytest.mark.parametrize("dataset", ["zarr"], indirect=True)
def test_a_box_finds_a_flipped_bit_in_its_chunks(dataset: Dataset) -> None:
    rng = np.random.default_rng(2)
    i = dataset.position(make_key(1))
    file = dataset.shard_file(i)
    whole = file.read_bytes()
    offset, length = dataset.index["offset"][i].as_py(), dataset.index["length"][i].as_py()
    found = 0
    for place in rng.integers(length, size=60).tolist():
        flip(file, offset + place, int(rng.integers(8)))
        try:
            box = dataset.read_box(i, (20, 0, 0), (40, 37, 51))
        except FmctError:
            found += 1
        else:
            np.testing.assert_array_equal(box, VOLUMES[make_key(1)][20:40])
        file.write_bytes(whole)
    assert found > 30


@pytest.mark.parametrize("dataset", ["webdataset"], indirect=True)
def test_damaged_bytes_never_crash_the_decoder(dataset: Dataset, tmp_path: Path) -> None:
    """A tar has no checksum before decoding: an error, or voxels that the CRC-32 refuses, but no crash."""
    rng = np.random.default_rng(3)
    i = dataset.position(make_key(1))
    shape = dataset.record(i).shape
    extent = Extent(dataset.index["offset"][i].as_py(), dataset.index["length"][i].as_py())
    read_box = READERS["webdataset"].read_box
    whole = dataset.shard_file(i).read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(extent.length, size=4):
            data[extent.offset + place] = rng.integers(256)
        (tmp_path / "damaged").write_bytes(data)
        with (tmp_path / "damaged").open("rb") as stream, contextlib.suppress(DamagedError):
            assert read_box(stream.fileno(), extent, shape, (0, 0, 0), shape).shape == shape


@both_formats
def test_a_truncated_or_missing_shard_is_named(dataset: Dataset) -> None:
    i = dataset.position(make_key(1))
    file = dataset.shard_file(i)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(FmctError, match=f"{file.name}.*{make_key(1)}.*another size"):
        dataset.read(i)
    file.unlink()
    with pytest.raises(FmctError, match=f"{file.name}.*{make_key(1)}.*missing"):
        dataset.read_box(i, (0, 0, 0), (1, 1, 1))
    assert (file.name, None, "missing") in verify(dataset.path)


@both_formats
def test_an_index_of_another_dataset_is_refused(
    dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    write_dataset(other, dataset.info.format, {"b": VOLUMES})
    shutil.copy(other / "index.parquet", dataset.path / "index.parquet")
    with pytest.raises(FmctError, match=r"index\.parquet.*another dataset"):
        Dataset.open(dataset.path)


@both_formats
def test_verify_tells_its_progress(dataset: Dataset) -> None:
    seen: list[tuple[int, int]] = []
    verify(dataset.path, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
