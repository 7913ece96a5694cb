"""The plan: the series of each task, and the digest that decides whether a task must be rerun.

One task makes one shard per format. Studies are assigned to 2^bits tasks by the leading bits of their
pseudonym: a new or changed study affects its own task only, volumes of a study stay together, and the order
in shards does not reveal the order of patients.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from preprocess.config import PreprocessConfig
from preprocess.dicom.catalog import Series, read_rows
from preprocess.privacy.deidentify import PSEUDONYM_DIGITS, Pseudonymizer
from preprocess.select.divided import rows_in_several_studies
from shards.atomic import atomic_path
from shards.closed import Closed
from shards.errors import FmctError
from shards.index import numbers
from shards.info import preprocessing_digest
from shards.lock import writing
from shards.names import Sha256
from shards.newer_version import newer_version_error, read_error
from shards.output_paths import require_file
from shards.schema import FORMAT_VERSION

log = logging.getLogger(__name__)

PROCESSING_VERSION = 13
"""Increase this when the same input and configuration give other outputs; all tasks are then rerun."""
MANIFEST, QUARANTINE, SUMMARY = "manifest.parquet", "quarantine.parquet", "summary.json"
"""Joint outputs of all tasks, in the output folder."""
BYTES_PER_PIXEL = 2
"""Bytes of a CT pixel (Bits Allocated 16, PS3.3 C.8.2.1.1.4)."""


class Task(Closed):
    """The series of one shard."""

    digest: Sha256
    """SHA-256 over the settings and every series' input digest."""
    rows: tuple[int, ...]
    """Row numbers in the catalog, ordered by study's and then series' pseudonym."""
    in_several_studies: tuple[int, ...] = ()
    """Those whose series has images in another study, which may be in another task."""


class Plan(Closed):
    """All tasks; the same catalog, configuration and key give the same plan."""

    settings: Sha256
    """Digest of the configuration, except settings that only flag volumes, and of versions."""
    tasks: tuple[Task, ...]
    key_fingerprint: str = ""
    """`Pseudonymizer.fingerprint` of its key; empty in plans of versions that did not record it."""

    @property
    def digest(self) -> str:
        """SHA-256 over the tasks' digests; it identifies the whole output."""
        return hashlib.sha256("".join(task.digest for task in self.tasks).encode()).hexdigest()


def plan(catalog: Path, out: Path, config: PreprocessConfig) -> int:
    """Divide the series of `catalog` into tasks and write out/tasks/plan.json; return the number of tasks.

    An identical existing plan is not rewritten. Raises FmctError if the catalog or key file cannot be used or
    would be overwritten by an output, if `out` is not writable, or if `out` has a plan of another key or of a
    newer version.
    """
    for name in (MANIFEST, QUARANTINE, SUMMARY):
        require_file(out / name, catalog, config.key_file)
    read_rows(catalog, [])  # raises if it is not a catalog
    names = Pseudonymizer(config.key_file)
    _require_same_key(out, names, config.key_file)
    planned = np.fromiter(_series(catalog, names, {*rows_in_several_studies(catalog)}), _PLANNED)
    if not planned.size:
        raise FmctError(f"{catalog}: no series in the catalog; scan another export")
    planned = planned[np.lexsort((planned["key"], planned["study_key"]))]
    bits = task_bits(int(planned["pixel_bytes"].sum()), config.output.shard_mib * 2**20)
    settings = _settings(out, config)
    tasks = tuple(_task(settings, part) for part in _parts(planned, bits))
    with writing(out, "fmct preprocess --plan"):
        _write(Plan(settings=settings, tasks=tasks, key_fingerprint=names.fingerprint), out)
    return len(tasks)


def _require_same_key(out: Path, names: Pseudonymizer, key_file: Path) -> None:
    """Raise FmctError if `out` was made with another key: all pseudonyms would change."""
    try:
        made_with = Plan.model_validate_json(_path(out).read_bytes()).key_fingerprint
    except (FileNotFoundError, ValidationError):
        return
    if made_with not in ("", names.fingerprint):
        raise FmctError(f"{out}: was made with another key than {key_file}; give that key, or a new folder")


