"""The command `fmct masks`: from a table of masks to a dataset of masks."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from preprocess.masks.classes import Classes
from preprocess.masks.grid import RESAMPLING
from preprocess.masks.join import Joined
from preprocess.masks.shard import Done, Job, ShardWork
from preprocess.masks.table import CLASS, Row, read_rows
from preprocess.privacy.deidentify import Pseudonymizer
from preprocess.reasons import Reason
from shards import Dataset, finish_dataset
from shards.atomic import atomic_path
from shards.errors import FmctError
from shards.info import preprocessing_digest, sha256
from shards.lock import writing
from shards.masks import MaskInfo, require_volumes
from shards.output_paths import require_folder
from shards.parallel import unordered
from shards.subject import Origin, Subject, claim

TABLE, REFUSED = "masks.parquet", "refused.parquet"


@dataclass(frozen=True)
class Summary:
    """Summary of the stored masks."""

    rows: int
    volumes: int
    positive: dict[str, int]
    """Number of volumes with each class."""
    refused: dict[Reason, int]

    def __str__(self) -> str:
        held = ", ".join(f"{count} with {name}" for name, count in self.positive.items())
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.refused.items()) or "none"
        return f"{self.rows} rows; masks of {self.volumes} volumes ({held}); rejected rows: {reasons}"


def masks(
    table: Path,
    data: Path,
    out: Path,
    classes: Iterable[str],
    key_file: Path | None = None,
    root: Path | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Store the masks of `table`, on the grids of the volumes of `data`, as the dataset `out`.

    classes: NAME or NAME=VALUE each (`preprocess.masks.classes`). key_file: of the volumes, for a table with
    identifiers. root: base of relative paths, by default the table's folder. A shard of `out` holds the masks
    of the volumes in the shard of the same name. `out`/masks.parquet has one row per mask, and
    `out`/refused.parquet one row per rejected row of the table, with its reason. Finished shards are kept: a
    rerun does only missing or changed ones.

    Raises FmctError if the table is not valid, no row can be used, or `out` holds something else.
    """
    chosen = Classes.of(classes)
    require_folder(out, data, table)
    if root is not None and not root.is_dir():
        raise FmctError(f"{root}: no such folder; give the base folder of the table's paths")
    dataset = Dataset.open(data)
    require_volumes(dataset)
    rows, columns = read_rows(table)
    if CLASS in columns and not any(row.cells[CLASS] for row in rows):
        raise FmctError(f"{table}: its column class is empty; fill it or remove it")
    joined = Joined(rows, dataset, Pseudonymizer(key_file) if key_file else None, table)
    info = MaskInfo(classes=chosen.names, resampling=RESAMPLING, volumes_digest=dataset.content_digest())
    document = info.document()
    work = ShardWork(
        data, out, chosen, (root or table.parent).absolute(), key_file, preprocessing_digest(document)
    )
    origins = {"dataset": Origin.of(data, info.volumes_digest), "table": Origin.of(table, sha256(table))}
    with writing(out, "fmct masks"):
        claim(out, Subject(command="masks", sources=origins), ["dataset.json", TABLE])
        done = _each(work, _jobs(joined, dataset), len(joined.rows), workers, progress)
        refused = _refused(joined, done.values())
        kept = [name for name, of_shard in done.items() if of_shard.stored]
        _write_refused(out, refused)
        if not kept:
            reasons = ", ".join(f"{count} {reason}" for reason, count in _counts(refused).items())
            raise FmctError(
                f"{table}: all masks are rejected ({reasons}); {out / REFUSED} has the reason of each row"
            )
        _write_masks(out, done.values(), chosen)
        finish_dataset(out, dataset.info.format, kept, document)
    stored = [one for of_shard in done.values() for one in of_shard.stored]
    positive = {name: sum(one.ml[k] > 0 for one in stored) for k, name in enumerate(chosen.names)}
    return Summary(len(rows), len(stored), positive, _counts(refused))


def _jobs(joined: Joined, dataset: Dataset) -> list[Job]:
    """One job per shard with masks."""
    shards = dataset.index["shard"].to_pylist()
    by_shard: dict[str, dict[int, list[Row]]] = defaultdict(dict)
    for number, rows in joined.rows.items():
        by_shard[shards[number]][number] = rows
    jobs = []
    for name, volumes in sorted(by_shard.items()):
        own = {row.number for rows in volumes.values() for row in rows} & set(joined.objections)
        jobs.append(Job(name, volumes, {number: joined.objections[number] for number in own}))
    return jobs


def _each(
    work: ShardWork, jobs: list[Job], total: int, workers: int, progress: Callable[[int, int], None]
) -> dict[str, Done]:
    shards, volumes = {}, 0
    for name, done, count in unordered(work, jobs, workers):
        shards[name] = done
        volumes += count
        progress(volumes, total)
    return dict(sorted(shards.items()))


def _refused(joined: Joined, done: Iterable[Done]) -> list[tuple[int, Reason, str]]:
    """All rejected rows, once each, in the table's order."""
    refused = {row: (row, why.reason, why.detail) for row, why in joined.objections.items()}
    refused |= {row: (row, reason, detail) for of_shard in done for row, reason, detail in of_shard.refused}
    return [refused[row] for row in sorted(refused)]


def _counts(refused: Iterable[tuple[int, Reason, str]]) -> dict[Reason, int]:
    return dict(sorted(Counter(reason for _, reason, _ in refused).items()))


def _write_refused(out: Path, refused: list[tuple[int, Reason, str]]) -> None:
    """One row each, by its number in the table, without a key: the order may reveal patients."""
    schema = pa.schema([("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())])
    rows = [{"row": row, "reason": str(reason), "detail": detail} for row, reason, detail in refused]
    with atomic_path(out / REFUSED) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema), temporary)


def _write_masks(out: Path, done: Iterable[Done], classes: Classes) -> None:
    """One row per mask, sorted by key."""
    stored = sorted((one for of_shard in done for one in of_shard.stored), key=lambda one: one.key)
    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("key", "patient_key", "study_key")),
            ("files", pa.int32()),
            *((f"{name}_{what}", pa.float64()) for name in classes.names for what in ("ml", "mean_hu")),
        ]
    )
    rows = [
        {
            **one.model_dump(include={"key", "patient_key", "study_key", "files"}),
            **{f"{name}_ml": ml for name, ml in zip(classes.names, one.ml, strict=True)},
            **{f"{name}_mean_hu": hu for name, hu in zip(classes.names, one.mean_hu, strict=True)},
        }
        for one in stored
    ]
    with atomic_path(out / TABLE) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema), temporary)
