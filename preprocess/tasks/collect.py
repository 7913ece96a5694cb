"""Joining the tasks' outputs: finished datasets, manifest, quarantine, QC, summary."""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from heapq import nsmallest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from preprocess.config import PreprocessConfig
from preprocess.qc import pictures, sketches
from preprocess.qc.montage import MONTAGE_VOLUMES, montage
from preprocess.qc.report import write_report
from preprocess.qc.stored import Thumbnails, stored_thumbnails
from preprocess.reasons import Reason
from preprocess.select.unmatched import UnmatchedTexts
from preprocess.tasks import ledger, manifest, quarantine
from preprocess.tasks.ledger import TaskFiles, TaskResult
from preprocess.tasks.plan import MANIFEST, QUARANTINE, SUMMARY, Plan, kept_record, read_current_plan
from preprocess.tasks.same_scan import with_same_scans
from shards import Dataset, finish_dataset, index
from shards.atomic import write_text
from shards.closed import Closed
from shards.errors import FmctError, RefusedError
from shards.format_names import ShardFormat
from shards.info import require_preprocessing
from shards.lock import writing

log = logging.getLogger(__name__)


class Summary(Closed):
    """Totals of the export: summary.json."""

    digest: str
    """The plan's digest, extended by limits for flags that the plan's digest does not cover."""
    tasks: int
    series: int
    volumes: int
    patients: int
    studies: int
    rejected_series: int
    joined_series: int
    """Series that are part of another series' volume (preprocess.select.join)."""
    rejected_by_reason: dict[str, int]
    dropped_slices_by_reason: dict[str, int]
    """Slices left out of the volumes."""
    flagged_volumes: int
    flagged_by_reason: dict[str, int]
    """Volumes by finding of the checks; a volume may have several."""
    alike_pairs: int = 0
    """Pairs of volumes of different patients that show the same head by their sketches: qc/alike.csv."""
    source_bytes: int
    """Size of the files of the volumes."""
    stored_bytes: dict[ShardFormat, int]
    worker_seconds: float
    """Sum over the tasks; divide by the number of workers for the elapsed time."""
    source_mb_per_worker_second: float

    def __str__(self) -> str:
        reasons = ", ".join(f"{n} {reason}" for reason, n in self.rejected_by_reason.items()) or "none"
        speed = f"{self.source_mb_per_worker_second:.1f} MB/s per worker"
        volumes = f"{self.volumes} volumes of {self.patients} patients ({self.flagged_volumes} flagged)"
        twice = self.flagged_by_reason.get(Reason.SAME_SCAN)
        shared = f"; {twice} volumes are scans that several patients share" if twice else ""
        alike = self.alike_pairs
        shared += f"; {alike} pairs of volumes seem to show one head under two patients" if alike else ""
        return f"{volumes} at {speed}; rejected series: {reasons}{shared}"


def collect(out: Path, config: PreprocessConfig) -> Summary:
    """Join the tasks of the plan in `out` once all are done; does nothing if they are already joined.

    Writes one dataset per format, manifest.parquet, quarantine.parquet, qc/montage.png, qc/alike.csv,
    qc/report.html and, last, summary.json; then removes files of earlier plans and killed processes.

    Raises FmctError if tasks are missing, or if no series became a volume.
    """
    plan = read_current_plan(out, config)
    tasks = ledger.ledger(out, plan)
    digest, record = _digest(plan, config), kept_record(plan, config)
    with writing(out, "fmct preprocess --collect"):
        results = tasks.collect(partial(_incomplete, out, len(tasks.units)))
        summary = _collected(out, config, digest)
        if not summary:
            summary = _join(out, config, digest, record, tasks.units, results)
        _remove_stale(out, config, {place.stem for place in tasks.units})
    return summary


def _digest(plan: Plan, config: PreprocessConfig) -> str:
    record, everything = kept_record(plan, config)["check"], config.everything()["check"]
    if record == everything:
        return plan.digest
    return hashlib.sha256(f"{plan.digest}{json.dumps(everything)}".encode()).hexdigest()


def _incomplete(out: Path, tasks: int, missing: list[int]) -> FmctError:
    return FmctError(
        f"{out}: {len(missing)} of {tasks} tasks are not done, first {missing[0]}; "
        f"rerun `fmct preprocess`, or run `fmct preprocess --task {missing[0]}` and so on"
    )


