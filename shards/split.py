"""Parts and samples of a dataset, drawn by hashing keys, so that other content does not affect them.

A patient's part depends only on the seed and the patient key. It does not change when the archive grows, and
no patient is in two parts. Patients who share a scan count as one (shards.patients).
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

from shards.atomic import write_text
from shards.dataset import Dataset
from shards.derive import Progress, derive, packed
from shards.errors import FmctError
from shards.info import DatasetInfo
from shards.ood_table import ood_of_patients
from shards.parts import PARTS_NAME, write_parts
from shards.patients import tied, tied_patients

log = logging.getLogger(__name__)

SPLIT_NAME = "split.json"
SHARD_BYTES = 2**30
"""Stored bytes per shard: 361,663 heads of 6 MB give about 2,000 files."""


def draw(seed: int, key: str) -> float:
    """A number in [0, 1), uniform over keys: 53 bits of SHA-256 of "seed key"."""
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**11 / 2**53


def assign(
    dataset: Dataset, fractions: Mapping[str, float], seed: int, ood: Path | None = None
) -> dict[str, list[int]]:
    """The volume numbers of each part, split by patients; patients who share a scan are in one part.

    ood: a site's table of out-of-distribution test sets (shards.ood_table): their patients go to parts
    `ood:NAME`, and the fractions apply to the remaining patients.

    Raises FmctError as that table's reader does, for fractions that are not positive or do not sum to 1, and
    for a part without patients.
    """
    if min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-9:
        given = ", ".join(f"{name}={fraction}" for name, fraction in fractions.items())
        raise FmctError(f"fractions {given}: expected positive numbers that sum to 1")
    bounds = list(accumulate(fractions.values()))
    names = list(fractions)
    parts: dict[str, list[int]] = {name: [] for name in names}
    patients = tied_patients(dataset.index).tolist()
    studies = dataset.index["study_key"].to_pylist()
    sets = ood_of_patients(ood, studies, patients) if ood else [None] * len(patients)
    parts |= {name: [] for name in sorted({name for name in sets if name})}
    for i, (patient, own) in enumerate(zip(patients, sets, strict=True)):
        if own:
            parts[own].append(i)
            continue
        drawn = draw(seed, patient)
        parts[next((n for n, bound in zip(names, bounds, strict=True) if drawn < bound), names[-1])].append(i)
    for name, volumes in parts.items():
        if not volumes:
            raise FmctError(f"part {name} has no patients: {dataset.path} is too small for its fraction")
    return parts


def split(
    source: Path,
    out: Path,
    fractions: Mapping[str, float],
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
    ood: Path | None = None,
) -> dict[str, DatasetInfo]:
    """Write each part as a dataset `out`/name, then `out`/parts.parquet and `out`/split.json.

    ood: as in `assign`; the folder of `ood:NAME` is ood-NAME. parts.parquet lists the part of each patient
    (shards.parts), split.json the settings.

    Raises FmctError as `assign` and `derive` do.
    """
    dataset = Dataset.open(source, clipped=True)
    parts = assign(dataset, fractions, seed, ood)
    shared = tied(dataset.index, tied_patients(dataset.index))
    if shared:
        log.warning("%d patients share a scan with another patient and join that patient's part", shared)
    infos, done = {}, 0
    for name, volumes in parts.items():
        plan = packed(dataset, volumes, shard_bytes)

        def advance(written: int, _: int, before: int = done) -> None:
            progress(before + written, len(dataset))

        infos[name] = derive(dataset, out / folder_of(name), dataset.info.format, plan, workers, advance)
        done += len(volumes)
    write_parts(out / PARTS_NAME, dataset, parts)
    document = {
        "source_content_digest": dataset.content_digest(),
        "seed": seed,
        "fractions": dict(fractions),
        "tied_patients": shared,
        "volumes": {name: len(volumes) for name, volumes in parts.items()},
        "digests": {name: info.digest for name, info in infos.items()},
    }
    write_text(out / SPLIT_NAME, json.dumps(document, indent=1) + "\n")
    return infos


def folder_of(part: str) -> str:
    """The name of a part's folder."""
    return part.replace(":", "-")  # names of fraction parts have neither character


def reshard(
    source: Path,
    out: Path,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> DatasetInfo:
    """Write the same volumes in shards of another size; raises FmctError as `derive` does."""
    dataset = Dataset.open(source, clipped=True)
    plan = packed(dataset, range(len(dataset)), shard_bytes)
    return derive(dataset, out, dataset.info.format, plan, workers, progress)


def sample(
    source: Path,
    out: Path,
    volumes: int,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> DatasetInfo:
    """Write a sample of `volumes` volumes, drawn by their keys, as a dataset, in the source's order.

    A larger sample contains the smaller one of the same seed. Raises FmctError if the source has fewer
    volumes, and as `derive` does.
    """
    dataset = Dataset.open(source, clipped=True)
    if volumes > len(dataset):
        raise FmctError(f"{source} has {len(dataset)} volumes, not {volumes}")
    keys = dataset.index["key"].to_pylist()
    drawn = sorted(range(len(keys)), key=lambda i: draw(seed, keys[i]))[:volumes]
    plan = packed(dataset, sorted(drawn), shard_bytes)
    return derive(dataset, out, dataset.info.format, plan, workers, progress)
