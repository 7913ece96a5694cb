"""The names of shard formats and of their codecs, without imports: the help of commands lists them."""

from typing import Literal

ShardFormat = Literal["zarr", "webdataset"]
Codec = Literal["zstd", "lz4"]
"""What voxels are compressed with: zstd in archives; lz4 on request in copies for training."""
