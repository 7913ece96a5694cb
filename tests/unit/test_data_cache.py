"""The node-local cache of shards: bounded, shared, verified, non-blocking."""

import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shard_samples import damage_volume, make_key, noise, write_dataset
from test_data_loader import assert_same, small

from fmct_hpc.data.cache import CachedDataset
from fmct_hpc.data.loader import Batch, Loader
from fmct_hpc.data.order import Order, Share
from fmct_hpc.data.prefetch import Prefetcher
from shards import Dataset, FmctError

SHARDS = 4


@pytest.fixture(scope="module", params=["zarr", "webdataset"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("data") / request.param
    shards = {
        f"shard-{number}": {make_key(2 * number + i): noise((33, 30, 36), 2 * number + i) for i in range(2)}
        for number in range(SHARDS)
    }
    write_dataset(path, request.param, shards)
    return path


@pytest.fixture
def dataset(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "data")


def cached(path: Path, cache: Path, shards: float = SHARDS) -> CachedDataset:
    """With space for that many shards."""
    largest = max(shard.bytes for shard in Dataset.open(path).info.shards)
    return CachedDataset.open_cached(path, cache, int(shards * largest))


def copies(cache: Path) -> list[str]:
    return sorted(path.name.split("-", 1)[1].split(".")[0] for path in cache.rglob("*-shard-?.*"))


def take(path: Path, batches: int, **keywords: object) -> list[Batch]:
    loader = Loader(small(path).model_copy(update=keywords), seed=3, global_batch=4, micro_batch=4)
    try:
        return list(islice(loader, batches))
    finally:
        loader.close()


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def loading_ahead(data: CachedDataset) -> Iterator[Prefetcher]:
    """The order of one rank with batches of two, from step 0."""
    counts = tuple(shard.volumes for shard in data.info.shards)
    ahead = Prefetcher(data, Share(Order(3, counts, 2), 0, 1, 1), 0)
    try:
        yield ahead
    finally:
        ahead.close()


def test_the_loader_fills_the_cache_and_reads_from_it(dataset: Path, tmp_path: Path) -> None:
    plain, cache = take(dataset, 4), tmp_path / "cache"
    loader = Loader(
        small(dataset, workers=1).model_copy(update={"cache": cache, "cache_gb": 1}),
        seed=3,
        global_batch=4,
        micro_batch=4,
    )
    try:
        assert_same(list(islice(loader, 4)), plain)
        wait_for(lambda: len(copies(cache)) == SHARDS)
        assert not list(cache.rglob("*.tmp"))
    finally:
        loader.close()
    for shard in dataset.glob("shard-*"):
        if not shard.name.endswith(".parquet"):
            shard.unlink()
    assert_same(take(dataset, 4, cache=cache, cache_gb=1), plain)


def test_the_least_recently_used_copy_makes_room(dataset: Path, tmp_path: Path) -> None:
    data = cached(dataset, tmp_path / "cache", shards=2.5)
    data.fill(0)
    data.fill(1)
    data.read(0)  # of shard 0
    data.fill(2)
    assert copies(tmp_path / "cache") == ["shard-0", "shard-2"]
    with pytest.raises(FmctError, match=r"data\.cache_gb=.* two shards"):
        cached(dataset, tmp_path / "cache", shards=1.5)


def test_a_damaged_shard_is_not_copied_and_its_reader_reports_it(dataset: Path, tmp_path: Path) -> None:
    data = cached(dataset, tmp_path / "cache")
    shard = data.shard_file(2)
    damage_volume(dataset, 2)
    with pytest.raises(FmctError, match=f"{shard.name}: its SHA-256"):
        data.fill(1)
    assert copies(tmp_path / "cache") == []
    with pytest.raises(FmctError, match=f"{shard.name}: volume {make_key(2)}"):
        data.read_box(2, (0, 0, 0), (33, 30, 36))


def test_a_damaged_copy_is_discarded_and_the_shard_read(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = cached(dataset, tmp_path / "cache")
    data.fill(0)
    (copy,) = (tmp_path / "cache").rglob("*shard-0*")
    stored = bytearray(copy.read_bytes())
    for place in range(1000, len(stored) - 1000, 16):
        stored[place] ^= 0xFF
    copy.write_bytes(stored)
    with caplog.at_level("WARNING"):
        assert np.array_equal(data.read_box(1, (0, 0, 0), (33, 30, 36)), noise((33, 30, 36), 1))
    assert "damaged: removed" in caplog.text
    assert copies(tmp_path / "cache") == []


def test_two_readers_of_one_damaged_copy_both_read_the_shard(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cached(dataset, tmp_path / "cache")
    data.fill(0)
    (copy,) = (tmp_path / "cache").rglob("*shard-0*")
    copy.write_bytes(bytes(copy.stat().st_size))
    both_have_it_open = threading.Barrier(2)
    opened = CachedDataset.open_shard

    def open_shard(self: CachedDataset, i: int) -> int:
        descriptor = opened(self, i)
        both_have_it_open.wait(30)
        return descriptor

    monkeypatch.setattr(CachedDataset, "open_shard", open_shard)
    with ThreadPoolExecutor(2) as pool:
        for number, volume in enumerate(pool.map(data.read, (0, 1))):
            assert np.array_equal(volume, noise((33, 30, 36), number))


def test_a_failing_cache_disk_is_bypassed(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cached(dataset, tmp_path / "cache")
    data.fill(0)
    (copy,) = (tmp_path / "cache").rglob("*shard-0*")
    inode, pread = copy.stat().st_ino, os.preadv

    def failing(descriptor: int, *arguments: Any) -> int:
        if os.fstat(descriptor).st_ino == inode:
            raise OSError(errno.EIO, "Input/output error")
        return pread(descriptor, *arguments)

    monkeypatch.setattr(os, "preadv", failing)
    assert np.array_equal(data.read(0), noise((33, 30, 36), 0))


def test_other_files_in_the_folder_stay_and_are_ignored(dataset: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    (scratch / "folder").mkdir(parents=True)
    (scratch / "results.npy").write_bytes(bytes(10**6))
    for path in scratch.iterdir():
        os.utime(path, (1, 1))
    data = cached(dataset, scratch, shards=2.5)
    for number in range(3):
        data.fill(number)
    assert copies(scratch) == ["shard-1", "shard-2"]
    assert (scratch / "results.npy").exists()


def test_copying_that_is_overtaken_skips_to_the_step_of_the_training(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is at step 50 while the first step's shard is copied: the next copy is of step 50."""
    data = cached(dataset, tmp_path / "cache")
    filled, may_go_on = [], threading.Event()

    def fill(number: int, stop: object) -> None:
        filled.append(number)
        may_go_on.wait(30)

    monkeypatch.setattr(data, "fill", fill)
    with loading_ahead(data) as ahead:
        wait_for(lambda: filled)
        first = ahead.shards_at(0)[0]
        ahead.advance(50)
        may_go_on.set()
        wait_for(lambda: len(filled) > len(ahead.shards_at(0)))
    rest = filled[len(ahead.shards_at(0)) :]
    assert filled[0] == first
    assert ahead.shards_at(50) != ahead.shards_at(1)
    assert rest[: len(ahead.shards_at(50))] == ahead.shards_at(50)


def _fill_and_read(path: Path, cache: Path, seed: int) -> None:
    data = cached(path, cache, shards=2.2)
    random = np.random.default_rng(seed)
    for _ in range(40):
        number = int(random.integers(SHARDS))
        try:
            data.fill(number)
        except FmctError as error:  # copies in progress may take all space
            assert "no space" in str(error)  # noqa: PT017
        volume = 2 * number + int(random.integers(2))
        assert np.array_equal(data.read(volume), noise((33, 30, 36), volume))


def test_processes_share_a_cache_too_small_for_all(dataset: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_fill_and_read, args=(dataset, cache, seed)) for seed in range(4)]
    for process in others:
        process.start()
    for process in others:
        process.join(120)
        assert process.exitcode == 0
    assert (
        sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        <= cached(dataset, cache, 2.2).cache.limit
    )
    for copy in cache.rglob("*-shard-*"):
        assert copy.read_bytes() == (dataset / copy.name.split("-", 1)[1]).read_bytes()


KILLED = """
import sys, time
from pathlib import Path
from fmct_hpc.data import cache

def stuck(source, descriptor, stop):
    import os
    os.write(descriptor, source.read_bytes()[:1000])
    print("half", flush=True)
    time.sleep(600)

cache.copy_file = stuck
cache.CachedDataset.open_cached(Path(sys.argv[1]), Path(sys.argv[2]), 10**9).fill(0)
"""


def test_files_of_a_killed_writer_are_taken_over(dataset: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", KILLED, str(dataset), str(cache)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half\n"
        data = cached(dataset, cache, shards=2.5)
        data.fill(0)  # another process copies it
        assert copies(cache) == ["shard-0"]
        assert list(cache.rglob("*.tmp"))
        assert np.array_equal(data.read(0), noise((33, 30, 36), 0))
        writer.kill()
    data.fill(1)
    data.fill(2)  # its leftovers are evicted
    assert not list(cache.rglob("*.tmp"))
    data.fill(0)
    (copy,) = cache.rglob("*-shard-0*")
    assert copy.read_bytes() == data.shard_file(0).read_bytes()
