"""The storage format of head CT volumes: schema, writers, readers, index, verification."""

from typing import TYPE_CHECKING

from shards.dataset import Dataset, finish_dataset
from shards.errors import FmctError
from shards.info import DatasetInfo, ShardInfo
from shards.lazy import exports
from shards.schema import FORMAT_VERSION, DecodeFacts, KernelClass, ShardFormat, VolumeRecord
from shards.verify import Problem, verify
from shards.voxels import crc32
from shards.writer import ShardWriter

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

if TYPE_CHECKING:
    __version__: str

__getattr__, __dir__ = exports(__name__, {})
