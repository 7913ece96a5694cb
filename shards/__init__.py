"""The storage format of head CT volumes: schema, writers, readers, index, verification."""

from typing import TYPE_CHECKING

from shards.lazy import exports

if TYPE_CHECKING:
    from shards.dataset import Dataset, finish_dataset
    from shards.errors import FmctError
    from shards.format_names import ShardFormat
    from shards.info import DatasetInfo, ShardInfo
    from shards.schema import FORMAT_VERSION, DecodeFacts, KernelClass, VolumeRecord
    from shards.verification import Problem, verify
    from shards.voxels import crc32
    from shards.writer import ShardWriter

    __version__: str

__all__ = [
    "FORMAT_VERSION",
    "Dataset",
    "DatasetInfo",
    "DecodeFacts",
    "FmctError",
    "KernelClass",
    "Problem",
    "ShardFormat",
    "ShardInfo",
    "ShardWriter",
    "VolumeRecord",
    "__version__",
    "crc32",
    "finish_dataset",
    "verify",
]

# Table and codec libraries are imported on first use: most commands need few of them. No module here has one
# of these names.
__getattr__, __dir__ = exports(
    __name__,
    {
        "FORMAT_VERSION": "shards.schema",
        "Dataset": "shards.dataset",
        "DatasetInfo": "shards.info",
        "DecodeFacts": "shards.schema",
        "FmctError": "shards.errors",
        "KernelClass": "shards.schema",
        "Problem": "shards.verification",
        "ShardFormat": "shards.format_names",
        "ShardInfo": "shards.info",
        "ShardWriter": "shards.writer",
        "VolumeRecord": "shards.schema",
        "crc32": "shards.voxels",
        "finish_dataset": "shards.dataset",
        "verify": "shards.verification",
    },
)
