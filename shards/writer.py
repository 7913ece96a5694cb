"""Writing one shard: one process, one file, renamed when complete."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from shards import index
from shards.atomic import TEMPORARY_SUFFIX, atomic_path
from shards.errors import FmctError
from shards.format_names import Codec, ShardFormat
from shards.formats import FORMATS, shard_path
from shards.info import ShardInfo, sha256
from shards.schema import VolumeRecord
from shards.voxels import VOXEL, crc32


class ShardWriter:
    """Context manager that writes the shard `name` and, after it, its sidecar index.

    On a clean exit the shard is synced, renamed to its final name and indexed. On an exception, or if the
    process dies, no file of that name appears. A shard must have only one writer: the unfinished file of a
    killed writer is removed.
    """

    def __init__(self, directory: Path, name: str, format: ShardFormat, codec: Codec = "zstd"):
        self._path = shard_path(directory, name, format)
        self._name = name
        self._format = format
        self._codec = codec
        self._rows: list[dict[str, Any]] = []
        self._keys: set[str] = set()

    def __enter__(self) -> "ShardWriter":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for left_over in self._path.parent.glob(f".{self._path.name}.*{TEMPORARY_SUFFIX}"):
            left_over.unlink()
        with ExitStack() as stack:
            self._temporary = stack.enter_context(atomic_path(self._path))
            self._stream = stack.enter_context(self._temporary.open("wb"))
            self._file = FORMATS[self._format].writer(self._stream)
            stack.callback(self._file.close)
            self._stack = stack.pop_all()
        return self

    def add(self, record: VolumeRecord, voxels: np.ndarray, codec: Codec | None = None) -> None:
        """Append one volume, int16 (D, H, W), compressed with `codec`, by default the writer's.

        Raises ValueError if `voxels` do not match `record`, FmctError for a duplicate key or for a volume
        too large for the format.
        """
        if voxels.dtype != VOXEL or voxels.shape != record.shape or crc32(voxels) != record.crc32:
            raise ValueError(f"volume {record.key}: dtype, shape or CRC-32 of the voxels does not match")
        try:
            stored = FORMATS[self._format].encode(voxels, codec or self._codec)
        except FmctError as error:
            raise FmctError(f"volume {record.key}: {error}") from None
        self.add_stored(record, stored)

    def add_stored(self, record: VolumeRecord, stored: bytes) -> None:
        """Append one volume from its stored bytes in this format (`Dataset.read_stored`).

        Raises FmctError for a duplicate key.
        """
        if record.key in self._keys:
            raise FmctError(f"volume {record.key} is already in shard {self._path}; list each series once")
        extent = self._file.append(record, stored)
        self._keys.add(record.key)
        self._rows.append(index.to_row(record, self._name, extent))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        sidecar = index.sidecar_path(self._path.parent, self._name)
        with self._stack:
            self._file.close()
            self._stream.flush()
            size, digest = self._temporary.stat().st_size, sha256(self._temporary)
            sidecar.unlink(missing_ok=True)  # a sidecar must never describe another shard
        shard = ShardInfo(name=self._name, volumes=len(self._rows), bytes=size, sha256=digest)
        index.write_sidecar(index.to_table(self._rows), shard, self._format, sidecar)
