"""A finished dataset directory: random access to its volumes; `finish_dataset` finishes one."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from shards import index as indexes
from shards import info as infos
from shards.errors import DamagedDataError, FmctError, raise_refusal
from shards.format_names import Codec, ShardFormat
from shards.info import INDEX_NAME, DatasetInfo
from shards.schema import VolumeRecord
from shards.voxels import DamagedError, Extent, Index3, crc32, read_bytes, require_shape

if TYPE_CHECKING:
    from shards.format import Format


class Dataset:
    """Volumes by number, 0 to len - 1, ordered by shard name and then by place in the shard.

    It holds the index but no open files, so that forked processes can use it. Pickling stores the path only;
    unpickling opens the dataset again.
    """

    def __init__(self, path: Path, info: DatasetInfo, index: pa.Table):
        self.path = path
        self.info = info
        self.index = index
        """index: one row per volume, columns shards.index.SCHEMA."""
        # Columns that every read needs, as NumPy: reading a scalar from Arrow takes ten times as long.
        self._offsets, self._lengths = indexes.numbers(index["offset"]), indexes.numbers(index["length"])
        self._shapes = indexes.numbers(pc.list_flatten(index["shape"])).reshape(-1, 3)
        self._shards = _shard_numbers(index, info)

    @classmethod
    def open(cls, path: Path | str, clipped: bool = False) -> "Dataset":
        """Open a directory that `finish_dataset` finished.

        clipped: accept a training copy too (shards.clipped), whose voxels are clipped.
        Raises FmctError if it is missing, unfinished, damaged, of another format version, or a clipped copy
        without `clipped`.
        """
        path = Path(path)
        info = infos.read(path)
        if info.clipped_hu and not clipped:
            low, high = info.clipped_hu
            raise FmctError(
                f"{path}: a training copy, clipped to {low} to {high} HU; give the dataset it was made from"
            )
        return cls(path, info, read_index(path, info))

    @cached_property
    def _format(self) -> "Format":
        """Imported when voxels are read: reading the index needs no codec."""
        from shards.formats import FORMATS

        return FORMATS[self.info.format]

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Dataset.open, (self.path, True)

    def __len__(self) -> int:
        return self.info.volumes

    def __repr__(self) -> str:
        spacing = " x ".join(f"{edge:g}" for edge in self.info.spacing_mm)
        return f"<Dataset {self.path}: {len(self)} volumes of {spacing} mm, {self.info.format}>"

    def preprocessing(self) -> dict[str, Any] | None:
        """The configuration that made the volumes, as `shards.info.read_preprocessing`."""
        return infos.read_preprocessing(self.path, self.info.config_digest)

    def record(self, i: int) -> VolumeRecord:
        """The record of volume i; FmctError if the index holds a value that is not valid in a record."""
        try:
            return indexes.to_record(self.index.slice(i, 1).to_pylist()[0])
        except ValidationError as error:
            column = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise FmctError(f"{self.path / INDEX_NAME}: row {i}: {column} is not valid; {RESTORE}") from None

    def position(self, key: str) -> int:
        """The number of the volume `key`; KeyError if there is none."""
        i: int = pc.index(self.index["key"], key).as_py()
        if i < 0:
            raise KeyError(key)
        return i

    def read(self, i: int) -> np.ndarray:
        """Volume i: int16 HU (D, H, W), with its CRC-32 checked.

        Raises DamagedDataError if it is damaged, RefusedError if the system cannot read it.
        """
        shape = self._shape(i)
        with self._naming(i):
            voxels = self._read_stored(i, shape, (0, 0, 0), shape)
            if crc32(voxels) != self.index["crc32"][i].as_py():
                raise DamagedError("CRC-32 mismatch of the voxels")
        return voxels

    def read_box(self, i: int, start: Index3, stop: Index3) -> np.ndarray:
        """Voxels [start, stop) of volume i, (D, H, W): int16 HU.

        `zarr` decodes the 32³ chunks that the box overlaps and checks the CRC-32C of each; formats without
        checksums of parts (`webdataset`) decode the whole volume and check its CRC-32. Raises ValueError for
        a box outside the volume, otherwise as `read`.
        """
        shape = self._shape(i)
        if not all(0 <= a < b <= size for a, b, size in zip(start, stop, shape, strict=True)):
            raise ValueError(f"box {start} to {stop} is not inside volume {i} of shape {shape}")
        if not self._format.checks_boxes:
            return self.read(i)[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        with self._naming(i):
            return self._read_stored(i, shape, start, stop)

    def read_stored(self, i: int) -> bytes:
        """The stored bytes of volume i, decoded once to check them; raises as `read`."""
        self.read(i)
        with self._naming(i), self._opened(i) as descriptor:
            return read_bytes(descriptor, self._extent(i))

    def codec(self, i: int) -> Codec:
        """What volume i is compressed with; raises as `read`, where its first bytes can not be read."""
        with self._naming(i), self._opened(i) as descriptor:
            extent = self._extent(i)
            return self._format.codec(read_bytes(descriptor, extent._replace(length=min(16, extent.length))))

    def content_digest(self) -> str:
        """SHA-256 over the volumes' keys and CRC-32s in order, and the number of volumes per shard.

        The same volumes in the same shards give the same digest in any format. The order of training depends
        on nothing else.
        """
        columns = zip(self.index["key"].to_pylist(), self.index["crc32"].to_pylist(), strict=True)
        lines = [f"{key} {crc:08x}" for key, crc in columns]
        text = "\n".join(lines + [str(shard.volumes) for shard in self.info.shards])
        return hashlib.sha256(text.encode()).hexdigest()

    def shard_file(self, i: int) -> Path:
        """The shard file that holds volume i."""
        from shards.formats import shard_path

        return shard_path(self.path, self.info.shards[self._shards[i]].name, self.info.format)

    def _shape(self, i: int) -> Index3:
        depth, height, width = self._shapes[i].tolist()
        return depth, height, width

    def _extent(self, i: int) -> Extent:
        extent = Extent(int(self._offsets[i]), int(self._lengths[i]))
        if min(extent) < 0 or sum(extent) > self.info.shards[self._shards[i]].bytes:
            raise DamagedError("its extent is outside the file")
        return extent

    def _read_stored(self, i: int, shape: Index3, start: Index3, stop: Index3) -> np.ndarray:
        require_shape(shape)
        with self._opened(i) as descriptor:
            return self._format.read_box(descriptor, self._extent(i), shape, start, stop)

    @contextmanager
    def _opened(self, i: int) -> Iterator[int]:
        """The file that holds volume i, opened per read, so that a process does not keep thousands open."""
        descriptor = self.open_shard(i)
        try:
            if os.fstat(descriptor).st_size != self.info.shards[self._shards[i]].bytes:
                raise DamagedError("the file size is wrong")
            yield descriptor
        finally:
            os.close(descriptor)

    def open_shard(self, i: int) -> int:
        """A new descriptor of the file that holds volume i; a cache overrides this to open its copy."""
        try:
            return os.open(self.shard_file(i), os.O_RDONLY)
        except FileNotFoundError:
            raise DamagedError("the file is missing") from None

    @contextmanager
    def _naming(self, i: int) -> Iterator[None]:
        """Add the file to an error's message, and the volume if its bytes are damaged."""
        try:
            yield
        except DamagedError as error:
            key = self.index["key"][i].as_py()
            raise DamagedDataError(f"{self.shard_file(i)}: volume {key}: {error}; {RESTORE}") from error
        except OSError as error:
            raise_refusal(error, self.shard_file(i))
            raise


