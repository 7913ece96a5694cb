"""Training-only copies of a dataset, with voxels clipped to the HU range that the views depend on.

Noise in air and in metal beyond the windows is a third of the stored bytes. Records, keys and order are those
of the source; checksums are of the clipped voxels. dataset.json records the bounds, covered by its digest.
`Dataset.open` accepts such a copy only with `clipped=True`.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np

from shards import json_text
from shards.atomic import write_text
from shards.dataset import Dataset, finish_dataset
from shards.derive import Progress, ShardPlan, is_written, unchanged_plan
from shards.errors import FmctError, raise_refusal
from shards.format_names import Codec
from shards.info import FILE_NAME, DatasetInfo
from shards.lock import writing
from shards.masks import require_volumes
from shards.output_paths import require_folder
from shards.parallel import unordered
from shards.voxels import crc32
from shards.writer import ShardWriter

BEGUN = ".clipped.json"
"""Records the source and bounds of an unfinished copy, so that shards of another copy are not kept."""


def clip(
    source: Path,
    out: Path,
    bounds_hu: tuple[int, int],
    workers: int = 1,
    progress: Progress = lambda done, total: None,
    codec: Codec = "zstd",
) -> DatasetInfo:
    """Write the volumes of `source` clipped to `bounds_hu` (low, high), in the same shards, to `out`.

    The voxels are compressed with `codec`, in either format: zstd takes fewest bytes, lz4 needs about half
    the CPU time for reading (docs/benchmarks.md). Every volume is decoded and checked against its CRC-32. An
    interrupted copy is resumed. Raises FmctError if the source is damaged, holds masks or is itself a clipped
    copy, or if `out` holds other data.
    """
    low, high = bounds_hu
    if not -(2**15) <= low < high < 2**15:
        raise FmctError(f"bounds {low} to {high} HU: expected low < high, within int16")
    dataset = Dataset.open(source)
    require_volumes(dataset)
    require_folder(out, source)
    preprocessing = dataset.preprocessing()
    begun: dict[str, object] = {"digest": dataset.info.digest, "clipped_hu": [low, high]}
    begun |= {} if codec == "zstd" else {"codec": codec}  # as before codecs could be chosen
    with writing(out, "fmct shards"):
        _claim(out, begun)
        done, shards = 0, unchanged_plan(dataset)
        for volumes in unordered(partial(_write, dataset, out, low, high, codec), shards, workers):
            done += volumes
            progress(done, len(dataset))
        names = [shard.name for shard in dataset.info.shards]
        return finish_dataset(out, dataset.info.format, names, preprocessing, (low, high))


def _claim(out: Path, begun: dict[str, object]) -> None:
    file = out / BEGUN
    try:
        there = json_text.parse(file.read_bytes())
    except FileNotFoundError:
        if (out / FILE_NAME).exists() or any(out.glob("shard-*")):
            raise FmctError(f"{out} holds other data; give an empty folder") from None
        write_text(file, json.dumps(begun) + "\n")
        return
    except (OSError, ValueError) as error:
        raise_refusal(error, file)
        there = None
    if there != begun:
        raise FmctError(
            f"{out} holds a copy of another dataset, other bounds or another codec; give an empty folder"
        )


def _write(dataset: Dataset, out: Path, low: int, high: int, codec: Codec, plan: ShardPlan) -> int:
    """Write one shard unless it exists; `_claim` has checked that existing shards are of this copy."""
    if not is_written(dataset, out, dataset.info.format, plan, changed=["crc32"]):
        with ShardWriter(out, plan.name, dataset.info.format, codec) as writer:
            for i in plan.volumes:
                voxels = np.clip(dataset.read(i), low, high)
                writer.add(dataset.record(i).model_copy(update={"crc32": crc32(voxels)}), voxels)
    return len(plan.volumes)
