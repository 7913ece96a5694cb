"""Datasets derived from others: converted, sampled, split or resharded.

A plan lists the volumes of each shard; one worker writes a shard. A killed run is resumed: complete shards
that match the plan are kept. dataset.json is written last.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from shards import index as indexes
from shards import progress as progresses
from shards.dataset import Dataset, finish_dataset
from shards.errors import FmctError
from shards.format_names import ShardFormat
from shards.formats import FORMATS, shard_path
from shards.info import FILE_NAME, DatasetInfo
from shards.lock import writing
from shards.output_paths import require_folder
from shards.parallel import unordered
from shards.share import WHOLE, Share
from shards.writer import ShardWriter

Progress = Callable[[int, int], None]
Contents = dict[str, list[tuple[str, int]]]
"""Key and CRC-32 of each volume, by shard name."""


class ShardPlan(NamedTuple):
    """One shard to write."""

    name: str
    volumes: tuple[int, ...]
    """Volume numbers in the source dataset, in order."""


def convert(
    source: Path,
    out: Path,
    format: ShardFormat,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> DatasetInfo:
    """Store the same volumes in the same shards in `format`; records, codec and content digest stay the same.

    Raises FmctError if the source is damaged or already has this format, or if `out` holds other data.
    """
    dataset = Dataset.open(source, clipped=True)
    if dataset.info.format == format:
        raise FmctError(f"{source} already has the format {format}")
    return derive(dataset, out, format, unchanged_plan(dataset), workers, progress)


def unchanged_plan(dataset: Dataset) -> list[ShardPlan]:
    """The plan of a dataset's existing shards."""
    plan, first = [], 0
    for shard in dataset.info.shards:
        plan.append(ShardPlan(shard.name, tuple(range(first, first + shard.volumes))))
        first += shard.volumes
    return plan


def packed(dataset: Dataset, volumes: Iterable[int], shard_bytes: int) -> list[ShardPlan]:
    """Shards of at most `shard_bytes` of stored voxels but at least one volume, in the given order."""
    groups: list[list[int]] = []
    size = shard_bytes
    for i in volumes:
        length = dataset.index["length"][i].as_py()
        size += length
        if size > shard_bytes:
            groups.append([])
            size = length
        groups[-1].append(i)
    return [ShardPlan(f"shard-{number:05d}", tuple(group)) for number, group in enumerate(groups)]


def derive(
    dataset: Dataset,
    out: Path,
    format: ShardFormat,
    plan: Sequence[ShardPlan],
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> DatasetInfo:
    """Write the shards of `plan` to `out` and finish the dataset there.

    Every volume is decoded and checked against its CRC-32; voxels are compressed again only if the format
    changes. Raises FmctError if the source is damaged or `out` holds other data.
    """
    require_folder(out, dataset.path)
    preprocessing = dataset.preprocessing()
    keys, sums = dataset.index["key"].to_pylist(), dataset.index["crc32"].to_pylist()
    wanted = {one.name: [(keys[i], sums[i]) for i in one.volumes] for one in plan}
    progresses.register("shards", out, total=len(plan))
    with writing(out, "fmct shards"):
        refuse_other_data(out, format, wanted)
        done = 0
        for volumes in unordered(partial(_write_shard, dataset, out, format), plan, workers):
            done += volumes
            progress(done, sum(len(shard.volumes) for shard in plan))
        return finish_dataset(out, format, list(wanted), preprocessing, dataset.info.clipped_hu)


def progress(out: Path, share: Share = WHOLE) -> progresses.Progress:
    """How many shards are written in `out`."""
    files = (out.glob(f"*{of_format.suffix}") for of_format in FORMATS.values())
    return progresses.Progress(
        sum(not file.name.startswith(".") for shards in files for file in shards), unit="shard"
    )


def refuse_other_data(out: Path, format: ShardFormat, wanted: Contents) -> None:
    """Raise FmctError if `out` is a dataset of anything but `wanted`, or holds shards of other names."""
    if not out.exists():
        return
    suffixes = [of_format.suffix for of_format in FORMATS.values()]
    own = {shard_path(out, name, format).name for name in wanted}
    for file in out.iterdir():
        shard = not file.name.startswith(".") and any(file.name.endswith(suffix) for suffix in suffixes)
        if shard and file.name not in own:
            raise FmctError(
                f"{out} holds {file.name}, which is not part of this dataset; give an empty folder"
            )
    if (out / FILE_NAME).exists():
        there = Dataset.open(out, clipped=True)
        held: Contents = {shard.name: [] for shard in there.info.shards}
        rows = (there.index[name].to_pylist() for name in ("shard", "key", "crc32"))
        for name, key, crc32 in zip(*rows, strict=True):
            held[name].append((key, crc32))
        if held != wanted:
            raise FmctError(f"{out}: already a dataset of other volumes; give an empty folder")


def _write_shard(dataset: Dataset, out: Path, format: ShardFormat, plan: ShardPlan) -> int:
    """Write one shard unless it exists; return its number of volumes."""
    if not is_written(dataset, out, format, plan):
        with ShardWriter(out, plan.name, format) as shard:
            for i in plan.volumes:
                if dataset.info.format == format:
                    shard.add_stored(dataset.record(i), dataset.read_stored(i))
                else:
                    shard.add(dataset.record(i), dataset.read(i), dataset.codec(i))
    return len(plan.volumes)


def is_written(
    dataset: Dataset, out: Path, format: ShardFormat, plan: ShardPlan, changed: Sequence[str] = ()
) -> bool:
    """Whether a shard is complete and matches the plan; changed: columns that differ from the source."""
    file = shard_path(out, plan.name, format)
    try:
        table, shard = indexes.read_sidecar(indexes.sidecar_path(out, plan.name), format)
        if file.stat().st_size != shard.bytes:
            return False
    except (FmctError, FileNotFoundError):
        return False
    unlike = ["shard", "offset", "length", *changed]
    wanted = dataset.index.take(pa.array(plan.volumes, pa.int64())).drop_columns(unlike)
    return bool(table.drop_columns(unlike).to_pylist() == wanted.to_pylist())
