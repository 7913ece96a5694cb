"""One task: makes its series into volumes in one shard per format, or rows of the quarantine."""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.build.finish import make_volume
from preprocess.build.result import BuildResult
from preprocess.build.study import StudyBuilder
from preprocess.config import PreprocessConfig
from preprocess.dicom.catalog import Series, read_rows
from preprocess.dicom.equipment import scanner
from preprocess.privacy.deidentify import Pseudonymizer, shifted_date
from preprocess.privacy.keys import Keys
from preprocess.qc import pictures, sketches
from preprocess.qc.pictures import Picture
from preprocess.qc.similar import sketch
from preprocess.reasons import Reason
from preprocess.select.candidate import Candidate
from preprocess.select.divided import in_several_studies, several_patients
from preprocess.select.outcome import Outcome
from preprocess.select.study import select_study, studies
from preprocess.select.unmatched import UnmatchedTexts
from preprocess.tasks import ledger, manifest, quarantine
from preprocess.tasks.ledger import TaskFiles, TaskResult
from preprocess.tasks.plan import Plan, Task, input_digest, kept_record, read_current_plan, task_digest
from preprocess.tasks.quarantine import Entry
from preprocess.volume.build import Volume
from shards.errors import FmctError, UnavailableError, refusal_kind
from shards.index import read_sidecar, sidecar_path
from shards.info import preprocessing_digest
from shards.ledger import once
from shards.lock import writing
from shards.schema import VolumeRecord
from shards.voxels import crc32
from shards.writer import ShardWriter

log = logging.getLogger(__name__)

RESCAN = "mount the export, or run `fmct scan` and `fmct preprocess` again"


def run_task(catalog: Path, out: Path, index: int, config: PreprocessConfig) -> TaskResult:
    """Run task `index` of the plan in `out` unless it is done.

    Writes its shards, its part of manifest and quarantine, and its marker last. A series that fails goes to
    the quarantine and does not affect other series.

    Raises FmctError, and writes no marker, if the plan is missing or of another configuration, the catalog is
    not the plan's, source files changed since the scan or cannot be read, the disk is full or memory is
    short.
    """
    plan = read_current_plan(out, config)
    if not 0 <= index < len(plan.tasks):
        raise FmctError(f"--task {index}: the plan has tasks 0 to {len(plan.tasks) - 1}")
    task = plan.tasks[index]
    place = ledger.files(out, index, task)
    with writing(out, "fmct preprocess", shared=True):
        return once(
            place.marker,
            f"task {index}",
            lambda: ledger.result(place),
            lambda: _run(catalog, place, task, plan, config),
        )


def _run(catalog: Path, place: TaskFiles, task: Task, plan: Plan, config: PreprocessConfig) -> TaskResult:
    start = time.monotonic()
    names = Pseudonymizer(config.key_file)
    config_digest = preprocessing_digest(kept_record(plan, config))
    series = _read_series(catalog, task, plan.settings, names)
    made = _Made()
    with _machine_failures(place.out, place.index):
        with ExitStack() as writers:
            shards = _Shards(place, names, config, config_digest, made, writers)
            # All patients' series of a study are in one task; other studies may be in others.
            by_row = dict(zip(task.rows, series, strict=True))
            parts = [by_row[row] for row in task.in_several_studies]
            refused = {one.key: in_several_studies(one) for one in parts} | several_patients(series)
            for study in studies(series):
                selection = select_study(study, config.select, refused)
                builder = StudyBuilder(selection, config.select.keep, shards.make)
                for candidate, volume in builder:
                    shards.add(candidate, volume)
                    del volume  # otherwise two volumes are in memory
                outcomes = builder.outcomes()
                made.rejected += _rejections(outcomes, names)
                made.not_understood += UnmatchedTexts.of(outcomes, config.select.lexicon)
        quarantine.write(quarantine.table(made.rejected), place.quarantine)
        manifest.write(manifest.table(made.volumes), place.manifest)
        pictures.write(made.pictures, place.pictures)
        sketches.write(made.sketches, place.sketches)
        result = _result(made, place, config, len(series), time.monotonic() - start)
        ledger.mark(place, result)
    return result


