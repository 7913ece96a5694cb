"""Shards return their volumes, by this package and by zarr and webdataset alone."""

import json
import multiprocessing
import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc
from shard_samples import FORMATS, make_key, make_record, noise, write_dataset, write_shard
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.metadata import ArrayV3Metadata

from shards import Dataset, ShardWriter
from shards.format_names import ShardFormat

SIZES = st.one_of(st.integers(1, 40), st.sampled_from([31, 32, 33, 63, 64, 65, 97]))


@st.composite
def volumes(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(SIZES, SIZES, SIZES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low, high = draw(
        st.sampled_from([(-32768, 32767), (-1024, -1024), (0, 0), (-1030, -1020), (-1000, 3000)])
    )
    voxels = rng.integers(low, high, shape, np.int16, endpoint=True)
    return np.asfortranarray(voxels) if draw(st.booleans()) else voxels


Place = tuple[int, int, int]


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, int, int]) -> tuple[Place, Place]:
    d, h, w = (draw(st.integers(0, size - 1)) for size in shape)
    stop = tuple(draw(st.integers(a + 1, size)) for a, size in zip((d, h, w), shape, strict=True))
    return (d, h, w), (stop[0], stop[1], stop[2])


@settings(max_examples=40, deadline=None)
@given(volume=volumes(), data=st.data())
def test_both_formats_return_the_voxels_whole_and_in_boxes(volume: np.ndarray, data: st.DataObject) -> None:
    start, stop = data.draw(boxes(volume.shape))
    inside = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    with tempfile.TemporaryDirectory() as name:
        for format in FORMATS:
            folder = Path(name) / format
            write_dataset(folder, format, {"s": {make_key(1): noise((3, 4, 5), 0), make_key(2): volume}})
            dataset = Dataset.open(folder)
            whole, box = dataset.read(1), dataset.read_box(1, start, stop)
            assert whole.dtype == box.dtype == np.int16
            np.testing.assert_array_equal(whole, volume)
            np.testing.assert_array_equal(box, volume[inside])
            assert dataset.record(1) == make_record(volume, make_key(2))
        with zarr.storage.ZipStore(Path(name) / "zarr" / "s.zarr.zip") as store:
            by_zarr = zarr.open_group(store, mode="r")[make_key(2)]
            assert isinstance(by_zarr, zarr.Array)
            np.testing.assert_array_equal(by_zarr[:], volume)
            np.testing.assert_array_equal(by_zarr[inside], volume[inside])
            np.testing.assert_array_equal(by_zarr[inside], volume[inside])


def test_plain_zarr_lists_the_volumes_with_their_records(tmp_path: Path) -> None:
    stored = {make_key(n): noise((40, 50 + n, 33), n) for n in range(3)}
    path = write_shard(tmp_path, "s", "zarr", stored)
    group = zarr.open(zarr.storage.ZipStore(path), mode="r")
    assert isinstance(group, zarr.Group)
    assert dict(group.arrays()).keys() == stored.keys()
    for key, voxels in stored.items():
        array = group[key]
        assert isinstance(array, zarr.Array)
        assert isinstance(array.metadata, ArrayV3Metadata)
        assert array.metadata.dimension_names == ("z", "y", "x")
        assert dict(array.attrs) == make_record(voxels, key).model_dump(mode="json")
        np.testing.assert_array_equal(array[:], voxels)
    group.store.close()