def read_plan(out: Path) -> Plan:
    """The plan in `out`; FmctError if it is missing or cannot be read."""
    try:
        return Plan.model_validate_json(_path(out).read_bytes())
    except FileNotFoundError:
        raise FmctError(f"{_path(out)}: no plan yet; make it with `fmct preprocess --plan`") from None
    except ValidationError as error:
        raise read_error(
            _path(out), error, "not a plan of this version; run `fmct preprocess --plan`"
        ) from None


def read_current_plan(out: Path, config: PreprocessConfig) -> Plan:
    """The plan in `out`; FmctError also if it was made with another configuration."""
    stored = read_plan(out)
    if stored.settings not in settings_records(config):
        raise FmctError(
            f"{_path(out)}: made with another configuration; run `fmct preprocess --plan` with this one"
        )
    return stored


def kept_record(stored: Plan, config: PreprocessConfig) -> dict[str, Any]:
    """The record of `config` that is stored beside the plan's volumes and covered by their digest."""
    return settings_records(config)[stored.settings]


def _settings(out: Path, config: PreprocessConfig) -> str:
    """The settings digest of the existing plan if made with this configuration, else the current one."""
    settings = list(settings_records(config))
    try:
        there = Plan.model_validate_json(_path(out).read_bytes()).settings
    except FileNotFoundError:
        return settings[0]
    except ValidationError as error:
        if refusal := newer_version_error(_path(out), error):
            raise refusal from None
        return settings[0]  # a damaged plan is replaced
    return there if there in settings else settings[0]


def settings_records(config: PreprocessConfig) -> dict[str, dict[str, Any]]:
    """Valid settings digests of a plan, each with the record stored beside the volumes; current one first.

    The settings digest is the SHA-256 of everything besides the input that affects a task's files:
    configuration and versions. In 0.1.0 it also covered settings that only flag volumes; outputs started that
    way are continued that way. If no such setting is changed, the two are equal.
    """
    everything, shaping = config.everything(), config.shaping()
    beside = [] if everything["privacy"] == shaping["privacy"] else [everything["privacy"]]
    records: dict[str, dict[str, Any]] = {}
    for kept, more in ((shaping, beside), (everything, [])):
        parts = [preprocessing_digest(kept), config.output.formats, FORMAT_VERSION, PROCESSING_VERSION, *more]
        records.setdefault(hashlib.sha256(json.dumps(parts).encode()).hexdigest(), kept)
    return records


def task_digest(settings: str, series: list[str]) -> str:
    """SHA-256 of a task, from the plan's settings digest and its series' input digests."""
    return hashlib.sha256("".join([settings, *series]).encode()).hexdigest()


def input_digest(names: Pseudonymizer, series: Series, in_several_studies: bool) -> str:
    """The input digest of a series, equal to the one that the plan computes from the catalog's columns."""
    return _input_digest(
        names,
        names.series(series.patient_id, series.study_uid, series.series_uid),
        [i.sop_uid for i in series.instances],
        np.array([i.size for i in series.instances], np.int64),
        np.array([i.mtime_ns for i in series.instances], np.int64),
        in_several_studies,
    )


def _input_digest(
    names: Pseudonymizer,
    key: str,
    sop_uids: list[str],
    sizes: np.ndarray,
    mtimes: np.ndarray,
    in_several_studies: bool,
) -> str:
    """Keyed, so that it cannot confirm a guessed UID."""
    kind = "input in several studies" if in_several_studies else "input"
    return names.keyed(kind, key, *sop_uids, sizes.tobytes().hex(), mtimes.tobytes().hex())


