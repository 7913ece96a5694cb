"""Objects with the same SOP Instance UID, found over the whole catalog and compared by their bytes."""

import hashlib
import io
import os
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocess.dicom.sources import Source, open_source
from preprocess.reasons import Rejection
from preprocess.scan.spill import FINGERPRINT, Buckets, append, find, fingerprints

DIGESTED_OBJECTS = 16
"""Objects per call of a worker."""

_OBJECT = np.dtype([("sop", FINGERPRINT)])
_CONTENT = np.dtype([("sop", FINGERPRINT), ("content", FINGERPRINT)])


@dataclass(frozen=True)
class Repeated:
    """Number of objects whose SOP Instance UID another object already has."""

    same_bytes: int
    other_bytes: int
    """Files with one UID and different bytes: exported again with another header, or a UID used twice."""


class Duplicates:
    """Processes image rows twice: first all rows to find UIDs that collide, then to digest those objects."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._objects = Buckets(folder / "objects", _OBJECT, by="sop")
        self._contents = Buckets(folder / "contents", _CONTENT, by="sop")
        self._colliding: np.ndarray | None = None

    def add(self, images: pa.Table) -> None:
        """Note the objects of `INSTANCE_TABLE` rows."""
        first = images.filter(pc.equal(images["frame"], 0))  # an object has one of each frame
        self._objects.add(_sop_fingerprints(first).view(_OBJECT))

    def digested(self, images: pa.Table, executor: Executor) -> pa.Table:
        """The rows with `sha256` set for objects whose UID collides; call it after all rows were added."""
        sops = _sop_fingerprints(images)
        rows = np.flatnonzero(find(self._collisions(), sops) >= 0)
        colliding = images.take(pa.array(rows))
        digests = _digests(colliding, executor)
        first = colliding["frame"].to_numpy() == 0
        contents = fingerprints(text.encode() for text, one in zip(digests, first, strict=True) if one)
        self._contents.add(np.rec.fromarrays([sops[rows][first], contents], dtype=_CONTENT))
        column = np.full(len(images), "", object)
        column[rows] = digests
        place = images.schema.get_field_index("sha256")
        return images.set_column(place, images.schema.field(place), pa.array(column, pa.string()))

    def count(self) -> Repeated:
        """Totals, after all rows were digested."""
        same = other = 0
        for bucket in self._contents:
            distinct = len(np.unique(bucket))
            same += len(bucket) - distinct
            other += distinct - len(np.unique(bucket["sop"]))
        return Repeated(same, other)

    def _collisions(self) -> np.ndarray:
        """Fingerprints of the UIDs of several objects, ascending."""
        if self._colliding is None:
            path = self._folder / "colliding"
            for bucket in self._objects:
                sops, counts = np.unique(bucket["sop"], return_counts=True)
                append(path, sops[counts > 1].tobytes())
            size = path.stat().st_size if path.exists() else 0
            self._colliding = np.memmap(path, FINGERPRINT, "r") if size else np.empty(0, FINGERPRINT)
        return self._colliding


def _sop_fingerprints(images: pa.Table) -> np.ndarray:
    return fingerprints(uid.encode() for uid in images["sop_uid"].to_pylist())


def _digests(images: pa.Table, executor: Executor) -> list[str]:
    """SHA-256 of each row's object, from an earlier scan or computed now."""
    names = ("path", "size", "mtime_ns", "member", "offset", "archive_size")
    sources = [
        Source(Path(os.fsdecode(path)), size, mtime_ns, os.fsdecode(member), *rest)
        for path, size, mtime_ns, member, *rest in zip(*(images[n].to_pylist() for n in names), strict=True)
    ]
    known = {
        source: digest for source, digest in zip(sources, images["sha256"].to_pylist(), strict=True) if digest
    }
    new = sorted(set(sources) - known.keys(), key=lambda source: (source.path, source.offset))
    chunks = [new[start : start + DIGESTED_OBJECTS] for start in range(0, len(new), DIGESTED_OBJECTS)]
    for chunk, digests in zip(chunks, executor.map(_digest_objects, chunks), strict=True):
        known.update(zip(chunk, digests, strict=True))
    return [known[source] for source in sources]


def _digest_objects(sources: Iterable[Source]) -> list[str]:
    return [content_digest(source) for source in sources]


def content_digest(source: Source) -> str:
    """SHA-256 of an object's bytes; empty if it cannot be read."""
    try:
        with open_source(source) as file:
            return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()
    except (OSError, Rejection):
        return ""  # decoding reports the error, and the next scan tries again