RESTORE = "restore the file, or delete it and rerun `fmct preprocess`"


def read_index(path: Path, info: DatasetInfo) -> pa.Table:
    """The index of the dataset directory `path`; FmctError if it does not match `info`."""
    file = path / INDEX_NAME
    remedy = "restore it or rerun `fmct preprocess --collect`"
    if not file.is_file():
        raise FmctError(f"{file} is missing; {remedy}")
    if infos.sha256(file) != info.index_sha256:
        raise FmctError(f"{file} is damaged or belongs to another dataset; {remedy}")
    try:
        index = indexes.read(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise_refusal(error, file)
        raise FmctError(f"{file}: not an index of volumes ({error}); {remedy}") from None
    if not index.num_rows == info.volumes == sum(shard.volumes for shard in info.shards):
        raise FmctError(f"{file}: the number of volumes differs from {infos.FILE_NAME}; {remedy}")
    _require_places(index, info, file)
    return index


def _require_places(index: pa.Table, info: DatasetInfo, file: Path) -> None:
    """Raise FmctError unless the rows match the shards of `info`, in order, each volume inside its file."""
    numbers = np.repeat(np.arange(len(info.shards)), [shard.volumes for shard in info.shards])
    if not np.array_equal(_shard_numbers(index, info), numbers):
        raise FmctError(f"{file}: its volumes do not match the shards in {infos.FILE_NAME}; {RESTORE}")
    first, length = (indexes.numbers(index[name]) for name in ("offset", "length"))
    sizes = np.array([shard.bytes for shard in info.shards], np.int64)[numbers]
    if ((first < 0) | (length < 0) | (length > sizes - first)).any():
        raise FmctError(f"{file}: a volume lies outside its shard; {RESTORE}")


def _shard_numbers(index: pa.Table, info: DatasetInfo) -> np.ndarray:
    """Number of each row's shard in `info`: (rows,); -1 for a shard that `info` lacks."""
    of_name = {shard.name: number for number, shard in enumerate(info.shards)}
    names = index["shard"].unify_dictionaries().combine_chunks()
    known = np.array([of_name.get(name, -1) for name in names.dictionary.to_pylist()], np.int64)
    return known[indexes.numbers(names.indices)]


def finish_dataset(
    directory: Path,
    format: ShardFormat,
    names: list[str],
    preprocessing: Mapping[str, Any] | None = None,
    clipped_hu: tuple[int, int] | None = None,
) -> DatasetInfo:
    """Join the sidecar indexes of the shards `names` into index.parquet, then write dataset.json.

    The order of `names` does not matter. preprocessing: the configuration that made the volumes, stored in
    preprocessing.json; without it, `verify` accepts the volumes only if their config_digest is
    NO_CONFIGURATION. clipped_hu: the bounds that all voxels were clipped to. Raises FmctError for a shard
    that is missing or was changed after it was written, a duplicate key, no volume at all, or volumes that
    differ in spacing or preprocessing configuration.
    """
    from shards.formats import shard_path

    tables, shards, sidecars = [], [], []
    for name in sorted(names):
        sidecar = indexes.sidecar_path(directory, name)
        table, shard = indexes.read_sidecar(sidecar, format)
        file = shard_path(directory, name, format)
        if not file.is_file() or file.stat().st_size != shard.bytes:
            raise FmctError(f"{file} is missing or differs from its index; {RESTORE}")
        tables.append(table)
        shards.append(shard)
        sidecars.append(infos.sha256(sidecar))
    if not sum(shard.volumes for shard in shards):
        raise FmctError(f"{directory}: no volumes; the quarantine table gives the reasons")
    index = indexes.merge(tables)
    _refuse_duplicates(index, directory)
    indexes.write(index, directory / INDEX_NAME)
    info = DatasetInfo(
        format=format,
        spacing_mm=_only_value(index, "spacing_mm", directory),
        config_digest=_only_value(index, "config_digest", directory),
        clipped_hu=clipped_hu,
        volumes=index.num_rows,
        bytes=sum(shard.bytes for shard in shards),
        shards=tuple(shards),
        index_sha256=infos.sha256(directory / INDEX_NAME),
        sidecar_sha256=tuple(sidecars),
    )
    info = info.model_copy(update={"digest": info.compute_digest()})
    if preprocessing is not None:
        infos.write_preprocessing(preprocessing, directory)
    infos.write(info, directory)
    return info


def _refuse_duplicates(index: pa.Table, directory: Path) -> None:
    if pc.count_distinct(index["key"]).as_py() == index.num_rows:
        return
    (key, _), *_ = Counter(index["key"].to_pylist()).most_common(1)
    held_by = index.filter(pc.equal(index["key"], key))["shard"].to_pylist()
    raise FmctError(f"{directory}: volume {key} is in shards {', '.join(held_by)}; list each series once")


def _only_value(index: pa.Table, column: str, directory: Path) -> Any:
    first = index[column][0].as_py()
    for row in indexes.rows(index.select([column, "shard"])):
        if row[column] != first:
            raise FmctError(
                f"{directory}: {column} {row[column]} in shard {row['shard']}, {first} elsewhere; "
                "preprocess all of a dataset with one configuration"
            )
    return first
