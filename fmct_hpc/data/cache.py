"""Node-local copies of shards: verified, shared by a user's processes on a node, evicted by least recent use.

A copy is complete or absent: it is written to a temporary file that its writer locks, checked against the
shard's SHA-256, then renamed. A killed writer leaves an unlocked temporary file, which the next writer takes
over. Reads never wait for a copy: a missing one, or one whose chunks fail their CRC, which is removed, is
read from the dataset instead. The folder is private to its user (0700), and links in it are not followed,
since others can write to a node's scratch.
"""

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.hu_range import require_enough
from shards.dataset import Dataset
from shards.errors import DamagedDataError, FmctError, RefusedError
from shards.formats import shard_path
from shards.info import DatasetInfo, ShardInfo
from shards.names import inside
from shards.private import private_folder
from shards.voxels import Index3

log = logging.getLogger(__name__)

_CHUNK = 2**23
"""Bytes copied and hashed at a time."""
_TEMPORARY, _LOCK = ".tmp", ".lock"


class ShardCache:
    """Copies of shard files, at most `limit` bytes in total, in a separate folder below `directory`."""

    def __init__(self, directory: Path, limit: int):
        # Other files in a scratch folder, and other users' copies, must not be counted or removed.
        self.directory = directory / f"fmct-shards-{os.getuid()}"
        self.limit = limit
        if os.path.lexists(self.directory):
            self._require_own()

    def open(self, name: str) -> int | None:
        """A descriptor of the copy `name`, which is marked as used now; None if there is none."""
        try:
            descriptor = os.open(inside(self.directory, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        _mark_used(descriptor)
        return descriptor

    def discard(self, name: str) -> bool:
        """Remove a copy; returns False if there is none."""
        try:
            (self.directory / name).unlink()
        except OSError:
            return False
        return True

    def fill(
        self, name: str, source: Path, shard: ShardInfo, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Copy a shard file, unless the copy exists, another process is writing it, or `stop` returns True.

        Raises FmctError if the file does not match `shard`, there is no space, or another user owns the
        folder.
        """
        target, temporary = inside(self.directory, name), inside(self.directory, name + _TEMPORARY)
        self._require_own()
        if target.exists():
            return
        with _locked(temporary) as descriptor:
            # Another writer may have finished and renamed the file after this one opened it.
            if descriptor is None or not _names(descriptor, temporary):
                return
            try:
                if target.exists():
                    return
                self._reserve(descriptor, shard.bytes, temporary)
                digest = copy_file(source, descriptor, stop)
                if digest == shard.sha256:
                    _mark_used(descriptor)
                    os.replace(temporary, target)
                elif digest:
                    raise FmctError(f"{source}: its SHA-256 does not match dataset.json")
            finally:
                if _names(descriptor, temporary):
                    temporary.unlink()

    def _require_own(self) -> None:
        try:
            private_folder(self.directory)
        except FmctError as error:
            raise FmctError(f"data.cache: {error}") from None

    def _reserve(self, descriptor: int, size: int, own: Path) -> None:
        """Evict the least recently used copies, and reserve the space."""
        with _locked(self.directory / _LOCK, wait=True):
            files = [entry for path in self.directory.iterdir() if path != own for entry in _used(path)]
            used = sum(bytes_ for _, bytes_, _ in files)
            for _, bytes_, path in sorted(files):
                if used + size <= self.limit:
                    break
                used -= bytes_ if _remove_unless_written(path) else 0
            if used + size > self.limit:
                raise FmctError(f"{self.directory}: no space for {size} bytes within data.cache_gb")
            try:
                os.truncate(descriptor, size)  # the file may be longer, left by a killed writer
                os.posix_fallocate(descriptor, 0, size)
            except OSError as error:
                raise FmctError(f"{self.directory}: no space for {size} bytes: {error.strerror}") from error


class CachedDataset(Dataset):
    """A dataset that reads its shards from node-local copies where they exist."""

    def __init__(self, path: Path, info: DatasetInfo, index: pa.Table, directory: Path, limit: int):
        super().__init__(path, info, index)
        largest = max(shard.bytes for shard in info.shards)
        if limit < 2 * largest:
            raise FmctError(
                f"data.cache_gb={limit / 1e9:g} is less than two shards of {path}, of up to "
                f"{largest / 1e9:.3g} GB: raise it, or remove data.cache"
            )
        self._arguments = directory, limit
        self.cache = ShardCache(directory, limit)
        self.shard_of = np.repeat(np.arange(len(info.shards)), [shard.volumes for shard in info.shards])
        """int (volumes,): the number of each volume's shard."""

    @classmethod
    def open_cached(cls, path: Path, directory: Path, limit: int) -> "CachedDataset":
        """Open a dataset with copies of at most `limit` bytes in `directory`."""
        plain = Dataset.open(path, clipped=True)
        return cls(path, plain.info, plain.index, directory, limit)

    def __reduce__(self) -> tuple[object, tuple[Path, Path, int]]:
        return CachedDataset.open_cached, (self.path, *self._arguments)

    def read(self, i: int) -> np.ndarray:
        """As `Dataset.read`."""
        try:
            return super().read(i)
        except (DamagedDataError, RefusedError):
            return self._without_copy(i).read(i)

    def read_box(self, i: int, start: Index3, stop: Index3) -> np.ndarray:
        """As `Dataset.read_box`."""
        try:
            return super().read_box(i, start, stop)
        except (DamagedDataError, RefusedError):
            return self._without_copy(i).read_box(i, start, stop)

    def fill(self, number: int, stop: Callable[[], bool] = lambda: False) -> None:
        """Copy shard `number` of the dataset; see `ShardCache.fill`."""
        shard = self.info.shards[number]
        source = shard_path(self.path, shard.name, self.info.format)
        self.cache.fill(self._copy_name(source), source, shard, stop)

    def _without_copy(self, i: int) -> Dataset:
        """The dataset without copies, for volume i whose copy failed; removes that copy if it exists."""
        if self.cache.discard(self._copy_name(self.shard_file(i))):
            log.warning("%s: the copy in data.cache was damaged: removed", self.shard_file(i).name)
        return Dataset(self.path, self.info, self.index)

    def open_shard(self, i: int) -> int:
        """A new descriptor of the copy, or of the dataset's file where there is none."""
        descriptor = self.cache.open(self._copy_name(self.shard_file(i)))
        return super().open_shard(i) if descriptor is None else descriptor

    def _copy_name(self, file: Path) -> str:
        return f"{self.info.digest[:16]}-{file.name}"


def open_dataset(data: DataConfig) -> Dataset:
    """Open the dataset of a configuration, with its cache if configured.

    Raises FmctError as `Dataset.open`, and if its voxels were clipped to less than the views need.
    """
    if data.cache is None:
        dataset = Dataset.open(data.path, clipped=True)
    else:
        dataset = CachedDataset.open_cached(data.path, data.cache, int(data.cache_gb * 1e9))
    require_enough(dataset, data)
    return dataset


@contextmanager
def _locked(path: Path, wait: bool = False) -> Iterator[int | None]:
    """Lock `path`, created if missing; None if another process holds the lock.

    The lock ends with the process, however it ends.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        held = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held = False
        yield descriptor if held else None
    finally:
        os.close(descriptor)


def _names(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def copy_file(source: Path, descriptor: int, stop: Callable[[], bool]) -> str | None:
    """Copy a file to the start of the open one; returns its SHA-256, or None if stopped."""
    digest = hashlib.sha256()
    with source.open("rb") as stream, os.fdopen(os.dup(descriptor), "wb") as out:
        while part := stream.read(_CHUNK):
            if stop():
                return None
            digest.update(part)
            out.write(part)
    return digest.hexdigest()


def _mark_used(descriptor: int) -> None:
    now = time.time_ns()  # the kernel's own timestamp has a resolution of milliseconds
    os.utime(descriptor, ns=(now, now))


def _used(path: Path) -> Iterator[tuple[int, int, Path]]:
    """When a file was last used (ns), and its size in bytes; nothing if it was just removed."""
    with suppress(FileNotFoundError):
        stat = path.lstat()
        yield stat.st_mtime_ns, stat.st_size, path


def _remove_unless_written(path: Path) -> bool:
    """Remove a copy, or the temporary file of a killed writer; False if it is being written."""
    if path.name.endswith(_TEMPORARY):
        with _locked(path) as descriptor:
            if descriptor is None:
                return False
            path.unlink(missing_ok=True)
    elif path.name != _LOCK:
        path.unlink(missing_ok=True)
    return True
