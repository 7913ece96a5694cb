"""Verification of every byte of a dataset."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards import index as indexes
from shards import info as infos
from shards.dataset import Dataset, read_index
from shards.errors import DamagedDataError, FmctError, RefusedError
from shards.formats import shard_path
from shards.info import DatasetInfo
from shards.parallel import unordered
from shards.voxels import INDEX_STEPS

SAME_STEP_MM = 1e-3
"""Tolerance of a step of the affine: half a millimetre over 500 voxels."""


class Problem(NamedTuple):
    """A difference from the written data."""

    file: str
    """Name of the file in the dataset directory."""
    key: str | None
    """The damaged volume, if known."""
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {f'volume {self.key}: ' if self.key else ''}{self.what}"


class Unread(Problem):
    """A file that the system cannot read: whether it is damaged is unknown."""


def verify(
    path: Path, progress: Callable[[int, int], None] = lambda done, total: None, workers: int = 1
) -> list[Problem]:
    """Check the SHA-256 of every file and the CRC-32 of every volume; return the problems.

    All files that a later step may read are checked, including preprocessing.json against dataset.json's
    config_digest, and that each row has the dataset's spacing, and an affine of that spacing with the axes
    that a volume must have, since another program may have written it. Files that cannot be read are listed
    as Unread.

    progress: called with (volumes checked, all volumes). Each of `workers` processes checks one shard at a
    time. Raises FmctError if dataset.json is missing or damaged.
    """
    info = infos.read(path)
    problems = _check_file(path / infos.INDEX_NAME, info.index_sha256)
    if not problems:
        try:
            read_index(path, info)
        except FmctError as error:
            problems.append(_problem(infos.INDEX_NAME, error))
    try:
        infos.require_preprocessing(path, info.config_digest)
    except FmctError as error:
        problems.append(_problem(infos.PREPROCESSING_NAME, error))
    by_shard: dict[int, list[Problem]] = {}
    done = 0
    for number, of_shard in unordered(partial(_check_shard, path, info), range(len(info.shards)), workers):
        by_shard[number] = of_shard
        done += info.shards[number].volumes
        progress(done, info.volumes)
    return problems + [problem for number in sorted(by_shard) for problem in by_shard[number]]


def _other_spacing(table: pa.Table, spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    """(rows of the index,): whether the row's spacing differs from the dataset's."""
    spacing = indexes.numbers(pc.list_flatten(table["spacing_mm"])).reshape(-1, 3)
    return (spacing != spacing_mm).any(axis=1)


def _misplaced(table: pa.Table, spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    """(rows of the index,): whether the affine mirrors, turns or scales the volume, or is not finite.

    spacing_mm: the dataset's, of D, H and W.
    """
    affines = indexes.numbers(pc.list_flatten(table["affine"])).reshape(-1, 4, 4)
    expected = np.vstack([INDEX_STEPS.T * spacing_mm, np.zeros(3)])
    off = np.abs(affines[:, :, :3] - expected).max(axis=(1, 2), initial=0)
    ends = np.abs(affines[:, :, 3]).max(axis=1, initial=0)
    return ~((off <= SAME_STEP_MM) & np.isfinite(ends) & (affines[:, 3, 3] == 1))


def _problem(name: str, error: FmctError) -> Problem:
    kind = Unread if isinstance(error, RefusedError) else Problem
    return kind(name, None, str(error))


def _check_file(file: Path, sha256: str) -> list[Problem]:
    try:
        if infos.sha256(file) != sha256:
            return [Problem(file.name, None, "SHA-256 differs")]
    except FileNotFoundError:
        return [Problem(file.name, None, "missing")]
    except OSError as error:
        return [Unread(file.name, None, f"unreadable: {error.strerror}")]
    return []


def _check_shard(path: Path, info: DatasetInfo, number: int) -> tuple[int, list[Problem]]:
    """A shard's number, and the problems of its file, its sidecar and the volumes listed there."""
    shard = info.shards[number]
    sidecar = indexes.sidecar_path(path, shard.name)
    problems = _check_file(shard_path(path, shard.name, info.format), shard.sha256)
    damaged_sidecar = _check_file(sidecar, info.sidecar_sha256[number])
    if damaged_sidecar or any(isinstance(problem, Unread) for problem in problems):
        return number, problems + damaged_sidecar
    try:
        table, _ = indexes.read_sidecar(sidecar, info.format)
    except FmctError as error:
        return number, [*problems, _problem(sidecar.name, error)]
    dataset = Dataset(path, info, table)
    for rows, what in (
        (_other_spacing(table, info.spacing_mm), f"its spacing_mm is not {infos.FILE_NAME}'s"),
        (
            _misplaced(table, info.spacing_mm),
            f"its affine is not {infos.FILE_NAME}'s spacing_mm along superior, anterior, right",
        ),
    ):
        for key in table["key"].filter(pa.array(rows)).to_pylist():
            problems.append(Problem(sidecar.name, key, what))
    for i, key in enumerate(table["key"].to_pylist()):
        try:
            dataset.read(i)
        except DamagedDataError as error:
            problems.append(Problem(dataset.shard_file(i).name, key, str(error.__cause__)))
        except RefusedError as error:
            problems.append(Unread(dataset.shard_file(i).name, key, str(error)))
    return number, problems
