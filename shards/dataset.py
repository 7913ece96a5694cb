"""A finished dataset directory: random access to its volumes, and how it becomes finished."""

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
from shards.info import INDEX_NAME, DatasetInfo
from shards.schema import Codec, ShardFormat, VolumeRecord
from shards.voxels import DamagedError, Extent, Index3, crc32, read_bytes, require_shape

if TYPE_CHECKING:
    from shards.formats import Format


class Dataset:
    """Volumes by number, 0 to len - 1, ordered by shard name and then by place in the shard.

    It holds the index and no open file, so that a fork may use it; pickled, it is its path and is opened
    again.
    """

    def __init__(self, path: Path, info: DatasetInfo, index: pa.Table):
        self.path = path
        self.info = info
        self.index = index
        """One row a volume, columns shards.index.SCHEMA."""
        # what every read needs, as NumPy: a scalar out of Arrow takes ten times as long
        self._offsets, self._lengths = indexes.numbers(index["offset"]), indexes.numbers(index["length"])
        self._shapes = indexes.numbers(pc.list_flatten(index["shape"])).reshape(-1, 3)
        self._shards = _shard_numbers(index, info)

    @classmethod
    def open(cls, path: Path | str, clipped: bool = False) -> "Dataset":
        """Open a directory that `finish_dataset` finished.

        clipped: take a copy for training too (shards.clipped), whose voxels are no longer all their HU.
        Raises FmctError where it is missing, unfinished, damaged, of another format version, or such a copy
        and not wanted.
        """
        path = Path(path)
        info = infos.read(path)
        if info.clipped_hu and not clipped:
            low, high = info.clipped_hu
            raise FmctError(
                f"{path}: a copy for training, clipped to {low} to {high} HU; give the dataset it was made of"
            )
        return cls(path, info, read_index(path, info))

    @cached_property
    def _format(self) -> "Format":
        """Imported when voxels are read: the index alone needs no codec."""
        from shards.formats import FORMATS

        return FORMATS[self.info.format]

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Dataset.open, (self.path, True)

    def __len__(self) -> int:
        return self.info.volumes

    def __repr__(self) -> str:
        spacing = " x ".join(f"{edge:g}" for edge in self.info.spacing_mm)
        return f"<Dataset {self.path}: {len(self)} volumes of {spacing} mm, {self.info.format}>"

    def record(self, i: int) -> VolumeRecord:
        """The record of volume i; FmctError where the index holds a value that no record may have."""
        try:
            return indexes.to_record(self.index.slice(i, 1).to_pylist()[0])
        except ValidationError as error:
            column = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise FmctError(f"{self.path / INDEX_NAME}: row {i}: {column} is not valid; {RESTORE}") from None

    def position(self, key: str) -> int:
        """The number of the volume `key`; KeyError where there is none."""
        i: int = pc.index(self.index["key"], key).as_py()
        if i < 0:
            raise KeyError(key)
        return i

    def read(self, i: int) -> np.ndarray:
        """Volume i: int16 HU (D, H, W), its CRC-32 checked.

        Raises DamagedDataError where it is damaged, RefusedError where the system does not give it.
        """
        shape = self._shape(i)
        with self._naming(i):
            voxels = self._read_stored(i, shape, (0, 0, 0), shape)
            if crc32(voxels) != self.index["crc32"][i].as_py():
                raise DamagedError("CRC-32 of the voxels differs")
        return voxels

    def read_box(self, i: int, start: Index3, stop: Index3) -> np.ndarray:
        """Voxels [start, stop), in (D, H, W) and inside volume i: int16 HU.

        `zarr` decodes the touched 32³ chunks, each with its CRC-32C checked; `webdataset` decodes the
        whole volume and checks its CRC-32. Raises ValueError for a box not inside, else as `read`.
        """
        shape = self._shape(i)
        if not all(0 <= a < b <= size for a, b, size in zip(start, stop, shape, strict=True)):
            raise ValueError(f"box {start} to {stop} is not inside volume {i} of shape {shape}")
        if self.info.format == "webdataset":
            return self.read(i)[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        with self._naming(i):
            return self._read_stored(i, shape, start, stop)

    def read_stored(self, i: int) -> bytes:
        """Volume i as its shard stores it, decoded once to check it; raises as `read`."""
        self.read(i)
        with self._naming(i), self._opened(i) as descriptor:
            return read_bytes(descriptor, self._extent(i))

    def codec(self, i: int) -> Codec:
        """What volume i is compressed with; raises as `read`, where its first bytes can not be read."""
        with self._naming(i), self._opened(i) as descriptor:
            extent = self._extent(i)
            return self._format.codec(read_bytes(descriptor, extent._replace(length=min(16, extent.length))))

    def content_digest(self) -> str:
        """SHA-256 over the volumes' keys and CRC-32s in order, and how many each shard holds.

        The same volumes in the same shards give the same digest in any format; the order of training
        depends on no more.
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
            raise DamagedError("its position is outside the file")
        return extent

    def _read_stored(self, i: int, shape: Index3, start: Index3, stop: Index3) -> np.ndarray:
        require_shape(shape)
        with self._opened(i) as descriptor:
            return self._format.read_box(descriptor, self._extent(i), shape, start, stop)

    @contextmanager
    def _opened(self, i: int) -> Iterator[int]:
        """The file that holds volume i, open for one read, so that a process does not hold thousands."""
        descriptor = self._open_shard(i)
        try:
            if os.fstat(descriptor).st_size != self.info.shards[self._shards[i]].bytes:
                raise DamagedError("the file has another size")
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_shard(self, i: int) -> int:
        """A new descriptor of the file that holds volume i; a cache overrides it to give its own copy's."""
        try:
            return os.open(self.shard_file(i), os.O_RDONLY)
        except FileNotFoundError:
            raise DamagedError("the file is missing") from None

    @contextmanager
    def _naming(self, i: int) -> Iterator[None]:
        """Name the file, and the volume where its bytes are wrong."""
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
    """The index of the dataset directory `path`; FmctError where it is not the one `info` names."""
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
        raise FmctError(f"{file}: is not an index of volumes ({error}); {remedy}") from None
    if not index.num_rows == info.volumes == sum(shard.volumes for shard in info.shards):
        raise FmctError(f"{file} has another number of volumes than {infos.FILE_NAME}; {remedy}")
    _require_places(index, info, file)
    return index


def _require_places(index: pa.Table, info: DatasetInfo, file: Path) -> None:
    """Raise FmctError unless the rows are those of the shards of `info`, in order, each inside its file."""
    numbers = np.repeat(np.arange(len(info.shards)), [shard.volumes for shard in info.shards])
    if not np.array_equal(_shard_numbers(index, info), numbers):
        raise FmctError(f"{file}: its volumes are not those of the shards in {infos.FILE_NAME}; {RESTORE}")
    first, length = (indexes.numbers(index[name]) for name in ("offset", "length"))
    sizes = np.array([shard.bytes for shard in info.shards], np.int64)[numbers]
    if ((first < 0) | (length < 0) | (length > sizes - first)).any():
        raise FmctError(f"{file}: a volume lies outside its shard; {RESTORE}")


def _shard_numbers(index: pa.Table, info: DatasetInfo) -> np.ndarray:
    """Of each row, the number of its shard in `info`: (rows,); -1 for one that is not there."""
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

    The order of `names` has no influence. preprocessing: the configuration that made the volumes, kept in
    preprocessing.json; without it, `verify` takes volumes for whole only where their config_digest is
    NO_CONFIGURATION. clipped_hu: what all voxels were clipped to. Raises FmctError for a shard that is
    missing or was changed after it was written, a key in two places, no volume at all, or volumes of
    different spacing or preprocessing configuration.
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
        raise FmctError(f"{directory} has no volume; the quarantine table has the reasons")
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
    raise FmctError(f"{directory}: volume {key} is in shards {', '.join(held_by)}; give each series once")


def _only_value(index: pa.Table, column: str, directory: Path) -> Any:
    first = index[column][0].as_py()
    for value, shard in zip(index[column].to_pylist(), index["shard"].to_pylist(), strict=True):
        if value != first:
            raise FmctError(
                f"{directory}: {column} {value} in shard {shard}, {first} elsewhere; "
                "preprocess all of a dataset with one configuration"
            )
    return first
