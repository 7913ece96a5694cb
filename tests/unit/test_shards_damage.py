"""Every flipped bit is found: by `verify` anywhere, and by reading if it affects voxels."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
from process_groups import group_is_gone
from shard_samples import FORMATS, PREPROCESSING, make_key, noise, write_dataset

from shards import Dataset, FmctError, finish_dataset, info, verify, zarr_shard
from shards import index as indexes
from shards.derive import convert
from shards.format_names import Codec
from shards.formats import FORMATS as READERS
from shards.merge import merge
from shards.voxels import DamagedError, Extent

EXHAUSTIVE = os.environ.get("FMCT_EXHAUSTIVE") == "1"
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


def regions(file: Path) -> dict[str, range]:
    """Regions of a shard's bytes besides voxels and records."""
    collected = {}
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            entry = archive.getinfo(names[1])
            directory = archive.start_dir
        collected["header of a member"] = range(entry.header_offset, entry.header_offset + 30 + len(names[1]))
        collected["directory"] = range(directory, file.stat().st_size - 22)
        collected["end of the directory"] = range(file.stat().st_size - 22, file.stat().st_size)
    elif file.suffix == ".tar":
        with tarfile.open(file) as archive:
            member = archive.getmembers()[1]
        end = member.offset_data + member.size
        collected["header of a member"] = range(member.offset, member.offset_data)
        collected["padding of a member"] = range(end, -(-end // 512) * 512)
        collected["end of the archive"] = range(file.stat().st_size - 1024, file.stat().st_size)
    else:
        collected["magic"] = range(4)
        collected["footer"] = range(file.stat().st_size - 200, file.stat().st_size)
    return collected


@both_formats
def test_verify_finds_a_flipped_bit_anywhere(dataset: Dataset) -> None:
    """In each region of each file; with FMCT_EXHAUSTIVE=1, each bit of a tiny shard too."""
    rng = np.random.default_rng(0)
    if EXHAUSTIVE:
        shutil.rmtree(dataset.path)
        write_dataset(dataset.path, dataset.info.format, {"a": {make_key(9): noise((3, 3, 3), 9)}})
    for file in sorted(dataset.path.iterdir()):
        if file.name == "dataset.json":
            continue
        whole = file.read_bytes()
        places = [int(place) for place in rng.integers(len(whole), size=12)]
        for region in regions(file).values():
            places += [region[0], region[-1], *rng.choice(region, min(3, len(region)))]
        flips = [(place, int(rng.integers(8))) for place in places]
        if EXHAUSTIVE:
            shard = file == dataset.shard_file(0)
            flips = [(at, bit) for at in range(len(whole)) for bit in (range(8) if shard else [at % 8])]
        for place, bit in flips:
            flip(file, place, bit)
            assert (file.name, None, "SHA-256 differs") in verify(dataset.path), f"{file.name} byte {place}"
            file.write_bytes(whole)
    assert verify(dataset.path) == []


def test_every_changed_byte_of_dataset_json_is_detected(tmp_path: Path) -> None:
    write_dataset(tmp_path, "zarr", {"a": {make_key(9): noise((3, 3, 3), 9)}})
    file = tmp_path / "dataset.json"
    whole = file.read_bytes()
    text = whole.decode()
    # a wrong digest of an index is reported as damage of the index
    indexes = [text.index(f'"{name}"') for name in ("index_sha256", "sidecar_sha256", "digest")]
    for place in range(len(whole)):
        for bit in range(8) if EXHAUSTIVE else [place % 8]:
            flip(file, place, bit)
            if indexes[0] < place < indexes[2] and readable(tmp_path):
                blamed = "index.parquet" if place < indexes[1] else "a.index.parquet"
                assert [problem.file for problem in verify(tmp_path)] == [blamed], f"byte {place} bit {bit}"
            else:
                with pytest.raises(FmctError, match=r"dataset\.json"):
                    verify(tmp_path)
            file.write_bytes(whole)


def readable(path: Path) -> bool:
    with contextlib.suppress(FmctError):
        return bool(info.read(path))
    return False


@both_formats
def test_several_processes_report_the_same_damage(dataset: Dataset) -> None:
    for file in dataset.path.glob("*.index.parquet"):
        flip(file, 100, 3)
    flip(dataset.shard_file(1), 5, 0)
    assert verify(dataset.path, workers=2) == verify(dataset.path)
    assert len(verify(dataset.path)) == 3


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
    refused = 0
    for place in rng.integers(length, size=60).tolist():
        flip(file, offset + place, int(rng.integers(8)))
        try:
            box = dataset.read_box(i, (20, 0, 0), (40, 37, 51))
        except FmctError:
            refused += 1
        else:
            np.testing.assert_array_equal(box, VOLUMES[make_key(1)][20:40])
        file.write_bytes(whole)
    assert refused > 30


@pytest.mark.parametrize("dataset", ["webdataset"], indirect=True)
def test_damaged_bytes_never_crash_the_decoder(dataset: Dataset, tmp_path: Path) -> None:
    """A tar has no checksum before decoding: an error, or voxels with a CRC-32 mismatch, but no crash."""
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
    with pytest.raises(FmctError, match=f"{file.name}.*{make_key(1)}.*file size is wrong"):
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
def test_verify_prints_its_progress(dataset: Dataset) -> None:
    seen: list[tuple[int, int]] = []
    verify(dataset.path, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (3, 3)]  # after each shard


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_chunks_with_forged_checksums_never_crash_the_kernel(tmp_path: Path, codec: Codec) -> None:
    """Damage that CRC-32C would detect, in lengths and headers too, is an error or gives other voxels."""
    rng = np.random.default_rng(4)
    shape = (32, 32, 64)
    whole = zarr_shard.encode(noise(shape, 4), codec)
    places = np.frombuffer(whole[-36:-4], "<u8").reshape(2, 2).astype(int)
    messages = set()
    for number in range(400):
        data = bytearray(whole)
        for offset, length in places:
            end = offset + length - 4
            at = offset + (rng.integers(28) if number % 2 else rng.integers(length - 4))
            data[at] = rng.integers(256)
            data[end : end + 4] = google_crc32c.value(bytes(data[offset:end])).to_bytes(4, "little")
        (tmp_path / "forged").write_bytes(data)
        with (tmp_path / "forged").open("rb") as stream:
            try:
                box = zarr_shard.read_box(stream.fileno(), Extent(0, len(data)), shape, (0, 0, 0), shape)
                assert box.shape == shape
            except DamagedError as error:
                messages.add(str(error))
    assert messages == {
        "a chunk does not have the layout of docs/formats.md",
        "its codec cannot decode a chunk",
    }


@pytest.mark.parametrize("damage", [b"", b"[]", b"1", b'{"grid": {"spacing_mm": [1.0, 1.0, 3.0]}}'])
def test_a_changed_configuration_is_found_and_goes_into_no_other_dataset(
    tmp_path: Path, damage: bytes
) -> None:
    write_dataset(tmp_path / "data", "zarr", {"a": VOLUMES}, PREPROCESSING)
    assert verify(tmp_path / "data") == []
    (tmp_path / "data/preprocessing.json").write_bytes(damage)
    (problem,) = verify(tmp_path / "data")
    assert (problem.file, problem.key) == ("preprocessing.json", None)
    each: tuple[Callable[[], object], ...] = (
        lambda: convert(tmp_path / "data", tmp_path / "out", "webdataset"),
        lambda: merge([tmp_path / "data"], tmp_path / "out"),
    )
    for make in each:
        with pytest.raises(FmctError, match=r"preprocessing\.json is not the configuration"):
            make()
    assert not (tmp_path / "out").exists()


def test_any_missing_file_of_a_dataset_is_reported(tmp_path: Path) -> None:
    """All except dataset.json, which `info.read` requires; a derived dataset has the same files."""
    write_dataset(tmp_path / "zarr", "zarr", {"a": VOLUMES}, PREPROCESSING)
    convert(tmp_path / "zarr", tmp_path / "tar", "webdataset")
    for folder in (tmp_path / "zarr", tmp_path / "tar"):
        assert verify(folder) == []
        files = {file.name for file in folder.iterdir()} - {"dataset.json"}
        assert len(files) == 4
        for name in files:
            (folder / name).rename(tmp_path / "aside")
            assert name in {problem.file for problem in verify(folder)}
            (tmp_path / "aside").rename(folder / name)


@both_formats
def test_an_unreadable_file_hides_no_other_damage(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = info.sha256

    def failing(path: Path) -> str:
        if path == dataset.shard_file(0):
            raise OSError(errno.EIO, "Input/output error")
        return digest(path)

    monkeypatch.setattr(info, "sha256", failing)
    flip(dataset.shard_file(1), 100, 3)
    actual = {problem.file: problem.what for problem in verify(dataset.path)}
    assert actual[dataset.shard_file(0).name] == "unreadable: Input/output error"
    assert actual[dataset.shard_file(1).name] == "SHA-256 differs"


def test_workers_end_with_a_killed_verification(tmp_path: Path) -> None:
    write_dataset(tmp_path, "zarr", {"a": VOLUMES, "b": {make_key(9): noise((3, 3, 3), 9)}})
    slow = "import sys, time; from pathlib import Path; from shards import verify; verify(Path(sys.argv[1]), "
    slow += "lambda done, total: (print(flush=True), time.sleep(600)), workers=2)"
    with subprocess.Popen(
        [sys.executable, "-c", slow, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    deadline = time.monotonic() + 30
    while not group_is_gone(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert group_is_gone(process.pid)


LIES = {
    "shape": ((30_000, 30_000, 30_000), (-40, -37, 50), (2**31 - 1, 1, 1), (1, 1, 2**30)),
    "length": (2**40, -1),
    "offset": (-1, 2**62),
}
"""Impossible sizes of the first volume in an index."""


@both_formats
@pytest.mark.parametrize("column", LIES)
def test_an_index_with_too_large_extents_allocates_no_memory(dataset: Dataset, column: str) -> None:
    """It is self-consistent, as a foreign dataset may be; the other volumes stay readable."""
    sidecar = indexes.sidecar_path(dataset.path, "b")
    table, shard = indexes.read_sidecar(sidecar, dataset.info.format)
    place = table.schema.get_field_index(column)
    for lie in LIES[column]:
        values = [lie, *table[column].to_pylist()[1:]]
        changed = table.set_column(
            place, table.schema.field(place), pa.array(values, table.schema.types[place])
        )
        indexes.write_sidecar(changed, shard, dataset.info.format, sidecar)
        finish_dataset(dataset.path, dataset.info.format, ["a", "b"])
        problems = verify(dataset.path)
        assert [problem.key for problem in problems if problem.key] == [table["key"][0].as_py()]
        if column != "shape":
            with pytest.raises(FmctError, match="a volume lies outside its shard"):
                Dataset.open(dataset.path)
            continue
        with pytest.raises(FmctError, match=table["key"][0].as_py()):
            Dataset.open(dataset.path).read(1)
        assert Dataset.open(dataset.path).read(2).shape == (40, 37, 51)


def test_an_index_of_more_rows_than_it_has_bytes_is_not_read(tmp_path: Path) -> None:
    """Parquet can repeat a row at no cost."""
    write_dataset(tmp_path, "zarr", {"a": {make_key(9): noise((3, 3, 3), 9)}})
    table = indexes.read(tmp_path / "index.parquet")
    indexes.write(table.take([0] * 100_000), tmp_path / "index.parquet")
    described = info.read(tmp_path)
    digest = info.sha256(tmp_path / "index.parquet")
    shards = (described.shards[0].model_copy(update={"volumes": 100_000}),)
    lie = described.model_copy(update={"volumes": 100_000, "index_sha256": digest, "shards": shards})
    info.write(lie.model_copy(update={"digest": lie.compute_digest()}), tmp_path)
    with pytest.raises(FmctError, match="more rows than bytes"):
        Dataset.open(tmp_path)


def test_deeply_nested_json_is_damage(tmp_path: Path) -> None:
    write_dataset(tmp_path, "zarr", {"a": VOLUMES}, PREPROCESSING)
    (tmp_path / "preprocessing.json").write_text("[" * 200_000)
    assert [problem.file for problem in verify(tmp_path)] == ["preprocessing.json"]
    (tmp_path / "dataset.json").write_text("[" * 200_000)
    with pytest.raises(FmctError, match=r"dataset\.json is damaged"):
        verify(tmp_path)
