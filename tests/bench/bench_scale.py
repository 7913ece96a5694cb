"""A small and a large archive, simulated by the project's own functions: `python tests/bench/bench_scale.py`.

The plan, the ledger's files, the order of samples, the requirements of a node's cache, checkpoints and the
cost of failures. Assumes 21 MB of pixels per series (40 slices of 512² pixels of 16 bits) and 6 MB stored;
only a few small files are read or written. docs/operations.md has the tables. It takes some minutes
and 2 GB.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_order import RANKS_A_NODE, hit_rate
from markdown_table import heading, row
from tiny import parsed

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.order import Order
from fmct_hpc.model.size import parameter_counts, training_flops
from fmct_hpc.train.dry_run import (
    ASSUMED_GPU,
    ASSUMED_MFU,
    SAVE_BYTES_PER_SECOND,
    STATE_BYTES,
    TEACHER_BYTES,
)
from fmct_hpc.train.failures import daly_interval, expected_seconds
from fmct_hpc.train.throughput import PEAK_TFLOPS
from preprocess.tasks import ledger
from preprocess.tasks.ledger import TaskResult
from preprocess.tasks.plan import Plan, Task, task_bits
from shards.formats import shard_path
from shards.index import sidecar_path
from shards.info import ShardInfo

PIXELS, STORED = 21e6, 6e6
"""Bytes a series: 40 slices of 512² pixels of 2 bytes, and what docs/recipes.md counts for a volume."""
ARCHIVES = ((361_663, 64, 256, 2048), (10_000_000, 1024, 4096, 2048), (10_000_000, 1024, 4096, 16_384))
"""Volumes, ranks, batch, output.shard_mib."""
STEPS = 50
"""The span over which a node's need is counted."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["ledger", "order", "failures"])
    parser.add_argument("--shrink", type=int, default=1, help="divide volumes and batches by that")
    options = parsed(parser, arguments, shrink=100)
    small = [
        (volumes // options.shrink, ranks, max(1, batch // options.shrink), shard_mib)
        for volumes, ranks, batch, shard_mib in ARCHIVES
    ]
    for part in options.parts:
        if part == "failures":
            print_failures()
        else:
            {"ledger": print_ledger, "order": print_order}[part](small)


def tasks_of(volumes: int, shard_mib: int) -> int:
    return int(2 ** task_bits(int(volumes * PIXELS), shard_mib * 2**20))


Archives = Sequence[tuple[int, int, int, int]]


def print_ledger(archives: Archives) -> None:
    columns = ("volumes", "shard_mib", "shards", "GB each", "files", "plan.json MB", "s to read")
    heading(*columns, "status, calls", "s")
    for volumes, _, _, shard_mib in archives:
        count = tasks_of(volumes, shard_mib)
        rows = np.array_split(np.arange(volumes), count)
        tasks = tuple(
            Task(digest=f"{number:064x}", rows=tuple(part.tolist())) for number, part in enumerate(rows)
        )
        text = Plan(settings="0" * 64, tasks=tasks).model_dump_json()
        began = time.perf_counter()
        Plan.model_validate_json(text)
        read = time.perf_counter() - began
        calls, seconds = status_of_one(count)
        files_a_task = len(ledger.files(Path("out"), 0, tasks[0]).parts) + 3  # marker, shard, sidecar
        row(
            *(f"{volumes:,}", shard_mib, f"{count:,}", f"{volumes * STORED / count / 1e9:.2f}"),
            *(f"{count * files_a_task + 6:,}", f"{len(text) / 1e6:.1f}", f"{read:.1f}"),
            *(f"{count * calls:,}", f"{count * seconds:.1f}"),
        )


def status_of_one(count: int) -> tuple[int, float]:
    """File-system calls and seconds of `ledger.result` for one finished task, on this disk."""
    with tempfile.TemporaryDirectory() as folder:
        place = ledger.files(Path(folder), count - 1, Task(digest="0" * 64, rows=(0,)))
        shard = ShardInfo(name=place.shard, volumes=1, bytes=0, sha256="0" * 64)
        directory = place.out / "zarr"
        made = (
            *place.parts,
            shard_path(directory, place.shard, "zarr"),
            sidecar_path(directory, place.shard),
        )
        for file in made:
            file.parent.mkdir(exist_ok=True)
            file.touch()
        done = TaskResult(
            digest="0" * 64,
            series=1,
            volumes=1,
            rejected={},
            dropped_slices={},
            source_bytes=1,
            seconds=1.0,
            shards={"zarr": shard},
        )
        ledger.mark(place, done)
        calls = _calls(lambda: ledger.result(place))
        began = time.perf_counter()
        for _ in range(1000):
            assert ledger.result(place)
        return calls, (time.perf_counter() - began) / 1000


def _calls(look: Callable[[], object]) -> int:
    """Number of times that `look` opens a file or queries one by name."""
    seen: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            return function(*arguments, **options)

        return call

    own = {name: getattr(Path, name) for name in ("stat", "open")}
    try:
        for name, function in own.items():
            setattr(Path, name, counted(name, function))
        look()
    finally:
        for name, function in own.items():
            setattr(Path, name, function)
    return len(seen)


def print_order(archives: Archives) -> None:
    heading(
        *("volumes", "ranks", "shards", "fetched in an epoch", "by a node in 50 steps", "TB a node then"),
        *("opens a step", "behind a batch", "hits at 10 %", "ms to compute a step"),
    )
    for volumes, ranks, batch, shard_mib in archives:
        count = tasks_of(volumes, shard_mib)
        random = np.random.default_rng(0)
        sizes = random.multinomial(volumes, np.full(count, 1 / count))
        order = Order(0, tuple(sizes.tolist()), batch)
        shard_of = np.repeat(np.arange(count, dtype=np.int32), sizes)
        positions = np.arange(volumes)
        parts = np.array_split(positions, max(1, volumes // 1_000_000))
        shard = np.concatenate([shard_of[order.at(part)[1]] for part in parts])
        node = positions % batch * ranks // batch // RANKS_A_NODE
        fetched = len(np.unique(node * count + shard))
        starts = range(0, volumes - STEPS * batch, max(1, volumes // batch // 10) * batch)
        spans = [slice(first, first + STEPS * batch) for first in starts]
        live = np.mean([len(np.unique(shard[s][node[s] == 0])) for s in spans])
        behind = np.mean([len(np.unique(shard[s.start : s.start + batch])) for s in spans])
        began = time.perf_counter()
        for step in range(20):
            order.indices(step * 7)
        each = (time.perf_counter() - began) / 20
        size = volumes * STORED / count
        row(
            *(f"{volumes:,}", ranks, f"{count:,} of {size / 1e9:.2f} GB"),
            *(f"{fetched:,} ({fetched / count:.2f} times all)", f"{live:.0f}", f"{live * size / 1e12:.3f}"),
            *(batch, f"{behind:.0f}", f"{hit_rate(shard[node == 0], count // 10):.1%}", f"{1000 * each:.1f}"),
        )


def print_failures() -> None:
    heading(
        *("model", "ranks", "ms a step", "checkpoint GB, files", "s at 1 GB/s", "MTBF h"),
        *("best interval min (steps)", "lost", "lost at 1,000 steps"),
    )
    for size, ranks, batch in (("B", 64, 256), ("B", 1024, 4096), ("L", 1024, 4096)):
        for gpu_hours in (50_000, 10_000):
            given = {"data": {"path": "unused"}, "model": {"size": size}, "run": {"batch": batch}}
            config = TrainConfig.model_validate(given)
            counts = parameter_counts(config)
            teacher = counts["encoder"] + counts["head"]
            checkpoint = STATE_BYTES * sum(counts.values()) + TEACHER_BYTES * teacher
            save = checkpoint / SAVE_BYTES_PER_SECOND
            peak = ASSUMED_MFU * 1e12 * PEAK_TFLOPS[ASSUMED_GPU] * ranks
            step = batch * training_flops(config) / peak
            failure = 3600 * gpu_hours / ranks
            best = daly_interval(save, failure)
            best_loss, fixed_loss = (
                expected_seconds(1.0, seconds, save, failure) - 1 for seconds in (best, 1000 * step)
            )
            row(
                *(size, ranks, f"{1000 * step:.0f}", f"{checkpoint / 1e9:.2f}, {ranks + 1}", f"{save:.1f}"),
                *(f"{failure / 3600:.0f}", f"{best / 60:.0f} ({best / step:,.0f})"),
                *(f"{best_loss:.2%}", f"{fixed_loss:.2%}"),
            )


if __name__ == "__main__":
    main()
