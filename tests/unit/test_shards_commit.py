"""A shard or dataset appears only when complete; incompatible shards are refused."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from shard_samples import FORMATS, SUFFIXES, make_key, make_record, noise, write_dataset, write_shard

from shards import Dataset, FmctError, ShardWriter, finish_dataset, verify
from shards.format_names import ShardFormat

KILLED_WRITER = """
    import sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from shard_samples import make_key, make_record, noise
    from shards import ShardWriter
    with ShardWriter(Path({folder!r}), "s", {format!r}) as shard:
        for number in range(1_000_000):
            voxels = noise((64, 64, 64), number)
            shard.add(make_record(voxels, make_key(number)), voxels)
            print(number, flush=True)
"""


def kill_a_writer(folder: Path, format: ShardFormat) -> None:
    """Run a writer and kill it after its third volume."""
    program = KILLED_WRITER.format(tests=str(Path(__file__).parents[1]), folder=str(folder), format=format)
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == [b"0\n", b"1\n", b"2\n"]
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_writer_leaves_no_shard_and_the_next_one_cleans_up(
    tmp_path: Path, format: ShardFormat
) -> None:
    kill_a_writer(tmp_path, format)
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    with pytest.raises(FmctError, match="unfinished"):
        finish_dataset(tmp_path, format, ["s"])
    with pytest.raises(FmctError, match=r"dataset\.json.*fmct preprocess"):
        Dataset.open(tmp_path)
    write_dataset(tmp_path, format, {"s": {make_key(0): noise((4, 4, 4), 0)}})
    assert not list(tmp_path.glob(".*"))
    assert verify(tmp_path) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_writer_leaves_the_previous_shard(tmp_path: Path, format: ShardFormat) -> None:
    voxels = noise((4, 4, 4), 0)
    write_dataset(tmp_path, format, {"s": {make_key(0): voxels}})
    kill_a_writer(tmp_path, format)
    np.testing.assert_array_equal(Dataset.open(tmp_path).read(0), voxels)
    assert verify(tmp_path) == []


@pytest.mark.parametrize("format", FORMATS)
def test_an_exception_leaves_nothing(tmp_path: Path, format: ShardFormat) -> None:
    voxels = noise((4, 4, 4), 0)

    def fail() -> None:
        with ShardWriter(tmp_path, "s", format) as shard:
            shard.add(make_record(voxels, make_key(0)), voxels)
            raise RuntimeError("decoder")

    with pytest.raises(RuntimeError, match="decoder"):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_a_dataset_refuses_a_shard_written_again_after_its_index(tmp_path: Path, format: ShardFormat) -> None:
    write_dataset(tmp_path, format, {"s": {make_key(0): noise((40, 4, 4), 0)}})
    old = Dataset.open(tmp_path)
    path = write_shard(tmp_path, "s", format, {make_key(1): noise((70, 80, 40), 1)})
    with pytest.raises(FmctError, match=f"{path.name}.*{make_key(0)}"):
        old.read(0)
    finish_dataset(tmp_path, format, ["s"])
    np.testing.assert_array_equal(Dataset.open(tmp_path).read(0), noise((70, 80, 40), 1))


@pytest.mark.parametrize("format", FORMATS)
def test_a_shard_replaced_after_its_index_is_refused(tmp_path: Path, format: ShardFormat) -> None:
    path = write_shard(tmp_path, "s", format, {make_key(0): noise((4, 4, 4), 0)})
    with path.open("ab") as stream:
        stream.write(b"\0" * 512)
    with pytest.raises(FmctError, match=path.name):
        finish_dataset(tmp_path, format, ["s"])


@pytest.mark.parametrize("format", FORMATS)
def test_a_key_may_occur_once_only(tmp_path: Path, format: ShardFormat) -> None:
    voxels = noise((4, 4, 4), 0)
    record = make_record(voxels, make_key(0))
    with ShardWriter(tmp_path, "s", format) as shard:
        shard.add(record, voxels)
        with pytest.raises(FmctError, match=record.key):
            shard.add(record, voxels)
    with pytest.raises(FmctError, match=f"{record.key}.*left, right"):
        write_dataset(tmp_path, format, {name: {record.key: voxels} for name in ("right", "left")})
    assert not (tmp_path / "dataset.json").exists()


@pytest.mark.parametrize("change", [{"spacing_mm": (1.0, 1.0, 0.5)}, {"config_digest": "c" * 64}])
def test_volumes_on_different_grids_are_not_joined(tmp_path: Path, change: dict[str, object]) -> None:
    voxels = noise((4, 4, 4), 0)
    for name, changes in (("a", {}), ("b", change)):
        with ShardWriter(tmp_path, name, "zarr") as shard:
            shard.add(make_record(voxels, make_key(ord(name)), **changes), voxels)
    with pytest.raises(FmctError, match=f"{next(iter(change))}.*shard b"):
        finish_dataset(tmp_path, "zarr", ["a", "b"])
    assert not (tmp_path / "dataset.json").exists()


def test_a_dataset_may_have_empty_shards_but_not_only_those(tmp_path: Path) -> None:
    write_shard(tmp_path, "empty", "zarr", {})
    with pytest.raises(FmctError, match="no volume"):
        finish_dataset(tmp_path, "zarr", ["empty"])
    write_shard(tmp_path, "full", "zarr", {make_key(0): noise((4, 4, 4), 0)})
    info = finish_dataset(tmp_path, "zarr", ["empty", "full"])
    assert [shard.volumes for shard in info.shards] == [0, 1]
    assert Dataset.open(tmp_path).record(0).key == make_key(0)
    assert verify(tmp_path) == []


def test_shards_of_the_other_format_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path, "s", "zarr", {make_key(0): noise((4, 4, 4), 0)})
    with pytest.raises(FmctError, match="zarr 1, expected webdataset 1"):
        finish_dataset(tmp_path, "webdataset", ["s"])


@pytest.mark.parametrize("format", FORMATS)
def test_other_folders_are_refused_with_a_remedy(tmp_path: Path, format: ShardFormat) -> None:
    with pytest.raises(FmctError, match="not a directory"):
        Dataset.open(tmp_path / "absent")
    path = write_shard(tmp_path, "s", format, {make_key(0): noise((4, 4, 4), 0)})
    assert path.name == "s" + SUFFIXES[format]
    with pytest.raises(FmctError, match="complete `fmct preprocess` first"):
        Dataset.open(tmp_path)
    finish_dataset(tmp_path, format, ["s"])
    document = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(document | {"format_version": 2}))
    with pytest.raises(FmctError, match="format version 2"):
        Dataset.open(tmp_path)
    for foreign in ("[1, 2]", '{"name": "Task001", "modality": {"0": "CT"}}'):
        (tmp_path / "dataset.json").write_text(foreign)
        with pytest.raises(FmctError, match=r"dataset\.json: not written by this package"):
            Dataset.open(tmp_path)


def test_a_parent_folder_is_refused_with_the_path_of_the_dataset(tmp_path: Path) -> None:
    write_dataset(tmp_path / "zarr", "zarr", {"s": {make_key(0): noise((4, 4, 4), 0)}})
    with pytest.raises(FmctError, match=f"give {tmp_path}/zarr"):
        Dataset.open(tmp_path)
    with pytest.raises(FmctError, match=r"s\.zarr\.zip: not a directory; give the one that holds"):
        Dataset.open(tmp_path / "zarr" / "s.zarr.zip")


def test_a_folder_of_both_formats_names_both(tmp_path: Path) -> None:
    for format in FORMATS:
        write_dataset(tmp_path / format, format, {"s": {make_key(1): noise((3, 4, 5), 1)}})
    with pytest.raises(FmctError, match=f"give {tmp_path}/webdataset or {tmp_path}/zarr"):
        Dataset.open(tmp_path)