@contextmanager
def _machine_failures(out: Path, index: int) -> Iterator[None]:
    """Raise a one-line error for a full or failing disk or a lack of memory."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno or 0).lower()
        raise refusal_kind(error)(
            f"{out}: task {index} failed ({why}): fix that and rerun the same command, which keeps what "
            "is done"
        ) from error
    except MemoryError as error:
        raise UnavailableError(
            f"{out}: task {index} ran out of memory: rerun the same command with fewer `workers`"
        ) from error


@dataclass
class _Made:
    """Results of the series so far."""

    volumes: list[dict[str, Any]] = field(default_factory=list)
    """Manifest rows."""
    rejected: list[Entry] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    sketches: dict[str, np.ndarray] = field(default_factory=dict)
    """Sketches by volume key."""
    dropped: Counter[Reason] = field(default_factory=Counter)
    not_understood: UnmatchedTexts = field(default_factory=UnmatchedTexts)
    source_bytes: int = 0


def _read_series(catalog: Path, task: Task, settings: str, names: Pseudonymizer) -> list[Series]:
    series = read_rows(catalog, task.rows)
    several = [row in task.in_several_studies for row in task.rows]
    digests = [input_digest(names, one, its) for one, its in zip(series, several, strict=True)]
    if task_digest(settings, digests) != task.digest:
        raise FmctError(
            f"{catalog}: the catalog or the key changed after the plan; run `fmct preprocess --plan`"
        )
    return series


class _Shards:
    """Makes volumes from candidates and adds them to the shards, which are opened for the first one."""

    def __init__(
        self,
        place: TaskFiles,
        names: Pseudonymizer,
        config: PreprocessConfig,
        config_digest: str,
        made: _Made,
        stack: ExitStack,
    ) -> None:
        self._place, self._names, self._config, self._made, self._stack = place, names, config, made, stack
        self._config_digest = config_digest
        self._writers: list[ShardWriter] = []
        self._kept: Counter[tuple[str, str]] = Counter()
        """Number of volumes so far by study and patient; the best one is first."""

    def make(self, candidate: Candidate, whole: bool) -> BuildResult:
        """See `make_volume`; FmctError if a file changed since the scan."""
        key = Keys.of(candidate.series, self._names).key
        for source in candidate.sources:
            require_unchanged(source, key)
        return make_volume(candidate, whole, self._config, f"series {key}")

    def add(self, candidate: Candidate, made: BuildResult) -> None:
        """Write the volume, or keep an image of one that the checks rejected."""
        keys = Keys.of(candidate.series, self._names)
        self._made.pictures += _pictures(made, keys.key, self._config, len(self._made.pictures))
        volume = made.volume
        if volume is None or made.rejection:
            return
        if not self._writers:
            for format in self._config.output.formats:
                writer = ShardWriter(self._place.out / format, self._place.shard, format)
                self._writers.append(self._stack.enter_context(writer))
        record = _record(volume, keys, self._config.grid.spacing_mm, self._config_digest)
        if self._config.select.keep == "all":
            of_study = (keys.study_key, keys.patient_key)
            place = {"role": candidate.role, "rank": self._kept[of_study]}
            record = record.model_copy(update=place)
            self._kept[of_study] += 1
        for writer in self._writers:
            writer.add(record, volume.voxels)
        if self._config.select.profile.alike:
            self._made.sketches[keys.key] = sketch(volume.voxels, self._config.grid.spacing_mm)
        dropped = Counter(dict(volume.dropped))
        if candidate.parts:  # the joined series no longer contains the left-out slices
            dropped += candidate.selected.dropped
        joined = [
            manifest.JoinedPart(Keys.of(part.series, self._names).key, part.slices, part.low_mm, part.high_mm)
            for part in candidate.parts
        ]
        origin = _scanner(candidate.series)
        self._made.volumes.append(
            manifest.row(
                record,
                self._place.shard,
                origin,
                _shifted_date(candidate.series, self._names, self._config),
                dropped,
                joined,
                volume.flags,
                volume.measures,
            )
        )
        self._made.dropped.update(dropped)
        self._made.source_bytes += sum(source.bytes for source in candidate.sources)


def _pictures(made: BuildResult, key: str, config: PreprocessConfig, so_far: int) -> list[Picture]:
    """Images of data that is not stored: a volume that the checks reject, or a face; so_far: images kept."""
    spacing, window = config.grid.spacing_mm, config.select.profile.window_hu
    if not made.volume:
        return []
    if made.failed_checks and not config.privacy.deface:  # it may have no brain for defacing
        return [pictures.of(key, "rejected", str(made.rejection), made.volume.voxels, spacing, window)]
    show = config.privacy.show_defacing and so_far < 2 * pictures.PER_TASK
    if made.with_face is None or not show:
        return []
    return pictures.before_and_after(key, made.with_face, made.volume.voxels, spacing, window)


def _rejections(outcomes: list[Outcome], names: Pseudonymizer) -> list[Entry]:
    """Rows for the series of a study that did not become volumes."""
    entries = []
    for outcome in outcomes:
        if outcome.rejection:
            keys = Keys.of(outcome.series, names)
            reason, detail = outcome.rejection.reason, outcome.rejection.detail
            if outcome.chosen:
                detail = f"{Keys.of(outcome.chosen.series, names).key} was chosen: {detail}"
            origin = _scanner(outcome.series)
            entries.append(
                Entry(keys.key, keys.patient_key, keys.study_key, origin, reason, outcome.stage, detail)
            )
    return entries


def _shifted_date(series: Series, names: Pseudonymizer, config: PreprocessConfig) -> date | None:
    max_days = config.privacy.date_shift_days
    if max_days is None:
        return None
    return shifted_date(
        series.texts.study_date, names.date_shift(series.patient_id, series.study_uid, max_days)
    )


def _scanner(series: Series) -> str:
    return scanner(series.texts.manufacturer, series.texts.model)


def require_unchanged(series: Series, key: str) -> None:
    """Raise FmctError unless every file is unchanged since the scan, the source of geometry and digests."""
    for source in {i.path: i.source for i in series.instances}.values():
        try:
            unchanged = source.is_unchanged()
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise FmctError(f"series {key}: a file cannot be read ({why}); {RESCAN}") from None
        if not unchanged:
            raise FmctError(f"series {key}: a file changed since the scan; {RESCAN}")


def _record(
    volume: Volume, keys: Keys, spacing_mm: tuple[float, float, float], config_digest: str
) -> VolumeRecord:
    depth, height, width = volume.voxels.shape
    return VolumeRecord(
        key=keys.key,
        patient_key=keys.patient_key,
        study_key=keys.study_key,
        shape=(depth, height, width),
        spacing_mm=spacing_mm,
        affine=tuple(volume.affine.ravel().tolist()),
        crc32=crc32(volume.voxels),
        source_digest=volume.source_digest,
        config_digest=config_digest,
        facts=volume.facts,
    )


def _result(
    made: _Made, place: TaskFiles, config: PreprocessConfig, series: int, seconds: float
) -> TaskResult:
    formats = config.output.formats if made.volumes else ()
    return TaskResult(
        digest=place.digest,
        series=series,
        volumes=len(made.volumes),
        rejected=dict(sorted(Counter(entry.reason for entry in made.rejected).items())),
        dropped_slices=dict(sorted(made.dropped.items())),
        source_bytes=made.source_bytes,
        seconds=seconds,
        not_understood=made.not_understood,
        shards={f: read_sidecar(sidecar_path(place.out / f, place.shard), f)[1] for f in formats},
    )
