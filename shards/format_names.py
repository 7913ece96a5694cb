"""The names of shard formats and of their codecs, in a module without imports for the commands' help."""

from typing import Literal

ShardFormat = Literal["zarr", "webdataset"]
Codec = Literal["zstd", "lz4"]
"""Compression of voxels: zstd in archives; lz4 on request in copies for training."""
