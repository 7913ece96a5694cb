"""Finding every damaged byte of a dataset."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from shards import info as infos
from shards.dataset import Dataset, read_index
from shards.errors import FmctError
from shards.formats import shard_path
from shards.info import DatasetInfo, ShardInfo


class Problem(NamedTuple):
    """One thing that is not as it was written."""

    file: str
    """Name of the file in the dataset directory."""
    key: str | None
    """The volume, where one is known to be hurt."""
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {f'volume {self.key}: ' if self.key else ''}{self.what}"


def verify(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Problem]:
    """Check the index's and each shard's SHA-256 and each volume's CRC-32; empty where all is well.

    `progress` takes volumes done and volumes in all. Raises FmctError where dataset.json is missing or
    damaged.
    """
    info = infos.read(path)
    problems = []
    try:
        dataset = Dataset(path, info, read_index(path, info))
    except FmctError:
        problems.append(Problem(infos.INDEX_NAME, None, "missing or not the one that dataset.json names"))
        return problems + [problem for shard in info.shards for problem in _check_file(path, info, shard)]
    first = 0
    for shard in info.shards:
        problems += _check_file(path, info, shard)
        for i in range(first, first + shard.volumes):
            problems += _check_volume(dataset, i)
            progress(i + 1, len(dataset))
        first += shard.volumes
    return problems


def _check_file(path: Path, info: DatasetInfo, shard: ShardInfo) -> list[Problem]:
    file = shard_path(path, shard.name, info.format)
    if not file.is_file():
        return [Problem(file.name, None, "missing")]
    if infos.sha256(file) != shard.sha256:
        return [Problem(file.name, None, "SHA-256 differs")]
    return []


def _check_volume(dataset: Dataset, i: int) -> list[Problem]:
    try:
        dataset.read(i)
    except FmctError as error:
        return [Problem(dataset.shard_file(i).name, dataset.index["key"][i].as_py(), str(error.__cause__))]
    return []