def test_plain_zarr_reads_a_box_without_its_volume(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(-1000, 2000, (128, 128, 128), np.int16)
    path = write_shard(tmp_path, "s", "zarr", {make_key(1): volume})
    read: list[int] = []

    class CountingStore(zarr.storage.ZipStore):
        async def get(
            self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
        ) -> Buffer | None:
            value = await super().get(key, prototype, byte_range)
            if key.endswith("c/0/0/0"):
                assert value is not None
                read.append(len(value))
            return value

    with CountingStore(path) as store:
        array = zarr.open_group(store, mode="r")[make_key(1)]
        assert isinstance(array, zarr.Array)
        box = (slice(70, 90), slice(0, 40), slice(30, 33))
        np.testing.assert_array_equal(array[box], volume[box])
    assert 0 < sum(read) < path.stat().st_size / 10  # 4 of 64 chunks and their index


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its file to the collector
def test_plain_webdataset_reads_the_volumes_with_their_records(tmp_path: Path) -> None:
    stored = {make_key(n): noise((40, 50 + n, 33), n) for n in range(3)}
    path = write_shard(tmp_path, "s", "webdataset", stored)
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == list(stored)
    for sample in samples:
        record = json.loads(sample["json"])
        voxels = np.frombuffer(blosc.decompress(sample["vol.blosc"]), "<i2").reshape(record["shape"])
        np.testing.assert_array_equal(voxels, stored[sample["__key__"]])
        assert record == make_record(voxels, sample["__key__"]).model_dump(mode="json")


@pytest.mark.parametrize("format", FORMATS)
def test_a_dataset_written_again_is_the_same_bytes(
    tmp_path: Path, format: ShardFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = {name: {make_key(n): noise((33, 34, 70), n)} for n, name in enumerate(("b", "a"))}
    first = write_dataset(tmp_path / "one", format, shards)
    monkeypatch.setattr("time.time", lambda: 2e9)
    second = write_dataset(tmp_path / "two", format, dict(reversed(shards.items())))
    assert first == second
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_the_zip_is_uncompressed_with_unique_names(tmp_path: Path) -> None:
    path = write_shard(tmp_path, "s", "zarr", {make_key(n): noise((9, 9, 9), n) for n in range(3)})
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        assert len(names) == len(set(names)) == 1 + 2 * 3
        assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_STORED}


def test_air_takes_no_space_in_zarr(tmp_path: Path) -> None:
    air = np.full((128, 128, 128), -1024, np.int16)
    assert write_shard(tmp_path, "s", "zarr", {make_key(0): air}).stat().st_size < 8192


@pytest.mark.parametrize("format", FORMATS)
def test_volumes_are_ordered_by_shard_and_position_and_found_by_key(
    tmp_path: Path, format: ShardFormat
) -> None:
    shards = {
        "b": {make_key(1): noise((2, 3, 4), 1)},
        "a": {make_key(n): noise((2, 3, 4), n) for n in (7, 5)},
    }
    info = write_dataset(tmp_path, format, shards)
    dataset = Dataset.open(tmp_path)
    keys = [dataset.record(i).key for i in range(len(dataset))]
    assert keys == [make_key(n) for n in (7, 5, 1)] == dataset.index["key"].to_pylist()
    assert [dataset.position(key) for key in keys] == [0, 1, 2]
    with pytest.raises(KeyError):
        dataset.position(make_key(2))
    assert info == dataset.info
    assert [(shard.name, shard.volumes) for shard in info.shards] == [("a", 2), ("b", 1)]


@pytest.mark.parametrize("format", FORMATS)
def test_a_dataset_is_usable_in_other_processes(tmp_path: Path, format: ShardFormat) -> None:
    volume = noise((40, 41, 42), 3)
    write_dataset(tmp_path, format, {"s": {make_key(3): volume}})
    dataset = Dataset.open(tmp_path)
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            np.testing.assert_array_equal(pool.apply(dataset.read, (0,)), volume)
    assert len(pickle.dumps(dataset)) < 1024


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("start", "stop"), [((0, 0, -1), (1, 1, 1)), ((0, 0, 0), (3, 4, 6)), ((0, 2, 0), (1, 2, 1))]
)
def test_a_box_that_is_empty_or_outside_the_volume_is_refused(
    tmp_path: Path, format: ShardFormat, start: Place, stop: Place
) -> None:
    write_dataset(tmp_path, format, {"s": {make_key(0): noise((3, 4, 5), 0)}})
    with pytest.raises(ValueError, match="not inside"):
        Dataset.open(tmp_path).read_box(0, start, stop)


@pytest.mark.parametrize("format", FORMATS)
def test_voxels_that_contradict_their_record_are_refused(tmp_path: Path, format: ShardFormat) -> None:
    voxels = noise((3, 4, 5), 0)
    record = make_record(voxels, make_key(0))
    with ShardWriter(tmp_path, "s", format) as shard:
        for wrong in (voxels.astype(np.float32), voxels.astype(">i2"), voxels[:2], voxels + np.int16(1)):
            with pytest.raises(ValueError, match="does not match"):
                shard.add(record, wrong)
        shard.add(record, voxels)