def _collected(out: Path, config: PreprocessConfig, digest: str) -> Summary | None:
    """The summary in `out` if it is of this plan and all its files are present and undamaged."""
    try:
        summary = Summary.model_validate_json(_summary_path(out).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    outputs = [_manifest_path(out), _quarantine_path(out), _montage_path(out), _report_path(out)]
    whole = (
        summary.digest == digest
        and all(path.is_file() for path in outputs)
        and all(_is_whole(out / format) for format in config.output.formats)
    )
    return summary if whole else None


def _is_whole(dataset: Path) -> bool:
    """Whether the dataset is present and undamaged; RefusedError if the system cannot read it."""
    try:
        require_preprocessing(dataset, Dataset.open(dataset).info.config_digest)
    except RefusedError:
        raise
    except FmctError:
        return False
    return True


def _join(
    out: Path,
    config: PreprocessConfig,
    digest: str,
    record: dict[str, Any],
    places: Sequence[TaskFiles],
    results: list[TaskResult],
) -> Summary:
    rejected = pa.concat_tables(pq.read_table(place.quarantine) for place in places)
    quarantine.write(rejected, _quarantine_path(out))
    rejections = Counter(rejected["reason"].to_pylist())
    series = sum(result.series for result in results)
    if not any(result.volumes for result in results):
        reasons = ", ".join(f"{n} {reason}" for reason, n in rejections.most_common())
        raise FmctError(
            f"{out}: none of {series} series became a volume ({reasons}); "
            f"see {_quarantine_path(out)} and the `select` section of the configuration"
        )
    volumes = index.merge(pq.read_table(place.manifest) for place in places)
    volumes = with_same_scans(manifest.marked(volumes, config.check, config.select.profile))
    manifest.write(volumes, _manifest_path(out))
    names = [place.shard for place, result in zip(places, results, strict=True) if result.volumes]
    infos = {format: finish_dataset(out / format, format, names, record) for format in config.output.formats}
    pairs = sketches.pairs_of((place.sketches for place in places), volumes)
    sketches.write_pairs(pairs, out / "qc" / "alike.csv")
    seconds = sum(result.seconds for result in results)
    flags = [flags for flags in volumes["flags"].to_pylist() if flags]
    source_bytes = sum(result.source_bytes for result in results)
    summary = Summary(
        digest=digest,
        tasks=len(places),
        series=series,
        volumes=len(volumes),
        patients=len(volumes["patient_key"].unique()),
        studies=len(volumes["study_key"].unique()),
        rejected_series=len(rejected),
        joined_series=series - len(volumes) - len(rejected),
        rejected_by_reason=dict(sorted(rejections.items())),
        dropped_slices_by_reason=dict(
            sorted(sum((Counter(result.dropped_slices) for result in results), Counter()).items())
        ),
        flagged_volumes=len(flags),
        flagged_by_reason=dict(sorted(Counter(flag for one in flags for flag in one).items())),
        alike_pairs=len(pairs),
        source_bytes=source_bytes,
        stored_bytes={format: info.bytes for format, info in infos.items()},
        worker_seconds=round(seconds, 3),
        source_mb_per_worker_second=round(source_bytes / 1e6 / seconds, 3),
    )
    # From the finished dataset, so that they show the stored voxels.
    with stored_thumbnails(out / config.output.formats[0], config.select.profile.window_hu) as thumbnails:
        _write_montage(volumes["key"].to_pylist(), thumbnails, _montage_path(out))
        write_report(
            _report_path(out),
            thumbnails,
            volumes,
            rejected,
            pairs,
            (picture for place in places for picture in pictures.read(place.pictures)),
            config.check,
            sum((result.not_understood for result in results), UnmatchedTexts()),
            {
                "volumes": summary.volumes,
                "flagged volumes": summary.flagged_volumes,
                "patients": summary.patients,
                "studies": summary.studies,
                "series in the catalog": summary.series,
                "series rejected": summary.rejected_series,
                "series joined to another one's volume": summary.joined_series,
                "spacing (D, H, W), mm": "{:g}, {:g}, {:g}".format(*config.grid.spacing_mm),
            },
        )
    write_text(_summary_path(out), summary.model_dump_json(indent=1) + "\n")
    return summary


def _write_montage(keys: Sequence[str], thumbnails: Thumbnails, path: Path) -> None:
    """Of many volumes, those of the least keys."""
    chosen = nsmallest(MONTAGE_VOLUMES, keys)
    montage(list(zip(chosen, thumbnails(chosen), strict=True)), path)


_TASK_FILE = re.compile(r"(?:shard-)?(\d{5,}-[0-9a-f]{8})\..+")
_TEMPORARY = re.compile(r"\..+\.(?:[0-9a-f]+\.tmp|lock)")


def _remove_stale(out: Path, config: PreprocessConfig, stems: set[str]) -> None:
    """Remove files of tasks that are not in the plan, and of processes that died."""
    directories = [out, out / "tasks", out / "qc", *(out / format for format in config.output.formats)]
    for directory in directories:
        for path in directory.iterdir():
            task = _TASK_FILE.fullmatch(path.name)
            if (task and task[1] not in stems) or _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
                log.info("removed %s, of an earlier plan or an unfinished run", path.name)


def _manifest_path(out: Path) -> Path:
    return out / MANIFEST


def _quarantine_path(out: Path) -> Path:
    return out / QUARANTINE


def _montage_path(out: Path) -> Path:
    return out / "qc" / "montage.png"


def _report_path(out: Path) -> Path:
    return out / "qc" / "report.html"


def _summary_path(out: Path) -> Path:
    return out / SUMMARY
