"""Paths of new scans, divided into parts: the units of commands that run as job arrays."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shards import Dataset, info
from shards.studies import studies_of


class Piece(NamedTuple):
    """A path, or some volumes of a dataset."""

    number: int
    """Position of the path in the given list, from 0."""
    path: Path
    rows: Sequence[int] | None
    digest: str
    """Digest of the dataset; for other paths, of the path itself and not of its content."""


Part = list[Piece]


def parts_of(paths: Sequence[Path], volumes: int, others: int, by_study: bool) -> list[Part]:
    """Parts of `volumes` of each dataset, and then parts of `others` paths that are not datasets.

    by_study: a part has whole studies, so its volumes may exceed `volumes`. Reads only the datasets' indices.
    """
    parts: list[Part] = []
    rest: list[Piece] = []
    for number, path in enumerate(paths):
        if (path / info.FILE_NAME).is_file():
            dataset = Dataset.open(path)
            cut = _by_studies(dataset, volumes) if by_study else _by_volumes(dataset, volumes)
            parts += [[Piece(number, path, rows, dataset.info.digest)] for rows in cut]
        else:
            where = hashlib.sha256(str(path.absolute()).encode(errors="surrogateescape")).hexdigest()
            rest.append(Piece(number, path, None, where))
    return parts + [rest[start : start + others] for start in range(0, len(rest), others)]


def inputs_of(part: Part) -> list[tuple[int, Sequence[int] | None, str]]:
    """What the results of a part depend on, for digests: everything except the location of datasets."""
    return [(piece.number, piece.rows, piece.digest) for piece in part]


def _by_volumes(dataset: Dataset, volumes: int) -> Iterator[range]:
    for start in range(0, len(dataset), volumes):
        yield range(start, min(start + volumes, len(dataset)))


def _by_studies(dataset: Dataset, volumes: int) -> Iterator[list[int]]:
    """Yield rows of whole studies, with at least `volumes` volumes each, except the last."""
    held: list[int] = []
    studies = studies_of(dataset.index)
    for rows in (*studies.rows.values(), *studies.torn.values()):
        held += rows.tolist()
        if len(held) >= volumes:
            yield held
            held = []
    if held:
        yield held
