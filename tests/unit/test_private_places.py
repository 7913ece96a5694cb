"""All users can write to a node's scratch: files of others are not used, followed or overwritten."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from shard_samples import make_key, noise, write_dataset

from fmct_hpc.data.cache import CachedDataset
from fmct_hpc.train.pieces import write_pieces
from fmct_hpc.train.watchdog import EXIT_HUNG
from preprocess.scan.run import scan
from shards import Dataset, FmctError
from shards.private import private_folder

STRANGER = 65534
OURS = f"fmct-shards-{os.getuid()}"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """World-writable and sticky, like /tmp and most nodes' scratch."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        place = Path(folder) / "scratch"
        place.mkdir()
        place.chmod(0o1777)
        yield place


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", "zarr", {"one": {make_key(1): noise((33, 8, 8), 1)}})
    return tmp_path / "data"


def cached(data: Path, scratch: Path) -> CachedDataset:
    return CachedDataset.open_cached(data, scratch, 10**9)


def copy_name(data: Path) -> str:
    return f"{Dataset.open(data).info.digest[:16]}-one.zarr.zip"


def owned_by_a_stranger(place: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a folder to another user")
    place.mkdir()
    os.chown(place, STRANGER, STRANGER)


def linked_elsewhere(place: Path) -> None:
    target = place.parent / "of-another"
    target.mkdir()
    place.symlink_to(target)


def writable_by_others(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)


def a_file(place: Path) -> None:
    place.touch()


def below_a_folder_without_sticky_bit(place: Path) -> None:
    place.mkdir(mode=0o700)
    place.parent.chmod(0o777)


PLANTED = (
    owned_by_a_stranger,
    linked_elsewhere,
    writable_by_others,
    a_file,
    below_a_folder_without_sticky_bit,
)


@pytest.mark.parametrize("plant", PLANTED)
def test_an_untrusted_cache_folder_is_refused_and_receives_no_copy(
    data: Path, scratch: Path, plant: Callable[[Path], None]
) -> None:
    plant(scratch / OURS)
    with pytest.raises(FmctError, match=r"data\.cache"):
        cached(data, scratch)
    assert not [path for path in scratch.rglob("*") if path.name.endswith(".zip")]


@pytest.mark.parametrize("plant", PLANTED)
def test_a_cache_replaced_later_receives_no_copy(
    data: Path, scratch: Path, plant: Callable[[Path], None]
) -> None:
    dataset = cached(data, scratch)
    plant(scratch / OURS)
    with pytest.raises(FmctError, match=r"data\.cache"):
        dataset.fill(0)
    assert not [path for path in scratch.rglob("*") if path.name.endswith(".zip")]


def test_copies_of_a_private_dataset_are_private(data: Path, scratch: Path) -> None:
    before = os.umask(0o022)
    try:
        (scratch / OURS).mkdir()  # as earlier versions made it
        cached(data, scratch).fill(0)
    finally:
        os.umask(before)
    files = [scratch / OURS, *(scratch / OURS).iterdir()]
    assert len(files) >= 2
    assert [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


@pytest.mark.parametrize("suffix", ["", ".tmp"])
def test_a_link_in_place_of_a_copy_is_not_followed(data: Path, scratch: Path, suffix: str) -> None:
    victim = scratch.parent / "victim"
    victim.write_bytes(b"mine")
    (scratch / OURS).mkdir(mode=0o700)
    (scratch / OURS / (copy_name(data) + suffix)).symlink_to(victim)
    dataset = cached(data, scratch)
    with suppress(OSError):  # only the copy is lost
        dataset.fill(0)
    assert dataset.read(0).tobytes() == Dataset.open(data).read(0).tobytes()
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize("plant", [owned_by_a_stranger, linked_elsewhere, writable_by_others])
def test_the_work_folder_of_a_scan_is_private(
    tmp_path: Path, scratch: Path, plant: Callable[[Path], None]
) -> None:
    """It contains header data of patients."""
    (tmp_path / "export").mkdir()
    plant(scratch / ".catalog.parquet.scan")
    with pytest.raises(FmctError, match=r"\.catalog\.parquet\.scan"):
        scan(tmp_path / "export", scratch / "catalog.parquet")


def test_a_private_folder_is_made_once_and_then_used(scratch: Path) -> None:
    for _ in range(2):
        private_folder(scratch / "deep" / "mine")
    assert stat.S_IMODE((scratch / "deep" / "mine").stat().st_mode) == 0o700


def test_stack_dumps_and_checkpoint_parts_follow_no_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    place = tmp_path / "hangs/rank-00000.txt"
    place.parent.mkdir()
    place.symlink_to(tmp_path / "precious")
    code = (
        "import sys, time; from pathlib import Path; from fmct_hpc.train.watchdog import Watchdog\n"
        "with Watchdog(Path(sys.argv[1]), 0, 0.1): time.sleep(60)"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code, tmp_path], capture_output=True, timeout=100)
    assert result.returncode == EXIT_HUNG
    assert not place.is_symlink()
    assert b"Thread" in place.read_bytes()
    part = tmp_path / "rank-00000.safetensors"
    part.symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        write_pieces(part, [])
    assert (tmp_path / "precious").read_text() == "precious"