_DIGITS = f"S{PSEUDONYM_DIGITS}"
_PLANNED = np.dtype(
    [
        *(("study_key", _DIGITS), ("key", _DIGITS), ("row", "i8"), ("digest", _DIGITS)),
        *(("pixel_bytes", "i8"), ("in_several_studies", "?")),
    ]
)
"""The plan's facts about one series: 113 bytes, an eighth of the same Python objects."""
_LEADING = 12
"""Digits of a study's pseudonym that choose its task: enough for 2^48 tasks."""


def _parts(planned: np.ndarray, bits: int) -> list[np.ndarray]:
    """Sorted `_PLANNED` series by the leading bits of their studies: 2^bits parts, which may be empty."""
    leading = [int(study, 16) for study in planned["study_key"].astype(f"S{_LEADING}").tolist()]
    task = np.array(leading) >> (4 * _LEADING - bits)
    return np.split(planned, np.searchsorted(task, np.arange(1, 2**bits)))


def _task(settings: str, series: np.ndarray) -> Task:
    """The task of `_PLANNED` series."""
    digests = series["digest"].astype("U").tolist()
    return Task(
        digest=task_digest(settings, digests),
        rows=tuple(series["row"].tolist()),
        in_several_studies=tuple(series["row"][series["in_several_studies"]].tolist()),
    )


_COLUMNS = ["patient_id", "study_uid", "series_uid"]
_INSTANCE_COLUMNS = ["sop_uid", "size", "mtime_ns", "rows", "columns"]


_BATCH = 1024
"""Series that are in memory at a time: few enough for the processor's cache, which saves a fifth."""


def _series(
    catalog: Path, names: Pseudonymizer, in_several_studies: Set[int]
) -> Iterator[tuple[str, str, int, str, int, bool]]:
    """All series as `_PLANNED`, by columns and in batches: archives have millions of instances.

    in_several_studies: rows of such series.
    """
    columns = [*_COLUMNS, *(f"instances.list.element.{name}" for name in _INSTANCE_COLUMNS)]
    row = nameless = 0
    for batch in pq.ParquetFile(catalog).iter_batches(_BATCH, columns=columns):
        instances = batch["instances"]
        offsets = numbers(instances.offsets)
        sop_uids, sizes, mtimes, pixels = _instance_columns(instances.values)
        for number, (patient, study, uid) in enumerate(
            zip(*(batch[name].to_pylist() for name in _COLUMNS), strict=True)
        ):
            part = slice(offsets[number], offsets[number + 1])
            key = names.series(patient, study, uid)
            several = row in in_several_studies
            digest = _input_digest(names, key, sop_uids[part], sizes[part], mtimes[part], several)
            yield names.study(study), key, row, digest, BYTES_PER_PIXEL * int(pixels[part].sum()), several
            row += 1
            nameless += not patient
    if nameless:
        log.warning("%d series have no Patient ID: each of their studies counts as one patient", nameless)


def _instance_columns(values: pa.StructArray) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """SOP Instance UIDs, sizes, mtimes and pixel counts of a batch's instances."""
    rows, columns = (numbers(values.field(name).fill_null(0)) for name in ("rows", "columns"))
    sizes, mtimes = (numbers(values.field(name)) for name in ("size", "mtime_ns"))
    return values.field("sop_uid").to_pylist(), sizes, mtimes, rows * columns


def task_bits(total: int, target: int) -> int:
    """log2 of the number of tasks whose mean size is nearest to `target` bytes.

    The power of two changes only when the archive doubles, so that growth moves few studies.
    """
    return max(0, round(math.log2(max(total, 1) / target)))


def _path(out: Path) -> Path:
    return out / "tasks" / "plan.json"


def _write(new: Plan, out: Path) -> None:
    text = new.model_dump_json(exclude_defaults=True)
    path = _path(out)
    if path.is_file() and path.read_text() == text:
        return
    with atomic_path(path, 0o600) as temporary:  # the catalog's row numbers follow the order of patients
        temporary.write_text(text)
