"""The shard formats by their names."""

from pathlib import Path

from shards import tar_shard, zarr_shard
from shards.format import Format
from shards.format_names import ShardFormat
from shards.names import inside

FORMATS: dict[ShardFormat, Format] = {
    "zarr": zarr_shard.FORMAT,
    "webdataset": tar_shard.FORMAT,
}


def shard_path(directory: Path, name: str, format: ShardFormat) -> Path:
    """The path of shard `name` in `directory`; FmctError if `name` is not a plain file name."""
    return inside(directory, name + FORMATS[format].suffix)
