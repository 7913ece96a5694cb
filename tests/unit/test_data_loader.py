"""The loader: the same batches for any ranks, readers and resumes; clean shutdown and clear errors."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from process_groups import readers_of
from shard_samples import damage_volume, make_key, make_record

from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.loader import Batch, Loader
from fmct_hpc.data.readers import Readers
from fmct_hpc.data.source import ViewSource
from fmct_hpc.data.views import Views
from shards.dataset import finish_dataset
from shards.errors import FmctError, LostProcessError
from shards.writer import ShardWriter

VOLUMES = 5


def write_dataset(path: Path) -> Path:
    """A few small noisy volumes, of different shapes."""
    generator = np.random.default_rng(0)
    with ShardWriter(path, "shard", "zarr") as shard:
        for number in range(VOLUMES):
            shape = (30 + number, 44, 38 - number)
            voxels = generator.integers(-1000, 1500, shape).astype(np.int16)
            shard.add(make_record(voxels, make_key(number)), voxels)
    finish_dataset(path, "zarr", ["shard"])
    return path


def small(path: Path, workers: int = 0, prefetch: int = 2) -> DataConfig:
    """Small views with every augmentation enabled."""
    return DataConfig(
        path=path,
        view_size=12,
        field_mm=40,
        global_crop_mm=(20, 40),
        local_field_mm=32,
        local_crop_mm=(8, 20),
        smooth_probability=0.5,
        gamma_probability=0.5,
        workers=workers,
        prefetch=prefetch,
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "zarr")


@contextmanager
def loading(data: DataConfig, **keywords: Any) -> Iterator[Loader]:
    loader = Loader(data, **({"seed": 7, "global_batch": 4, "micro_batch": 4} | keywords))
    try:
        yield loader
    finally:
        loader.close()


def take(data: DataConfig, batches: int, **keywords: Any) -> list[Batch]:
    with loading(data, **keywords) as loader:
        return list(islice(loader, batches))


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    for a, b in zip(left, right, strict=True):
        assert (a.step, a.keys) == (b.step, b.keys)
        assert np.array_equal(a.indices, b.indices)
        assert_equal(a.views, b.views)


def assert_equal(left: Views, right: Views) -> None:
    for ours, theirs in zip(left, right, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


def together(parts: list[Batch]) -> Views:
    """The views of micro-batches, concatenated."""
    members = zip(*(part.views for part in parts), strict=True)
    return Views(*(torch.cat(member, dim=1) for member in members))


def views_of(batch: Batch, place: int) -> Views:
    """The views of the volume at a position in the batch."""
    return Views(*(member[:, place] for member in batch.views if member is not None))


@pytest.fixture(scope="module")
def reference(dataset: Path) -> list[Batch]:
    """Six steps of one rank without reader processes."""
    return take(small(dataset), 6)


def test_a_batch_has_its_shape_keys_and_order(dataset: Path, reference: list[Batch]) -> None:
    for step, batch in enumerate(reference):
        for views in batch.views:
            assert views is not None
            assert views.shape == (2, 4, 3, 12, 12, 12)
            assert views.dtype == torch.float32
        assert batch.step == step
        assert batch.keys == [f"{i:032x}" for i in batch.indices]
        assert batch.wait_seconds >= 0
    seen = np.concatenate([batch.indices for batch in reference])
    assert np.array_equal(np.sort(seen[:VOLUMES]), np.arange(VOLUMES))


def test_a_sample_looks_different_in_each_epoch_and_view(reference: list[Batch]) -> None:
    groups = [group for batch in reference for group in batch.views if group is not None]
    views = [view for group in groups for view in group.flatten(0, 1)]
    assert len({view.numpy().tobytes() for view in views}) == len(views)


def test_one_global_view_is_the_first_of_two(dataset: Path, reference: list[Batch]) -> None:
    alone = take(small(dataset).model_copy(update={"global_views": 1, "local_views": 0}), 6)
    for batch, whole in zip(alone, reference, strict=True):
        assert torch.equal(batch.views.whole, whole.views.whole[:1])
        assert batch.views.local is None


def test_smaller_local_views_change_neither_the_global_ones_nor_the_order(
    dataset: Path, reference: list[Batch]
) -> None:
    """Their content is tested in tests/numerics/test_views.py; here, that nothing else changes."""
    smaller = small(dataset).model_copy(update={"local_view_size": 6})
    batches = take(smaller, 6)
    for batch, large in zip(batches, reference, strict=True):
        assert torch.equal(batch.views.whole, large.views.whole)
        assert batch.views.local is not None
        assert batch.views.local.shape == (2, 4, 3, 6, 6, 6)
        assert batch.keys == large.keys
    assert_same(take(smaller.model_copy(update={"workers": 1}), 2, start_step=4), batches[4:])
    halves = [take(smaller, 6, micro_batch=2, rank=rank, world_size=2) for rank in range(2)]
    for batch, *parts in zip(batches, *halves, strict=True):
        assert_equal(together(parts), batch.views)


def test_readers_and_prefetch_change_nothing(dataset: Path, reference: list[Batch]) -> None:
    assert_same(take(small(dataset, workers=2, prefetch=3), 6), reference)
    assert_same(take(small(dataset, prefetch=1), 6), reference)


def test_a_resumed_loader_resumes_with_the_same_batches(dataset: Path, reference: list[Batch]) -> None:
    assert_same(take(small(dataset), 2, start_step=4), reference[4:])
    assert_same(take(small(dataset, workers=1), 1, start_step=5), reference[5:])


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (1, 2), (2, 2)])
def test_steps_do_not_depend_on_ranks_or_micro_batches(
    dataset: Path, reference: list[Batch], world_size: int, accumulate: int
) -> None:
    micro_batch = 4 // (world_size * accumulate)
    ranks = [
        take(
            small(dataset),
            2 * accumulate,
            micro_batch=micro_batch,
            rank=rank,
            world_size=world_size,
            accumulate=accumulate,
        )
        for rank in range(world_size)
    ]
    for step in range(2):
        parts = [b for rank in ranks for b in rank[step * accumulate : (step + 1) * accumulate]]
        assert [part.step for part in parts] == [step] * len(parts)
        assert_equal(together(parts), reference[step].views)


def test_an_indivisible_batch_is_refused(dataset: Path) -> None:
    with pytest.raises(FmctError, match=r"run\.batch=4"):
        Loader(small(dataset), 0, global_batch=4, micro_batch=1, world_size=3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_reaches_the_trainer_in_one_line(tmp_path: Path, workers: int) -> None:
    path = write_dataset(tmp_path / "zarr")
    (shard,) = path.glob("shard.zarr*")
    damaged = bytearray(shard.read_bytes())
    for place in range(len(damaged) // 4, len(damaged) * 3 // 4, 64):
        damaged[place] ^= 0xFF
    shard.write_bytes(damaged)
    with loading(small(path, workers)) as loader, pytest.raises(FmctError, match="volume") as raised:
        list(islice(loader, 8))
    assert shard.name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_damaged_volume_is_skipped_and_reported_if_so_configured(
    tmp_path: Path, reference: list[Batch], caplog: pytest.LogCaptureFixture
) -> None:
    path = write_dataset(tmp_path / "zarr")
    damage_volume(path, 3)
    data = small(path).model_copy(update={"damaged": "skip"})
    with caplog.at_level("WARNING"):
        batches = take(data, 5)
    bad = f"{3:032x}"
    lost = [key for batch in batches for key in batch.skipped]
    assert lost
    assert set(lost) == {bad}
    assert f"shard.zarr.zip: volume {bad} is damaged: skipped" in caplog.text
    for batch, whole in zip(batches, reference, strict=False):
        assert bad not in batch.keys
        assert batch.keys == [dataset_key(i) for i in batch.indices]
        for place, key in enumerate(whole.keys):  # all others are unchanged
            if key != bad:
                assert batch.keys[place] == key
                assert_equal(views_of(batch, place), views_of(whole, place))
        assert bool(batch.skipped) == (bad in whole.keys)
    # Ranks, readers and a resume agree on the substitute.
    halves = [take(data, 5, micro_batch=2, rank=rank, world_size=2) for rank in range(2)]
    for batch, *parts in zip(batches, *halves, strict=True):
        assert batch.keys == [key for part in parts for key in part.keys]
        assert_equal(together(parts), batch.views)
    resumed = take(data.model_copy(update={"workers": 1}), 2, start_step=3)
    assert_same(resumed, batches[3:])
    assert [batch.skipped for batch in resumed] == [batch.skipped for batch in batches[3:]]


def dataset_key(index: int) -> str:
    return f"{index:032x}"


def test_a_fully_damaged_dataset_ends_the_run_even_when_skipping(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "zarr")
    for number in range(VOLUMES):
        damage_volume(path, number)
    data = small(path).model_copy(update={"damaged": "skip"})
    with loading(data) as loader, pytest.raises(FmctError, match="volume"):
        next(iter(loader))


def reader_pids() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def test_closing_ends_the_readers_and_the_stream(dataset: Path) -> None:
    with loading(small(dataset, workers=2)) as loader:
        next(iter(loader))
        assert len(reader_pids()) == 2
    assert reader_pids() == []
    assert list(loader) == []


def test_readers_outlive_the_signals_of_a_scheduler(dataset: Path, reference: list[Batch]) -> None:
    def signals() -> None:
        while not (readers := readers_of(os.getpid())):
            time.sleep(0.001)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(readers[0], number)

    early = threading.Thread(target=signals)
    early.start()
    with loading(small(dataset, workers=1)) as loader:
        early.join()
        signals()
        assert_same(list(islice(loader, 6)), reference)


KILLS = int(os.environ.get("FMCT_KILLS", "4"))
"""How often readers are killed: 100 in the long test (docs/training.md)."""


@pytest.mark.timeout(300 + 20 * KILLS)
def test_a_killed_reader_is_reported_without_waiting(dataset: Path, seed: int) -> None:
    """While starting, working, idle, or with a task."""
    generator = random.Random(seed)
    for number in range(KILLS):
        started = threading.Thread(target=kill_a_reader, args=(generator.random(), number % 2 == 0))
        started.start()
        reported = pytest.raises(LostProcessError, match="reader process was killed by SIGKILL")
        with reported, loading(small(dataset, workers=2)) as loader:
            list(islice(loader, 50_000))
        assert reader_pids() == []
        started.join()


def kill_a_reader(moment: float, early: bool) -> None:
    """At a random time: while starting, or during a short run."""
    while not (readers := readers_of(os.getpid())):
        time.sleep(0.001)
    time.sleep(moment * (1.0 if early else 5.0))
    os.kill(readers[0], signal.SIGKILL)


def test_closing_waits_for_no_reader(dataset: Path) -> None:
    """One is killed without notice, and one no longer responds."""
    with loading(small(dataset, workers=2)) as loader:
        next(iter(loader))
        killed, stopped = reader_pids()
        os.kill(stopped, signal.SIGSTOP)
        os.kill(killed, signal.SIGKILL)
    assert reader_pids() == []


class Defective(ViewSource):
    def __init__(self) -> None:
        pass

    def batch(self, iteration: int, places: Iterable[int]) -> NoReturn:
        raise [KeyError("one"), PermissionError(13, "two", "file"), FmctError("three")][iteration]


def test_an_exception_in_a_reader_keeps_its_type_or_traceback() -> None:
    with closing(Readers(Defective(), count=1, batch=1, prefetch=2)) as readers:
        with pytest.raises(RuntimeError, match=r"(?s)in batch.*KeyError: 'one'"):
            readers.batch(0)
        with pytest.raises(PermissionError, match="file"):
            readers.batch(1)
        with pytest.raises(FmctError, match="three"):
            readers.batch(2)


TRAINER = """
import multiprocessing, sys, time
from pathlib import Path
from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.loader import Loader

if __name__ == "__main__":
    data = DataConfig.model_validate_json(sys.argv[1])
    loader = Loader(data, seed=0, global_batch=2, micro_batch=2)
    next(iter(loader))
    print(multiprocessing.active_children()[0].pid, flush=True)
    if sys.argv[2] == "raise":
        raise RuntimeError("training failed")
    time.sleep(600)
"""


@pytest.mark.parametrize("end", ["killed", "raise"])
def test_readers_and_temporary_files_do_not_outlive_their_trainer(
    dataset: Path, tmp_path: Path, end: str
) -> None:
    script, temporary = tmp_path / "trainer.py", tmp_path / "tmp"
    temporary.mkdir()
    script.write_text(TRAINER)
    arguments = [sys.executable, str(script), small(dataset, workers=1).model_dump_json(), end]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(temporary)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as trainer:
        assert trainer.stdout is not None
        reader = int(trainer.stdout.readline())
        if end == "killed":
            trainer.kill()
        assert trainer.wait(timeout=60) != 0
    deadline = time.monotonic() + 30
    while Path(f"/proc/{reader}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{reader}").exists()
    assert [path for path in temporary.rglob("*") if "autograph" in path.name] == []
