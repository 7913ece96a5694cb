"""Merging datasets of one preprocessing configuration, without decoding voxels."""

import errno
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from shards import index as indexes
from shards.atomic import atomic_path
from shards.dataset import RESTORE, Dataset, finish_dataset
from shards.derive import Progress, refuse_other_data
from shards.errors import FmctError
from shards.formats import shard_path
from shards.info import DatasetInfo, ShardInfo, sha256
from shards.lock import writing
from shards.output_paths import require_folder


def merge(sources: Sequence[Path], out: Path, progress: Progress = lambda done, total: None) -> DatasetInfo:
    """Merge datasets of one format and preprocessing configuration.

    A shard file is hard-linked if source and `out` are on one file system, else copied and checked. It keeps
    its name unless two sources use the same name. A killed run is resumed.

    Raises FmctError if the sources differ in format, spacing or configuration, have a volume in common or
    are damaged, or if `out` holds other data.
    """
    require_folder(out, *sources)
    datasets = [Dataset.open(source, clipped=True) for source in sources]
    first = datasets[0].info
    for dataset in datasets[1:]:
        for field in ("format", "spacing_mm", "config_digest", "clipped_hu"):
            mine, other = getattr(dataset.info, field), getattr(first, field)
            if mine != other:
                raise FmctError(
                    f"{dataset.path}: {field} is {mine}, but {other} in {sources[0]}; {_REMEDY[field]}"
                )
    records = (dataset.preprocessing() for dataset in datasets)
    preprocessing = next((record for record in records if record is not None), None)
    names = Counter(shard.name for dataset in datasets for shard in dataset.info.shards)
    twice = any(count > 1 for count in names.values())
    work = [
        (dataset, shard, f"{number:02d}-{shard.name}" if twice else shard.name)
        for number, dataset in enumerate(datasets)
        for shard in dataset.info.shards
    ]
    wanted = {name: _volumes(dataset, shard) for dataset, shard, name in work}
    with writing(out, "fmct shards merge"):
        refuse_other_data(out, first.format, wanted)
        done = 0
        for dataset, shard, name in work:
            _take(dataset, shard, out, name)
            done += shard.volumes
            progress(done, sum(len(dataset) for dataset in datasets))
        return finish_dataset(out, first.format, list(wanted), preprocessing, first.clipped_hu)


_REMEDY = {
    "format": "`fmct shards convert` one of them first",
    "spacing_mm": "preprocess both with one configuration",
    "config_digest": "preprocess both with one configuration",
    "clipped_hu": "merge the datasets that they were made from",
}


def _rows(dataset: Dataset, shard: ShardInfo) -> pa.Table:
    return dataset.index.filter(pc.equal(dataset.index["shard"], shard.name))


def _volumes(dataset: Dataset, shard: ShardInfo) -> list[tuple[str, int]]:
    rows = _rows(dataset, shard)
    return list(zip(rows["key"].to_pylist(), rows["crc32"].to_pylist(), strict=True))


def _take(dataset: Dataset, shard: ShardInfo, out: Path, name: str) -> None:
    """Put a shard's file and then its sidecar into `out` as shard `name`."""
    format = dataset.info.format
    file = shard_path(dataset.path, shard.name, format)
    target = shard_path(out, name, format)
    rows = _rows(dataset, shard)
    renamed = pa.DictionaryArray.from_arrays(pa.array([0] * len(rows), pa.int32()), pa.array([name]))
    rows = rows.set_column(rows.schema.get_field_index("shard"), "shard", renamed)
    if not file.is_file() or file.stat().st_size != shard.bytes:
        raise FmctError(f"{file}: missing or of the wrong size; {RESTORE}")
    _link_or_copy(file, target, shard)
    moved = shard.model_copy(update={"name": name})
    indexes.write_sidecar(rows.combine_chunks(), moved, format, indexes.sidecar_path(out, name))


def _link_or_copy(file: Path, target: Path, shard: ShardInfo) -> None:
    if target.exists() and target.samefile(file):
        return
    with atomic_path(target) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(file.resolve(), temporary)  # os.link on Linux would link a symbolic link itself
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            shutil.copyfile(file, temporary)
            if sha256(temporary) != shard.sha256:
                raise FmctError(f"{file}: SHA-256 mismatch; {RESTORE}") from None
